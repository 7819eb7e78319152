"""The types of the facts of artifacts, where other modules read them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import ConfigDict, Field, with_config
from typing_extensions import TypedDict

from pipeline.store.reading import Malformed, checked


@with_config(ConfigDict(extra="allow"))
class ScoreFacts(TypedDict, total=False):
    """See `tasks.evaluation.score.Score`, and what a prediction costs.

    acts_on: of the answers, in percent, those that the bare model would not have given, of models
    that draw nothing; abstained: those that are none, of defenses that may abstain.
    """

    images: int
    redraws: int
    accuracy: float
    interval: Annotated[list[float], Field(min_length=2, max_length=2)]
    spread: float | None
    right_in_every_redraw: float
    true_probability: float
    forwards_per_prediction: float
    backwards_per_prediction: float
    seconds_per_prediction: float
    acts_on: float
    abstained: float


@with_config(ConfigDict(extra="allow"))
class Timings(TypedDict, total=False):
    """Of each epoch of a training."""

    seconds: list[float]
    images_per_second: list[float]


@with_config(ConfigDict(extra="allow"))
class TrainFacts(TypedDict, total=False):
    """Of a training."""

    epochs: int
    timings: Timings
    multiplications: int


@with_config(ConfigDict(extra="allow"))
class DatasetFacts(TypedDict, total=False):
    """Of a data set."""

    train_images: int
    test_images: int
    test_images_by_class: list[int]


@with_config(ConfigDict(extra="allow"))
class FindingFacts(TypedDict):
    """See `tasks.integrity.findings.Finding`."""

    check: str
    verdict: str
    words: str


@with_config(ConfigDict(extra="allow"))
class CardFacts(TypedDict, total=False):
    """Of an integrity card."""

    verdict: str
    findings: list[FindingFacts]
    images: int


@with_config(ConfigDict(extra="allow"))
class ExampleFacts(TypedDict, total=False):
    """Of what was crafted, selected, asked about or is shown."""

    images: int
    redraws: int
    largest_change: float
    acted_on_answers: int


FACTS: Mapping[str, type[Any]] = {
    "dataset": DatasetFacts,
    "train": TrainFacts,
    "checkpoint": TrainFacts,
    "ensemble": TrainFacts,
    "craft": ExampleFacts,
    "select": ExampleFacts,
    "defend": ExampleFacts,
    "score": ScoreFacts,
    "card": CardFacts,
    "exhibit": ExampleFacts,
}
"""By the kind of artifact."""


def check_facts(kind: str, facts: Mapping[str, object]) -> None:
    """Spoilt where a fact of an artifact of this kind has not its type."""
    if kind in FACTS:
        try:
            checked(facts, FACTS[kind])
        except Malformed as malformed:
            raise Malformed(f"facts.{malformed}") from None

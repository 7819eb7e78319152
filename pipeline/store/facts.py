"""Types of the facts in artifact records, as far as other modules read them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import ConfigDict, Field, with_config
from typing_extensions import TypedDict

from pipeline.store.reading import Malformed, checked


@with_config(ConfigDict(extra="allow"))
class ScoreFacts(TypedDict, total=False):
    """Facts of a score, see `tasks.evaluation.score.Score`, and the cost of a prediction.

    acts_on: percentage of answers that differ from the bare model's, for models without randomness;
    abstained: percentage of abstentions, for defenses that may abstain.
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
    """Timings of each epoch of a training."""

    seconds: list[float]
    images_per_second: list[float]


@with_config(ConfigDict(extra="allow"))
class TrainFacts(TypedDict, total=False):
    """Facts of a training."""

    epochs: int
    timings: Timings
    multiplications: int


@with_config(ConfigDict(extra="allow"))
class DatasetFacts(TypedDict, total=False):
    """Facts of a data set."""

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
    """Facts of an integrity card."""

    verdict: str
    findings: list[FindingFacts]
    images: int


@with_config(ConfigDict(extra="allow"))
class ExampleFacts(TypedDict, total=False):
    """Facts of craft, select, defend and exhibit artifacts."""

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
"""Type of the facts, by kind of artifact."""


def check_facts(kind: str, facts: Mapping[str, object]) -> None:
    """Raise Malformed if a fact of an artifact of this kind has the wrong type."""
    if kind in FACTS:
        try:
            checked(facts, FACTS[kind])
        except Malformed as malformed:
            raise Malformed(f"facts.{malformed}") from None

"""Specs of the nodes after a model. They do not import torch, since planning reads them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, ClassVar, Self

from pydantic import Field, SerializeAsAny, model_validator

from tasks.attacks.base import Attack
from tasks.defenses.base import Defense, GradientRule, passes_gradients
from tasks.specs import Count, NonNegative, Norm, Positive, Precision, Shard, Spec


class ModelSpec(Spec):
    """A spec of what queries or attacks a model, bare or defended."""

    @property
    def known_defense(self) -> Defense | None:
        """The defense in front of the model; None if none is named."""
        raise NotImplementedError(f"{type(self).__name__} does not define known_defense")


class CraftSpec(ModelSpec):
    """The examples that an attack makes of one shard of the test set.

    A candidate of a cascade has the selection before it as its parent `standing`, and is made only
    of the shard's images that no earlier candidate broke.
    """

    version: ClassVar[int] = 2
    changes: ClassVar[Mapping[int, str]] = {
        2: "the surrogate of a defense breaks ties between points, and Square queries the defense"
    }
    unset_is_left_out: ClassVar[frozenset[str]] = frozenset(
        {"against", "draws", "smoothing", "rule", "inner_steps", "relu_width", "window"}
    )
    attack: SerializeAsAny[Attack]
    shard: Shard
    seed: int
    """Seed of the attack's random starts, targets and draws."""
    precision: Precision
    """Arithmetic of the classifier."""
    against: SerializeAsAny[Defense] | None = None
    """The defense that the attack knows; None for an oblivious attack, made on the bare model."""
    draws: Count | None = None
    """Draws of the defense at each step (EOT)."""
    smoothing: Positive | None = None
    """See `tasks.defenses.base.Context`, as for `rule` and `relu_width`. These fields and
    `inner_steps` concern only gradients; points are compared by the whole defense."""
    rule: GradientRule | None = None
    """Gradient rule; None for the first that the defense declares."""
    inner_steps: Count | None = None
    """Differentiate a copy of the defense with at most so many steps of its inner optimiser."""
    relu_width: Positive | None = None
    window: Count | None = None
    """How many queries in a row a search without gradients makes on the same draws; unset, each
    query draws afresh. Of no effect on a deterministic model, where it is unset."""

    @property
    def known_defense(self) -> Defense | None:
        """See `ModelSpec`."""
        return self.against

    @property
    def twice(self) -> bool:
        """Whether the attack differentiates a gradient of the network."""
        if self.against is None:
            return False
        rule = self.rule or self.against.gradients()[0]
        return self.smoothing is not None or rule == "unrolled"

    def results_version(self) -> int:
        """See `Spec.results_version`: version 2 changed only attacks on a surrogate."""
        return 1 if self.against is None or passes_gradients(self.against) else 2

    @model_validator(mode="after")
    def _draws_of_a_defense(self) -> Self:
        known = self.draws is not None
        passing = self.smoothing or self.rule or self.inner_steps or self.relu_width or self.window
        if known != (self.against is not None) or (passing and not known):
            raise ValueError(
                "draws, and how gradients pass, belong to the defense that is attacked"
            )
        return self


class SelectSpec(ModelSpec):
    """For each image of a shard, the candidate on which the defended model fails most often.

    Its parents are candidates and, as `before`, the selection that they are added to.
    """

    version: ClassVar[int] = 2
    changes: ClassVar[Mapping[int, str]] = {
        2: "each candidate is crafted only for images that no earlier candidate broke"
    }
    against: SerializeAsAny[Defense]
    """The defense that decides."""
    shard: Shard
    seed: int
    """Seed of the draws."""
    draws: Count = 20
    """Single draws of the defense, each drawing everything anew, on which a candidate is tried."""
    predictions: Annotated[int, Field(ge=0, le=10**6)] = 1
    """Whole predictions of a randomised defense on which a candidate is tried; each counts as one
    draw."""
    margin: NonNegative | None = None
    """An image is done if, on each of these, its true class is less probable than the predicted one
    by at least this (in probability); None if no image is ever done."""
    precision: Precision = "float32"

    @property
    def known_defense(self) -> Defense | None:
        """See `ModelSpec`."""
        return self.against


class DefendSpec(ModelSpec):
    """A defended model's predictions for one shard of examples."""

    version: ClassVar[int] = 1
    defense: SerializeAsAny[Defense]
    shard: Shard
    seed: int
    """Seed of the draws."""
    redraws: Count = 1
    """How many times the whole prediction is made, each with its own draws; a deterministic defense
    needs one."""
    precision: Precision = "float32"

    @property
    def known_defense(self) -> Defense | None:
        """See `ModelSpec`."""
        return self.defense


class ExhibitSpec(ModelSpec):
    """Images before and after an attack and a defense; see `tasks.evaluation.exhibit`.

    Its parents are the examples of each shard and their predictions by the bare and the defended
    model.
    """

    version: ClassVar[int] = 1
    defense: SerializeAsAny[Defense]
    classes: Count = 10
    """How many of the data set's classes to show, from the first."""
    seed: int
    """Seed of the defense's draws."""
    precision: Precision = "float32"

    @property
    def known_defense(self) -> Defense | None:
        """See `ModelSpec`."""
        return self.defense


class ScoreSpec(Spec):
    """A cell's score, from the predictions for all its shards, which are its parents."""

    version: ClassVar[int] = 1


class CardSpec(ModelSpec):
    """The integrity card of one model: attacks on it whose results must be consistent."""

    version: ClassVar[int] = 3
    changes: ClassVar[Mapping[int, str]] = {
        2: "the check frozen-draw also tests the draw under examples crafted on the bare model",
        3: CraftSpec.changes[2],
    }
    against: SerializeAsAny[Defense]
    """The defense; kind `none` for the bare model."""
    images: Count = 100
    """Number of test images to use, from the first."""
    norm: Norm = "linf"
    epsilon: Positive
    """Perturbation size of the attacks, in 1/255."""
    draws: Count = 5
    """Draws of the defense at each step of an attack, and the most for an answer that judges it."""
    steps: Annotated[tuple[Count, ...], Field(strict=False, min_length=1)] = (10, 50, 200)
    """Numbers of steps of the PGD attacks, rising."""
    climb_steps: Count = 20
    """Steps of the APGD runs."""
    converges: bool = True
    """Whether to repeat one APGD run with twice the steps and draws, to see whether these find
    more."""
    corners: Count = 10
    """Number of random corners of the ball."""
    queries: Annotated[int, Field(ge=0)] = 1000
    """Queries of the Square Attack; 0 to leave it out."""
    query_draws: Count = 20
    """Draws of the defense that each query averages."""
    seed: int = 0
    """Seed of all draws and starts."""
    precision: Precision = "float32"

    @property
    def known_defense(self) -> Defense | None:
        """See `ModelSpec`."""
        return self.against

    def results_version(self) -> int:
        """See `Spec.results_version`: 2 changed nothing for a bare model, 3 only surrogates."""
        if self.against.kind == "none":
            return 1
        return 2 if passes_gradients(self.against) else 3

    @model_validator(mode="after")
    def _rising(self) -> Self:
        if list(self.steps) != sorted(set(self.steps)):
            raise ValueError(f"steps {list(self.steps)} do not rise")
        return self

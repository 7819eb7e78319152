"""What the nodes after a model compute, without torch: planning reads these."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, ClassVar, Self

from pydantic import Field, SerializeAsAny, model_validator

from tasks.attacks.base import Attack
from tasks.defenses.base import Defense, GradientRule
from tasks.specs import Count, NonNegative, Norm, Positive, Precision, Shard, Spec


class ModelSpec(Spec):
    """A spec of what asks or attacks a model, bare or defended."""

    @property
    def known_defense(self) -> Defense | None:
        """The defense that stands before the model; None where none is named."""
        raise NotImplementedError(f"{type(self).__name__} does not define known_defense")


class CraftSpec(ModelSpec):
    """The examples that an attack makes of one shard of the test set.

    seed: of the attack's random starts, targets and draws; precision: of the classifier's
    arithmetic. against: the defense that the attack knows; None for an oblivious one, made on
    the bare model. Of such a model it asks for `draws` draws at each step. For its gradients alone:
    smoothing, rule, relu_width: see `tasks.defenses.base.Context`, where the rule is the first that
    the defense declares unless another is named; inner_steps: of the defense's inner optimiser, at
    most. Points are compared by the whole defense. A candidate of a cascade has the selection
    before it for its parent `standing`, and is of those images of the shard that still stand there.
    """

    version: ClassVar[int] = 1
    unset_is_left_out: ClassVar[frozenset[str]] = frozenset(
        {"against", "draws", "smoothing", "rule", "inner_steps", "relu_width"}
    )
    attack: SerializeAsAny[Attack]
    shard: Shard
    seed: int
    precision: Precision
    against: SerializeAsAny[Defense] | None = None
    draws: Count | None = None
    smoothing: Positive | None = None
    rule: GradientRule | None = None
    inner_steps: Count | None = None
    relu_width: Positive | None = None

    @property
    def known_defense(self) -> Defense | None:
        """See `ModelSpec`."""
        return self.against

    @property
    def twice(self) -> bool:
        """Whether the attack goes back through a gradient of the network."""
        if self.against is None:
            return False
        rule = self.rule or self.against.gradients()[0]
        return self.smoothing is not None or rule == "unrolled"

    @model_validator(mode="after")
    def _draws_of_a_defense(self) -> Self:
        known = self.draws is not None
        passing = self.smoothing or self.rule or self.inner_steps or self.relu_width
        if known != (self.against is not None) or (passing and not known):
            raise ValueError(
                "draws, and how gradients pass, belong to the defense that is attacked"
            )
        return self


class SelectSpec(ModelSpec):
    """Of each image of a shard the candidate that fails most often on the attacker's draws.

    against: the defense that decides; draws: how many single draws, of everything that is drawn,
    a candidate is asked; predictions: how many whole predictions, which count as a draw each,
    of a defense that draws; seed: of both. margin: how far, in probability, the true class is
    below the highest on each of them where an image is done; None where none ever is. Its
    parents are candidates and, as `before`, the selection that these are added to.
    """

    version: ClassVar[int] = 2
    changes: ClassVar[Mapping[int, str]] = {2: "candidates for the images that still stand alone"}
    against: SerializeAsAny[Defense]
    shard: Shard
    seed: int
    draws: Count = 20
    predictions: Annotated[int, Field(ge=0, le=10**6)] = 1
    margin: NonNegative | None = None
    precision: Precision = "float32"

    @property
    def known_defense(self) -> Defense | None:
        """See `ModelSpec`."""
        return self.against


class DefendSpec(ModelSpec):
    """A defended model's answers about one shard of examples.

    redraws: how often the whole prediction is made, with draws of its own each time; a
    deterministic defense needs one. seed: of the draws.
    """

    version: ClassVar[int] = 1
    defense: SerializeAsAny[Defense]
    shard: Shard
    seed: int
    redraws: Count = 1
    precision: Precision = "float32"

    @property
    def known_defense(self) -> Defense | None:
        """See `ModelSpec`."""
        return self.defense


class ExhibitSpec(ModelSpec):
    """Images before and after an attack and a defense; see `tasks.evaluation.exhibit`.

    classes: how many of the data set's classes are shown, from the first. seed: of the defense's
    draws. Its parents are the examples of each shard and the answers about them of the bare and
    of the defended model.
    """

    version: ClassVar[int] = 1
    defense: SerializeAsAny[Defense]
    classes: Count = 10
    seed: int
    precision: Precision = "float32"

    @property
    def known_defense(self) -> Defense | None:
        """See `ModelSpec`."""
        return self.defense


class ScoreSpec(Spec):
    """A cell's score, from the answers about all its shards: its parents."""

    version: ClassVar[int] = 1


class CardSpec(ModelSpec):
    """The integrity card of one model: attacks on it that must agree with each other.

    against: the defense, none for the bare model. images: how many of the first test images are
    asked. epsilon: of the attacks, in 1/255. draws: of an attack at each step, and of an answer
    by which it is judged, where the defense has so many. steps: the lengths of the projected
    gradient descents, rising; climb_steps: the length of the APGD climbs. converges: whether one
    is made again with twice the steps and draws, to see whether these would find more. corners:
    random corners of the ball. queries: of Square, each the mean over `query_draws` draws; 0
    for no Square. seed: of all draws and starts.
    """

    version: ClassVar[int] = 1
    against: SerializeAsAny[Defense]
    images: Count = 100
    norm: Norm = "linf"
    epsilon: Positive
    draws: Count = 5
    steps: Annotated[tuple[Count, ...], Field(strict=False, min_length=1)] = (10, 50, 200)
    climb_steps: Count = 20
    converges: bool = True
    corners: Count = 10
    queries: Annotated[int, Field(ge=0)] = 1000
    query_draws: Count = 20
    seed: int = 0
    precision: Precision = "float32"

    @property
    def known_defense(self) -> Defense | None:
        """See `ModelSpec`."""
        return self.against

    @model_validator(mode="after")
    def _rising(self) -> Self:
        if list(self.steps) != sorted(set(self.steps)):
            raise ValueError(f"steps {list(self.steps)} do not rise")
        return self

"""What the nodes after a model compute, without torch: planning reads these."""

from __future__ import annotations

from typing import ClassVar, Self

from pydantic import SerializeAsAny, model_validator

from tasks.attacks.base import Attack
from tasks.defenses.base import Defense
from tasks.specs import Count, Positive, Precision, Shard, Spec


class CraftSpec(Spec):
    """The examples that an attack makes of one shard of the test set.

    seed: of the attack's random starts, targets and draws; precision: of the classifier's
    arithmetic. against: the defense that the attack knows; None for an oblivious one, made on
    the bare model. Of such a model it asks for `draws` draws at each step; smoothing: see
    `tasks.defenses.base.Context`.
    """

    version: ClassVar[int] = 1
    unset_is_left_out: ClassVar[frozenset[str]] = frozenset({"against", "draws", "smoothing"})
    attack: SerializeAsAny[Attack]
    shard: Shard
    seed: int
    precision: Precision
    against: SerializeAsAny[Defense] | None = None
    draws: Count | None = None
    smoothing: Positive | None = None

    @model_validator(mode="after")
    def _draws_of_a_defense(self) -> Self:
        known = self.draws is not None
        if known != (self.against is not None) or (self.smoothing and not known):
            raise ValueError("draws, and smoothing, belong to the defense that is attacked")
        return self


class SelectSpec(Spec):
    """Of each image of a shard the candidate that fails most often on the attacker's draws.

    against: the defense that decides; draws: how many single draws, of everything that is drawn,
    a candidate is asked; seed: of those draws. Its parents are the candidates.
    """

    version: ClassVar[int] = 1
    against: SerializeAsAny[Defense]
    shard: Shard
    seed: int
    draws: Count = 20
    precision: Precision = "float32"


class DefendSpec(Spec):
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


class ScoreSpec(Spec):
    """A cell's score, from the answers about all its shards: its parents."""

    version: ClassVar[int] = 1

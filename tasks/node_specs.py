"""What the nodes after a model compute, without torch: planning reads these."""

from __future__ import annotations

from typing import ClassVar

from pydantic import SerializeAsAny

from tasks.attacks.base import Attack
from tasks.defenses.base import Defense
from tasks.specs import Count, Precision, Shard, Spec


class CraftSpec(Spec):
    """The examples that an attack makes of one shard of the test set.

    seed: of the attack's random starts and targets; precision: of the classifier's arithmetic.
    """

    version: ClassVar[int] = 1
    attack: SerializeAsAny[Attack]
    shard: Shard
    seed: int
    precision: Precision


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

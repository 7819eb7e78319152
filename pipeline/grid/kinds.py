"""The kinds of node, one row each, in the order of the work.

Every other module asks this table how a kind is run, scheduled, forced, timed and exported. A new
kind is a row here, a function in `pipeline.execution.work.kinds` that performs it, and a spec.
Imports nothing heavy, since the command line's help reads it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, get_args

NodeKind = Literal[
    "dataset",
    "train",
    "checkpoint",
    "ensemble",
    "craft",
    "select",
    "defend",
    "score",
    "card",
    "exhibit",
]
ForceStart = Literal["defend", "craft"]
"""What `--force` may begin with; the later ones include those before them."""
FORCE_STARTS: tuple[ForceStart, ...] = get_args(ForceStart)
CardSize = Literal["full", "quarter", "none"]
"""How large the nodes of kind `card` may be; see `pipeline.grid.cards`."""
CARD_SIZES: tuple[CardSize, ...] = get_args(CardSize)

_FROZEN = ("tasks.classifier.frozen", "tasks.classifier.checkpoint")


@dataclass(frozen=True)
class KindInfo:
    """What is true of every node of a kind.

    modules: of `tasks`, those that perform it, beside the modules of its spec's classes.
    network: whether it trains the network, evaluates it in batches of any size, or neither; the
    work of the first two is counted in multiplications. local: it reads the user's own files, so
    it runs on the user's machine and before anything else. rank: smaller ones are started first.
    forced_from: with which start of `--force` it is computed again; None for never.
    exported_whole: an export takes its files along even without `--with tensors`.
    """

    modules: tuple[str, ...]
    network: Literal["trains", "evaluates"] | None = None
    local: bool = False
    rank: int = 1
    forced_from: ForceStart | None = None
    exported_whole: bool = False

    @property
    def trains(self) -> bool:
        """Whether its nodes train a network, epoch by epoch."""
        return self.network == "trains"

    @property
    def batched(self) -> bool:
        """Whether its batch size is free; that of a training is part of its recipe."""
        return self.network == "evaluates"

    @property
    def uses_network(self) -> bool:
        """Whether its work is the network's multiplications, and so takes more than seconds."""
        return self.network is not None


KINDS: Mapping[NodeKind, KindInfo] = {
    "dataset": KindInfo(("tasks.data.splits",), local=True),
    # first, since most other nodes wait for them
    "train": KindInfo(
        ("tasks.training.train", "tasks.classifier.checkpoint"),
        network="trains",
        rank=0,
        exported_whole=True,
    ),
    "checkpoint": KindInfo(("tasks.classifier.checkpoint",), local=True, exported_whole=True),
    "ensemble": KindInfo(
        ("tasks.classifier.ensemble", "tasks.classifier.checkpoint"), rank=0, exported_whole=True
    ),
    "craft": KindInfo(
        ("tasks.evaluation.craft", *_FROZEN), network="evaluates", forced_from="craft"
    ),
    "select": KindInfo(
        ("tasks.evaluation.select", *_FROZEN), network="evaluates", forced_from="craft"
    ),
    "defend": KindInfo(
        ("tasks.evaluation.defend", *_FROZEN), network="evaluates", forced_from="defend"
    ),
    "score": KindInfo(("tasks.evaluation.score",), forced_from="defend", exported_whole=True),
    # last, since nothing waits for them
    "card": KindInfo(
        ("tasks.integrity.card", *_FROZEN),
        network="evaluates",
        rank=2,
        forced_from="craft",
        exported_whole=True,
    ),
    "exhibit": KindInfo(
        ("tasks.evaluation.exhibit", *_FROZEN),
        network="evaluates",
        rank=2,
        forced_from="defend",
        exported_whole=True,
    ),
}
NODE_KINDS: tuple[NodeKind, ...] = tuple(KINDS)


def forced_kinds(start: ForceStart) -> frozenset[NodeKind]:
    """The kinds that `--force --from start` computes again."""
    included = FORCE_STARTS[: FORCE_STARTS.index(start) + 1]
    return frozenset(kind for kind, info in KINDS.items() if info.forced_from in included)

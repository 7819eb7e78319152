"""The kinds of node and their properties, in the order of the work.

All other modules look up here how a kind is performed, scheduled, forced, timed and exported. A new
kind needs an entry here, a function in `pipeline.execution.work` and a spec. Nothing heavy is
imported, since the command line's help reads this module.
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
"""Values of `--force --from`; a later one includes those before it."""
FORCE_STARTS: tuple[ForceStart, ...] = get_args(ForceStart)
ExportPart = Literal["results", "weights", "images", "tensors"]
"""Parts of an export."""
CardSize = Literal["full", "quarter", "none"]
"""Size limit of integrity cards; see `pipeline.grid.cards`."""
CARD_SIZES: tuple[CardSize, ...] = get_args(CardSize)

_FROZEN = ("tasks.classifier.frozen", "tasks.classifier.checkpoint")


@dataclass(frozen=True)
class KindInfo:
    """Properties of a kind of node.

    Attributes:
        modules: Modules whose code decides its result, beside those of its spec classes.
        network: Whether it trains the network, or evaluates it in batches of arbitrary size. The
            work of both is measured in multiplications. None for kinds that do neither.
        local: Whether it reads the user's own files. Such nodes run on the user's machine, before
            all others.
        rank: Priority in scheduling; smaller values start first.
        forced_from: The start of `--force` from which on it is computed again; None for never.
        exported: In which part of an export its files are. The tensors are included on request,
            weights and images unless they are left out. The record is always included.
    """

    modules: tuple[str, ...]
    network: Literal["trains", "evaluates"] | None = None
    local: bool = False
    rank: int = 1
    forced_from: ForceStart | None = None
    exported: ExportPart = "tensors"

    @property
    def trains(self) -> bool:
        """Whether it trains a network, epoch by epoch."""
        return self.network == "trains"

    @property
    def batched(self) -> bool:
        """Whether its batch size may be chosen freely; that of a training is part of the recipe."""
        return self.network == "evaluates"

    @property
    def uses_network(self) -> bool:
        """Whether it runs the network, so that its work may take more than seconds."""
        return self.network is not None


KINDS: Mapping[NodeKind, KindInfo] = {
    "dataset": KindInfo(("tasks.data.splits", "pipeline.catalogue.sources.locate"), local=True),
    # scheduled first, since most other nodes wait for it
    "train": KindInfo(
        ("tasks.training.train", "tasks.classifier.checkpoint"),
        network="trains",
        rank=0,
        exported="weights",
    ),
    "checkpoint": KindInfo(("tasks.classifier.checkpoint",), local=True, exported="weights"),
    "ensemble": KindInfo(
        ("tasks.classifier.ensemble", "tasks.classifier.checkpoint"), rank=0, exported="weights"
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
    "score": KindInfo(("tasks.evaluation.score",), forced_from="defend", exported="results"),
    # scheduled last, since nothing waits for it
    "card": KindInfo(
        ("tasks.integrity.card", *_FROZEN),
        network="evaluates",
        rank=2,
        forced_from="craft",
        exported="results",
    ),
    "exhibit": KindInfo(
        ("tasks.evaluation.exhibit", *_FROZEN),
        network="evaluates",
        rank=2,
        forced_from="defend",
        exported="images",
    ),
}
NODE_KINDS: tuple[NodeKind, ...] = tuple(KINDS)


def forced_kinds(start: ForceStart) -> frozenset[NodeKind]:
    """The kinds that `--force --from START` computes again."""
    included = FORCE_STARTS[: FORCE_STARTS.index(start) + 1]
    return frozenset(kind for kind, info in KINDS.items() if info.forced_from in included)

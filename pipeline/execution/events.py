"""What observers are told of a run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from pipeline.grid.cells import Cell, Grid
from pipeline.grid.graph import Node
from pipeline.problems.sanitize import bounded, clean
from tasks.progress import Progress

LONGEST_DETAIL = 20_000
"""Characters of a traceback that are kept: its end says most."""


@dataclass(frozen=True)
class Failure:
    """Why a node has no artifact.

    damaged: (kind, digest) of an artifact that it could not read. gone: because it was no longer
    there. fatal: no other node would fare better, as on a full disk.
    """

    digest: str
    reason: str
    detail: str = ""
    damaged: tuple[str, str] | None = None
    gone: bool = False
    fatal: bool = False

    def __post_init__(self) -> None:
        # an exception's message may be megabytes long, and hold what steers a terminal
        object.__setattr__(self, "reason", clean(self.reason))
        object.__setattr__(self, "detail", bounded(self.detail, LONGEST_DETAIL))


@dataclass(frozen=True)
class Done:
    """A node's artifact: its content's checksum, its facts, and how it was computed.

    unchanged: the artifact that it replaces had the same content. found: it was in the store
    already, since another run had made it in the meantime.
    """

    digest: str
    content: str
    facts: Mapping[str, object]
    how: Mapping[str, object]
    unchanged: bool = False
    found: bool = False


@dataclass(frozen=True)
class Stopped:
    """A node that was left unfinished because the time of its run was up: no failure."""

    digest: str


@dataclass(frozen=True)
class Retry:
    """A node that is tried once more: its worker was lost, or it ran out of memory.

    smaller: with half as many images at once.
    """

    digest: str
    reason: str
    smaller: bool = False

    def __post_init__(self) -> None:
        object.__setattr__(self, "reason", clean(self.reason))


Result = Done | Failure | Stopped | Retry
"""How an attempt at a node ended."""


@dataclass(frozen=True)
class RunStarted:
    """A run begins that has something to do. `todo` counts nodes by kind."""

    grid: Grid
    todo: Mapping[str, int]
    stored: int
    executor: str


@dataclass(frozen=True)
class NodeStarted:
    """A node was handed to the executor."""

    node: Node


@dataclass(frozen=True)
class NodeProgress:
    """A long node tells how far it is."""

    digest: str
    progress: Progress


@dataclass(frozen=True)
class NodeRetried:
    """A node is tried once more, and why."""

    node: Node
    reason: str


@dataclass(frozen=True)
class Elsewhere:
    """The first node that is left to another run on this store. by: which run, in words."""

    node: Node
    by: str


@dataclass(frozen=True)
class NodeSilent:
    """A node at work has told nothing for so many seconds; ended_after: when it is ended."""

    node: Node
    seconds: float
    ended_after: float | None = None


@dataclass(frozen=True)
class NodeDone:
    """A node's artifact is in the store."""

    node: Node
    done: Done


@dataclass(frozen=True)
class NodeFailed:
    """A node failed for good; `blocked` counts the nodes that now cannot be computed."""

    node: Node
    failure: Failure
    cells: Sequence[str]
    blocked: int


@dataclass(frozen=True)
class SetAside:
    """An artifact did not match its record and was moved away; it is computed again."""

    kind: str
    digest: str
    reason: str


@dataclass(frozen=True)
class CellScored:
    """A cell has a score. `before` is the score that the ledger knew for this cell's name.

    facts: see `tasks.evaluation.score`; percentages.
    """

    cell: Cell
    node: Node
    facts: Mapping[str, object]
    before: Mapping[str, object] | None
    computed: bool


@dataclass(frozen=True)
class RunFinished:
    """A run is over. Cells without a score are in `missing`, with the reason.

    failed_leaves: why an integrity card or exhibits could not be made, by their name.
    """

    grid: Grid
    scored: Mapping[str, Mapping[str, object]]
    missing: Mapping[str, str]
    computed: Mapping[str, int]
    seconds: float
    interrupted: bool = False
    set_aside: int = 0
    failed_leaves: Mapping[str, str] = field(default_factory=dict)


Event = (
    RunStarted
    | NodeStarted
    | NodeProgress
    | NodeSilent
    | NodeRetried
    | Elsewhere
    | NodeDone
    | NodeFailed
    | SetAside
    | CellScored
    | RunFinished
)


class Observer(Protocol):
    """Someone who is told."""

    def notify(self, event: Event) -> None:
        """Take an event, quickly: the run waits."""

    def close(self) -> None:
        """Finish; nothing follows."""


@dataclass
class Observers:
    """Several observers as one; none is the null observer."""

    members: list[Observer] = field(default_factory=list)

    def notify(self, event: Event) -> None:
        """Tell each in turn."""
        for member in self.members:
            member.notify(event)

    def close(self) -> None:
        """Close each in turn."""
        for member in self.members:
            member.close()

"""Events of a run, and the observer interface that receives them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from pipeline.grid.cells import Cell, Grid
from pipeline.grid.graph import Node
from pipeline.problems.sanitize import bounded, clean
from tasks.progress import Progress

LONGEST_DETAIL = 20_000
"""Maximum length of a stored traceback, in characters; its end is kept."""


@dataclass(frozen=True)
class Failure:
    """A node failed: it has no artifact.

    Attributes:
        reason: One line.
        detail: More about it, such as a traceback.
        damaged: Kind and digest of an input artifact that could not be read.
        gone: Whether that artifact was missing rather than damaged.
        fatal: Whether no other node would succeed either, as on a full disk.
    """

    digest: str
    reason: str
    detail: str = ""
    damaged: tuple[str, str] | None = None
    gone: bool = False
    fatal: bool = False

    def __post_init__(self) -> None:
        # the message of an exception may be megabytes long and contain terminal control codes
        object.__setattr__(self, "reason", clean(self.reason))
        object.__setattr__(self, "detail", bounded(self.detail, LONGEST_DETAIL))


@dataclass(frozen=True)
class Done:
    """A node's artifact is in the store.

    Attributes:
        content: Content hash of the artifact.
        facts: Recorded results.
        how: Recorded circumstances of the computation, such as its duration.
        unchanged: Whether the artifact replaced one with the same content.
        found: Whether it was in the store already, because another run had made it meanwhile.
    """

    digest: str
    content: str
    facts: Mapping[str, object]
    how: Mapping[str, object]
    unchanged: bool = False
    found: bool = False


@dataclass(frozen=True)
class Stopped:
    """A node was left unfinished at the run's time limit; this is not a failure."""

    digest: str


@dataclass(frozen=True)
class Retry:
    """A node will be retried: its worker was lost, or it ran out of memory.

    smaller: whether the batch size is halved.
    """

    digest: str
    reason: str
    smaller: bool = False

    def __post_init__(self) -> None:
        object.__setattr__(self, "reason", clean(self.reason))


Result = Done | Failure | Stopped | Retry
"""Outcome of one attempt at a node."""


@dataclass(frozen=True)
class RunStarted:
    """A run starts that has work to do.

    Attributes:
        todo: Number of nodes to compute, by kind.
        stored: Number of nodes whose artifact was found in the store.
        executor: Name of the executor.
    """

    grid: Grid
    todo: Mapping[str, int]
    stored: int
    executor: str


@dataclass(frozen=True)
class NodeStarted:
    """A node was submitted to the executor."""

    node: Node


@dataclass(frozen=True)
class NodeProgress:
    """Progress of a node that is being computed."""

    digest: str
    progress: Progress


@dataclass(frozen=True)
class NodeRetried:
    """A node will be retried; `reason` says why."""

    node: Node
    reason: str


@dataclass(frozen=True)
class Elsewhere:
    """A node is being computed by another run on this store, described by `by`.

    Sent for the first such node of each other run. It may come before `RunStarted`, so it has the
    grid.
    """

    node: Node
    by: str
    grid: Grid


@dataclass(frozen=True)
class NodeSilent:
    """A running node has reported no progress for some time.

    Attributes:
        seconds: Time since its last report.
        ended_after: Time without a report after which it is terminated; None if it is not.
    """

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
    """A node failed and will not be retried.

    Attributes:
        cells: Names of the cells that get no score because of it.
        blocked: Number of descendants that cannot be computed.
    """

    node: Node
    failure: Failure
    cells: Sequence[str]
    blocked: int


@dataclass(frozen=True)
class SetAside:
    """An artifact did not match its record and was moved away; it will be computed again."""

    kind: str
    digest: str
    reason: str


@dataclass(frozen=True)
class CellScored:
    """A cell has a score.

    Attributes:
        facts: The score; see `tasks.evaluation.score`.
        before: The last score of a cell of this name in the ledger, if there is one.
        computed: Whether this run computed it; otherwise another run had done so meanwhile.
    """

    cell: Cell
    node: Node
    facts: Mapping[str, object]
    before: Mapping[str, object] | None
    computed: bool


@dataclass(frozen=True)
class RunFinished:
    """A run is over.

    Attributes:
        scored: Score of each cell that has one, by cell name.
        missing: Reason for each cell that has none, by cell name.
        computed: Number of computed nodes, by kind.
        interrupted: Whether it ended by a signal or its time limit.
        set_aside: Number of artifacts that were moved away.
        failed_leaves: Reason for each integrity card or exhibit that failed, by name.
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
    """Receives the events of a run."""

    def notify(self, event: Event) -> None:
        """Handle an event. Must return quickly, since the run waits for it."""

    def close(self) -> None:
        """Release resources; no further event follows."""


@dataclass
class Observers:
    """A list of observers that behaves as one; an empty list ignores all events."""

    members: list[Observer] = field(default_factory=list)

    def notify(self, event: Event) -> None:
        """Pass the event to each observer in turn."""
        for member in self.members:
            member.notify(event)

    def close(self) -> None:
        """Close each observer in turn."""
        for member in self.members:
            member.close()

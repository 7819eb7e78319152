"""What became of the nodes of a run: recorded as they end, and summed up for the ledger."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field

from pipeline.execution.events import (
    CellScored,
    Done,
    Failure,
    NodeDone,
    NodeFailed,
    NodeRetried,
    Observers,
    RunFinished,
    SetAside,
)
from pipeline.grid.cells import Grid
from pipeline.grid.graph import Graph, Node
from pipeline.grid.names import node_name
from pipeline.plan.planning import Plan
from pipeline.plan.snapshot import Snapshot
from pipeline.problems.sanitize import clean, shown_lines
from pipeline.store.ledger import CellEntry, Ledger
from pipeline.store.store import Store

NOT_AGAIN = "not computed again before the run ended; the stored score is of an earlier run"
"""Reason for a missing score where the run was to replace the stored one."""


@dataclass(kw_only=True)
class Outcomes:
    """The outcomes of a run's nodes; notifies the observers of each.

    Attributes:
        scores, cards, exhibits, forced: See `Run`.
        computed: Number of nodes that this run has computed, by kind.
        failures: The nodes that failed, by digest.
        forced_left: The forced nodes that have neither been computed nor failed.
        undone: Nodes that were left because of a fatal failure.
        last_snapshot: State of the store in the last round, if that found nothing left to do.
    """

    grid: Grid
    graph: Graph
    scores: Mapping[str, Node]
    cards: Collection[Node]
    exhibits: Collection[Node]
    forced: Collection[str]
    store: Store
    ledger: Ledger
    observers: Observers
    computed: Counter[str] = field(default_factory=Counter)
    failures: dict[str, Failure] = field(default_factory=dict)
    forced_left: set[str] = field(init=False)
    undone: set[str] = field(default_factory=set)
    last_snapshot: Snapshot | None = None
    _damage: Counter[str] = field(default_factory=Counter)
    _fresh: set[str] = field(default_factory=set)
    _set_aside: int = 0

    def __post_init__(self) -> None:
        self.forced_left = set(self.forced)

    def fatal(self) -> Failure | None:
        """The failure after which no other node would succeed, such as a full disk, if any."""
        return next((failure for failure in self.failures.values() if failure.fatal), None)

    def blocked(self) -> set[str]:
        """Digests of the nodes that failed and of all that depend on them."""
        blocked = set(self.failures)
        for digest in self.failures:
            blocked |= self.graph.descendants(digest)
        return blocked

    def take(self, done: Done) -> None:
        """Record a node whose artifact is stored, and notify of it and of the cells it scores."""
        node = self.graph[done.digest]
        self.forced_left.discard(done.digest)
        if not done.found:
            self.computed[node.kind] += 1
            self._fresh.add(done.digest)
        self.observers.notify(NodeDone(node, done))
        if node.kind == "score":
            for cell in self.grid.cells:
                if cell.name in self.scores and self.scores[cell.name] == node:
                    before = self.ledger.last(self.grid.name, cell.name)
                    old = before.facts if before is not None else None
                    self.observers.notify(
                        CellScored(cell, node, done.facts, old, computed=not done.found)
                    )

    def mend(self, failure: Failure, mended: set[str]) -> bool:
        """Handle a failure that was caused by a damaged or missing input.

        Damage that a second look does not find is first read again. An input is repaired twice at
        most. Nodes that find the same fault in one round count once, by `mended`.

        Returns:
            Whether the next round will compute the input again; if not, the node has failed.
        """
        if failure.damaged is None:
            return False
        from pipeline.store.verify import still_damaged  # imports pyarrow

        kind, digest = failure.damaged
        if digest not in mended:
            self._damage[digest] += 1
            if self._damage[digest] > 2:
                return False
            mended.add(digest)
            first = self._damage[digest] == 1
            if failure.gone or (first and not still_damaged(self.store, kind, digest)):
                self.observers.notify(NodeRetried(self.graph[failure.digest], failure.reason))
            else:
                self._put_aside(kind, digest, failure.reason)
        return True

    def put_damaged_aside(self, plan: Plan) -> None:
        """Set aside what a plan found damaged, unless another run has replaced it meanwhile."""
        for found in plan.damaged:
            if self.store.state(found.kind, found.digest).status == "damaged":
                self._put_aside(found.kind, found.digest, found.reason)

    def _put_aside(self, kind: str, digest: str, reason: str) -> None:
        if self.store.set_aside(kind, digest) is not None:
            self._set_aside += 1
            self.observers.notify(SetAside(kind, digest, reason))

    def fail(self, failure: Failure) -> None:
        """Record a node that failed, and notify of it and of what depends on it."""
        self.failures[failure.digest] = failure
        self.forced_left.discard(failure.digest)
        below = self.graph.descendants(failure.digest)
        gone = below | {failure.digest}
        cells = [name for name, node in self.scores.items() if node.digest in gone]
        self.observers.notify(
            NodeFailed(self.graph[failure.digest], failure, cells, blocked=len(below))
        )

    def finished(self, seconds: float, *, interrupted: bool) -> RunFinished:
        """The event that ends the run: its scores, and the reasons of those that are missing."""
        scored: dict[str, Mapping[str, object]] = {}
        missing: dict[str, str] = {}
        snapshot = self.last_snapshot or Snapshot(self.store)
        for name, node in self.scores.items():
            state = snapshot.state(node, self.graph)
            reason = self._why_missing(node)
            if state.standing is not None and reason is None:
                scored[name] = state.standing.facts
            else:
                missing[name] = reason or state.reason
        return RunFinished(
            grid=self.grid,
            scored=scored,
            missing=missing,
            failed_leaves={
                node_name(node, self.grid): self.failures[node.digest].reason
                for node in (*self.cards, *self.exhibits)
                if node.digest in self.failures
            },
            computed=dict(self.computed),
            seconds=seconds,
            interrupted=interrupted,
            set_aside=self._set_aside,
        )

    def _why_missing(self, node: Node) -> str | None:
        """Why a score or card is missing, or was not replaced as asked; None if it is as asked."""
        for digest, failure in self.failures.items():
            if digest == node.digest or node.digest in self.graph.descendants(digest):
                return failure.reason
        fatal = self.fatal()
        if fatal is not None and node.digest in self.undone:
            return fatal.reason
        left = node.digest in self.forced_left
        there = left and self.store.state(node.kind, node.digest).record is not None
        return NOT_AGAIN if there else None

    def unreplaced(self) -> dict[str, str]:
        """The scores and cards that were to be computed again and were not, with the reasons."""
        nodes = (*self.scores.values(), *self.cards)
        whys = {node.digest: self._why_missing(node) for node in nodes}
        return {digest: why for digest, why in whys.items() if why and digest in self.forced}

    def failure_details(self) -> dict[str, str]:
        """Details of failures, such as tracebacks, by the line that was shown."""
        details = {}
        for digest, failure in self.failures.items():
            if failure.detail and failure.detail != failure.reason:
                name = node_name(self.graph[digest], self.grid)
                line = clean(f"{name} ({digest[:12]}): {failure.reason}")
                details[line] = "\n".join(shown_lines(failure.detail))
        return details

    def entries(self) -> dict[str, CellEntry]:
        """The ledger's entries for the cells of this run."""
        entries = {}
        snapshot = self.last_snapshot or Snapshot(self.store)
        for name, node in self.scores.items():
            record = snapshot.standing(node, self.graph)
            fresh = node.digest in self._fresh
            if record is not None and self._why_missing(node) is None:
                entries[name] = CellEntry(node.digest, record.content, record.facts, fresh)
            else:
                entries[name] = CellEntry(node.digest)
        return entries

"""Counts the nodes of a run and estimates the remaining time."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import islice
from statistics import fmean

from pipeline.execution.events import (
    Done,
    Event,
    NodeDone,
    NodeFailed,
    NodeProgress,
    NodeStarted,
    RunStarted,
)
from pipeline.grid.cells import Grid
from pipeline.grid.graph import Node
from pipeline.grid.kinds import KINDS, NODE_KINDS, NodeKind
from pipeline.grid.names import node_name
from pipeline.plan.words import counted, roughly
from tasks.progress import Progress

SEEN = 0.01
"""Minimum share of a node that must have been observed before its speed is used."""


@dataclass
class Running:
    """A running node, with the time and content of its first and its last progress report."""

    node: Node
    first: tuple[float, Progress] | None = None
    last: tuple[float, Progress] | None = None

    @property
    def share(self) -> float:
        """Share that is done, 0 to 1."""
        return 0.0 if self.last is None else _share(self.last[1])

    @property
    def words(self) -> str:
        """Its last progress message."""
        return (self.last and self.last[1].note) or f"{self.share:.0%}"

    @property
    def seconds(self) -> float | None:
        """Estimated total duration, from the speed so far; None if too little was observed."""
        if self.first is None or self.last is None:
            return None
        share = self.share - _share(self.first[1])
        return (self.last[0] - self.first[0]) / share if share >= SEEN else None


@dataclass(frozen=True)
class RemainingTime:
    """Estimated remaining time in seconds; `at_least` if kinds without a timing are left out."""

    seconds: float
    at_least: bool

    def __str__(self) -> str:
        return f"{'at least ' if self.at_least else ''}about {roughly(self.seconds)} left"


@dataclass
class Tally:
    """Counts nodes from the events of a run. `clock` returns seconds."""

    clock: Callable[[], float] = time.monotonic
    grid: Grid | None = None
    todo: Counter[NodeKind] = field(default_factory=Counter)
    done: Counter[NodeKind] = field(default_factory=Counter)
    failed: Counter[NodeKind] = field(default_factory=Counter)
    reasons: Counter[str] = field(default_factory=Counter)
    """How many nodes failed for each reason."""
    cells_lost: set[str] = field(default_factory=set)
    running: dict[str, Running] = field(default_factory=dict)
    _began: float = 0.0
    _started: Counter[NodeKind] = field(default_factory=Counter)
    _blocked: dict[NodeKind, float] = field(default_factory=dict)
    _seconds: dict[NodeKind, list[float]] = field(default_factory=dict)
    _names: dict[str, str] = field(default_factory=dict)
    _said: set[str] = field(default_factory=set)

    def notify(self, event: Event) -> None:
        """Process an event."""
        match event:
            case RunStarted(grid=grid, todo=todo):
                self.grid, self._began = grid, self.clock()
                self.todo = Counter({kind: todo.get(kind, 0) for kind in NODE_KINDS})
            case NodeStarted(node=node):
                self._start(node)
            case NodeProgress(digest=digest, progress=progress) if digest in self.running:
                now = (self.clock(), progress)
                running = self.running[digest]
                running.first, running.last = running.first or now, now
            case NodeDone(node=node, done=done):
                self.running.pop(node.digest, None)
                self.done[node.kind] += 1
                seconds = done.how.get("seconds")
                if isinstance(seconds, int | float) and not done.found:
                    self._seconds.setdefault(node.kind, []).append(float(seconds))
            case NodeFailed(node=node, failure=failure, cells=cells, blocked=blocked):
                self.running.pop(node.digest, None)
                self.failed[node.kind] += 1
                self.reasons[failure.reason] += 1
                self.cells_lost.update(cells)
                self._block(node.kind, blocked)
            case _:
                pass

    def _start(self, node: Node) -> None:
        if node.digest not in self.running:
            self._started[node.kind] += 1
        # artifacts that were set aside are computed in addition to the plan
        self.todo[node.kind] = max(self.todo[node.kind], self._started[node.kind])
        self.running[node.digest] = Running(node)

    def _block(self, failed: NodeKind, blocked: int) -> None:
        """Subtract blocked nodes, whose kinds are unknown, proportionally from the later kinds."""
        later = NODE_KINDS[NODE_KINDS.index(failed) + 1 :]
        total = sum(self.todo[kind] for kind in later)
        for kind in later:
            lost = blocked * self.todo[kind] / total if total else 0.0
            self._blocked[kind] = self._blocked.get(kind, 0.0) + lost

    def finished(self, kind: NodeKind) -> float:
        """Number of finished nodes of a kind, plus the shares of running ones."""
        running = (each.share for each in self.running.values() if each.node.kind == kind)
        return self.done[kind] + sum(running)

    def _left(self, kind: NodeKind) -> float:
        lost = self.failed[kind] + self._blocked.get(kind, 0.0)
        return self.todo[kind] - self.finished(kind) - lost

    @property
    def kinds(self) -> list[NodeKind]:
        """The kinds of node in this run, in the order of the work."""
        return [kind for kind in NODE_KINDS if self.todo[kind]]

    @property
    def parallelism(self) -> float:
        """Average number of nodes computed at the same time so far; at least 1."""
        busy = sum(map(sum, self._seconds.values()))
        elapsed = self.clock() - self._began
        return max(1.0, busy / elapsed) if elapsed > 0 else 1.0

    @property
    def estimate(self) -> RemainingTime | None:
        """Remaining time, from mean durations of finished nodes and the speed of running ones."""
        left_s, longest, unknown, known = 0.0, 0.0, False, False
        for kind in self.kinds:
            left = self._left(kind)
            if left <= 0:
                continue
            times = self._seconds.get(kind) or [
                each.seconds
                for each in self.running.values()
                if each.node.kind == kind and each.seconds is not None
            ]
            if times:
                left_s += fmean(times) * left
                longest = max(longest, fmean(times) * min(left, 1.0))
                known = True
            elif KINDS[kind].uses_network:
                # other kinds take seconds, so the estimate does not need them
                unknown = True
        if not known:
            return None
        return RemainingTime(max(left_s / self.parallelism, longest), unknown)

    @property
    def counts(self) -> str:
        """Such as `12 of 40 nodes, 1 failed, 3 cells cannot be scored`."""
        parts = [f"{self.done.total()} of {self.todo.total()} nodes"]
        if self.failed.total():
            parts.append(f"{self.failed.total()} failed")
        if self.cells_lost:
            parts.append(f"{counted(len(self.cells_lost), 'cell')} cannot be scored")
        return ", ".join(parts)

    def notes(self, count: int) -> list[str]:
        """Last messages of the first running nodes, as `train demo-iat: epoch 3/10, loss 0.512`."""
        told = (each for each in self.running.values() if each.last is not None)
        return [f"{self.name(each.node)}: {each.words}" for each in islice(told, count)]

    def news(self, done: Done) -> list[str]:
        """Notes of a finished node about its inputs and network, each reported once in a run."""
        said = done.how.get("said")
        lines = [str(line) for line in said] if isinstance(said, list) else []
        new = [line for line in lines if line not in self._said]
        self._said.update(new)
        return new

    def name(self, node: Node) -> str:
        """Name of a node, such as `craft demo-iat/untargeted-pgd10, images 0 to 500`."""
        if node.digest not in self._names:
            self._names[node.digest] = node_name(node, self.grid)
        return self._names[node.digest]


def _share(progress: Progress) -> float:
    return min(1.0, progress.done / progress.total) if progress.total > 0 else 0.0

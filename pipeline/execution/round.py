"""One round of a run: which of its nodes are ready, running, or computed by another run."""

from __future__ import annotations

import time
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from heapq import heapify, heappop, heappush

from pipeline.execution.executors.base import Executor
from pipeline.grid.graph import Graph
from pipeline.plan.planning import Plan

LOOK_S = 1.0
"""Interval for checking the leases of other runs, if any node is waiting for them."""


@dataclass
class Round:
    """State of one round, which executes one plan.

    Attributes:
        rank: Priority of each node by digest; smaller values start first: by kind, then cell by
            cell, so that scores come early.
        waiting: Planned parents that are not stored yet, by the digest of the child.
        ready: Rank and digest of the nodes that can start, a heap.
        running: The executor of each running node, by digest.
        elsewhere: Nodes that another run is computing.
        ended: Nodes that are done or failed.
        mended: Damaged inputs that were dealt with in this round.
        over: Whether no further node is started.
    """

    plan: Plan
    graph: Graph
    rank: Mapping[str, int] = field(init=False)
    waiting: dict[str, set[str]] = field(init=False)
    ready: list[tuple[int, str]] = field(init=False)
    running: dict[str, Executor] = field(default_factory=dict)
    elsewhere: set[str] = field(default_factory=set)
    ended: set[str] = field(default_factory=set)
    mended: set[str] = field(default_factory=set)
    over: bool = False
    _looked: float = field(default_factory=time.monotonic)

    def __post_init__(self) -> None:
        todo = self.plan.todo
        order = sorted(todo, key=lambda digest: self.graph[digest].info.rank)
        self.rank = {digest: rank for rank, digest in enumerate(order)}
        self.waiting = {
            digest: {parent.digest for _, parent in self.graph[digest].parents} & todo.keys()
            for digest in todo
        }
        parents = self.waiting.items()
        self.ready = [(self.rank[digest], digest) for digest, left in parents if not left]
        heapify(self.ready)

    def push(self, digest: str) -> None:
        """Mark a node as ready to start."""
        heappush(self.ready, (self.rank[digest], digest))

    def pop(self) -> str:
        """Take the next node to start."""
        return heappop(self.ready)[1]

    def drop(self, digests: Collection[str]) -> None:
        """Remove nodes that can no longer be computed from the queue."""
        self.ready = [entry for entry in self.ready if entry[1] not in digests]
        heapify(self.ready)

    def release(self, child: str, parent: str) -> None:
        """Note that a parent is stored; its child becomes ready if it waited for nothing else."""
        if child in self.waiting and child not in self.ended | self.running.keys():
            self.waiting[child].discard(parent)
            if not self.waiting[child]:
                self.push(child)

    def looks_now(self) -> bool:
        """Whether it is time to check what other runs are computing."""
        due = bool(self.elsewhere) and time.monotonic() - self._looked >= LOOK_S
        if due:
            self._looked = time.monotonic()
        return due

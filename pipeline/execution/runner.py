"""The runner: walk the graph, skip what is stored, submit what is ready, survive failures.

    repeat
        plan what is absent (nothing: done)
        submit nodes whose parents are there, cell by cell, as many as are worth it
        as each ends: tell the observers and release its children;
            a failed one blocks its descendants and nothing else;
            an artifact found damaged is set aside, and the next round computes it again,
            as it does one that another process took away

A failure that no other node would escape, such as a full disk, ends the run: what runs ends.
Once the time of the run is up nothing more is submitted; what runs ends, a training at its epoch.
Rounds also catch artifacts whose ancestor was computed again with other content.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field, replace
from heapq import heapify, heappop, heappush

from pipeline.execution.events import (
    Again,
    CellScored,
    Done,
    Failure,
    NodeDone,
    NodeFailed,
    NodeRetried,
    NodeStarted,
    Observers,
    RunFinished,
    RunStarted,
    SetAside,
    Stopped,
)
from pipeline.execution.executors.base import Executor
from pipeline.grid.cells import Grid
from pipeline.grid.graph import Graph, Node
from pipeline.grid.names import node_name
from pipeline.plan.look import Look
from pipeline.plan.planning import Plan, make_plan
from pipeline.problems import BadInput, Unwritable
from pipeline.store.ledger import CellEntry, Ledger
from pipeline.store.store import Store


class TimeUp(Exception):
    """The time of the run is up and there is work left."""


@dataclass
class Run:
    """One walk over a grid's graph.

    start_executor is called when there is work for it; start_local when files of the user's
    have to be read first. cluster_first: start it before even these are read, since it may turn
    out to be of no use. `scores` maps a cell's name to its score node; `cards` are computed
    after them. until: Unix time, s,
    to stop at in order; each run begins one node at least, so that runs in pieces end.
    """

    grid: Grid
    graph: Graph
    scores: Mapping[str, Node]
    store: Store
    ledger: Ledger
    observers: Observers
    start_executor: Callable[[], Executor]
    start_local: Callable[[], Executor]
    cards: Collection[Node] = ()
    forced: Collection[str] = ()
    cluster_first: bool = False
    until: float | None = None
    computed: Counter[str] = field(default_factory=Counter)
    unchanged: set[str] = field(default_factory=set)
    failures: dict[str, Failure] = field(default_factory=dict)
    seen: Look | None = None
    """What the last round saw of the store, where nothing was to be done any more."""
    _executor: Executor | None = None
    _local: Executor | None = None
    _damage: Counter[str] = field(default_factory=Counter)
    _fresh: set[str] = field(default_factory=set)
    _told: set[str] = field(default_factory=set)
    _set_aside: int = 0
    _undone: set[str] = field(default_factory=set)

    def execute(self) -> RunFinished:
        """Run to the end, to `until` or the first Ctrl-C; what was finished is kept always."""
        began = time.monotonic()
        interrupted = False
        try:
            self._rounds()
        except (KeyboardInterrupt, TimeUp):
            interrupted = True
        finally:
            for executor in (self._executor, self._local):
                if executor is not None:
                    executor.close()
        finished = self._finished(time.monotonic() - began, interrupted=interrupted)
        self.observers.notify(finished)
        return finished

    def _rounds(self) -> None:
        left = set(self.forced)
        first = True
        while True:
            blocked = self._blocked()
            leaves = [*self.scores.values(), *self.cards]
            look = Look(self.store)
            plan = make_plan(
                self.graph, leaves, self.store, forced=left, without=blocked, look=look
            )
            for damaged in plan.damaged:
                self._put_aside(damaged.kind, damaged.digest, damaged.reason)
            if self._fatal() is not None:
                self._undone = set(plan.todo)
                return
            if not plan.todo:
                self.seen = look
                return
            if not first and self._time_is_up():
                raise TimeUp
            if first:
                if self.cluster_first:
                    self._executor = self.start_executor()
                done = self._ingest(plan)
                self._announce(plan)
                for result in done:
                    self._take(result)
                first = False
                plan = self._without(plan, done)
            left -= self._round(plan, left)

    def _ingest(self, plan: Plan) -> list[Done]:
        """Read the user's files before anything is started; what is wrong with them is BadInput."""
        done = []
        for digest in plan.todo:
            node = self.graph[digest]
            if node.info.local:
                local = self._local = self._local or self.start_local()
                local.submit(node, replace=digest in plan.replaced)
                result = local.next()
                while isinstance(result, Again):
                    result = local.next()
                if isinstance(result, Failure):
                    if result.fatal:
                        raise Unwritable(result.reason)
                    raise BadInput(f"{node.kind} of {self._first_cell(node)}: {result.reason}")
                if isinstance(result, Done):
                    done.append(result)
        return done

    def _first_cell(self, node: Node) -> str:
        below = self._descendants(node.digest)
        return next(name for name, score in self.scores.items() if score.digest in below)

    @staticmethod
    def _without(plan: Plan, done: list[Done]) -> Plan:
        finished = {result.digest for result in done}
        return replace(plan, todo={k: v for k, v in plan.todo.items() if k not in finished})

    def _announce(self, plan: Plan) -> None:
        self._executor = self._executor or self.start_executor()
        todo = plan.by_kind(self.graph)
        self.observers.notify(RunStarted(self.grid, todo, plan.stored, self._executor.name))

    def _round(self, plan: Plan, forced: set[str]) -> set[str]:
        """Compute what is planned; returns the forced digests that are done with."""
        waiting = {
            digest: {parent.digest for _, parent in self.graph[digest].parents} & plan.todo.keys()
            for digest in plan.todo
        }
        rank = self._ranks(plan)
        ready = [(rank[digest], digest) for digest, parents in waiting.items() if not parents]
        heapify(ready)
        running: dict[str, Executor] = {}
        ended: set[str] = set()
        mended: set[str] = set()
        again = False
        while True:
            while ready and not again and not ((running or ended) and self._time_is_up()):
                executor = self._executor_of(self.graph[ready[0][1]])
                if sum(other is executor for other in running.values()) >= executor.capacity:
                    break
                digest = heappop(ready)[1]
                node = self.graph[digest]
                self.observers.notify(NodeStarted(node))
                # what another driver has made since the plan is taken as it is
                executor.submit(node, replace=digest in plan.replaced)
                running[digest] = executor
            if not running:
                return forced & ended
            executor = next(iter(running.values()))
            result = executor.next()
            if isinstance(result, Again):
                self.observers.notify(NodeRetried(self.graph[result.digest], result.reason))
                continue
            running.pop(result.digest)
            ended.add(result.digest)
            if isinstance(result, Done):
                self._take(result)
                for digest in self._released(result.digest, waiting, ended | running.keys()):
                    heappush(ready, (rank[digest], digest))
            elif isinstance(result, Stopped):
                ended.discard(result.digest)
                again = True
            elif not self._mend(result, mended):
                self._fail(result)
                again = again or result.fatal
                gone = self._descendants(result.digest)
                ready = [entry for entry in ready if entry[1] not in gone]
                heapify(ready)
            else:
                # its input is computed again first; what was asked for with --force still is
                ended.discard(result.digest)
                again = True

    def _ranks(self, plan: Plan) -> dict[str, int]:
        """By the rank of their kind; then cell by cell, so scores come early."""
        order = sorted(plan.todo, key=lambda digest: self.graph[digest].info.rank)
        return {digest: rank for rank, digest in enumerate(order)}

    def _released(
        self, digest: str, waiting: dict[str, set[str]], begun: Collection[str]
    ) -> list[str]:
        """Nodes that waited for the artifact of this one alone."""
        released = []
        for child in self.graph.children(self.graph[digest]):
            if child.digest in waiting and child.digest not in begun:
                waiting[child.digest].discard(digest)
                if not waiting[child.digest]:
                    released.append(child.digest)
        return released

    def _fatal(self) -> Failure | None:
        return next((failure for failure in self.failures.values() if failure.fatal), None)

    def _time_is_up(self) -> bool:
        return self.until is not None and time.time() >= self.until

    def _executor_of(self, node: Node) -> Executor:
        if node.info.local:
            if self._local is None:
                self._local = self.start_local()
            return self._local
        assert self._executor is not None
        return self._executor

    def _take(self, done: Done) -> None:
        node = self.graph[done.digest]
        self.computed[node.kind] += 1
        self._fresh.add(done.digest)
        if done.unchanged:
            self.unchanged.add(done.digest)
        self.observers.notify(NodeDone(node, done))
        if node.kind == "score":
            for cell in self.grid.cells:
                if cell.name in self.scores and self.scores[cell.name] == node:
                    before = self.ledger.last(self.grid.name, cell.name)
                    old = before.facts if before is not None else None
                    self.observers.notify(CellScored(cell, node, done.facts, old, computed=True))

    def _mend(self, failure: Failure, mended: set[str]) -> bool:
        """Whether the failure was an input that the next round brings back; twice is enough.

        mended: digests of those of this round: of the nodes that find the same fault, one counts.
        """
        if failure.damaged is None:
            return False
        kind, digest = failure.damaged
        if digest not in mended:
            self._damage[digest] += 1
            if self._damage[digest] > 2:
                return False
            mended.add(digest)
            if failure.gone:
                self.observers.notify(NodeRetried(self.graph[failure.digest], failure.reason))
            else:
                self._put_aside(kind, digest, failure.reason)
        return True

    def _put_aside(self, kind: str, digest: str, reason: str) -> None:
        if self.store.set_aside(kind, digest) is not None:
            self._set_aside += 1
            self.observers.notify(SetAside(kind, digest, reason))

    def _fail(self, failure: Failure) -> None:
        self.failures[failure.digest] = failure
        below = self._descendants(failure.digest)
        gone = below | {failure.digest}
        cells = [name for name, node in self.scores.items() if node.digest in gone]
        self.observers.notify(
            NodeFailed(self.graph[failure.digest], failure, cells, blocked=len(below))
        )

    def _descendants(self, digest: str) -> frozenset[str]:
        return self.graph.descendants(self.graph[digest])

    def _blocked(self) -> set[str]:
        blocked = set(self.failures)
        for digest in self.failures:
            blocked |= self._descendants(digest)
        return blocked

    def _finished(self, seconds: float, *, interrupted: bool) -> RunFinished:
        scored: dict[str, Mapping[str, object]] = {}
        missing: dict[str, str] = {}
        look = self.seen or Look(self.store)
        for name, node in self.scores.items():
            state = look.state(node, self.graph)
            reason = self._why_missing(node)
            if state.standing is not None and reason is None:
                scored[name] = state.standing.facts
            else:
                missing[name] = reason or state.reason
        return RunFinished(
            grid=self.grid,
            scored=scored,
            missing=missing,
            without_card={
                node_name(node, self.grid): self.failures[node.digest].reason
                for node in self.cards
                if node.digest in self.failures
            },
            computed=dict(self.computed),
            seconds=seconds,
            interrupted=interrupted,
            set_aside=self._set_aside,
        )

    def _why_missing(self, node: Node) -> str | None:
        for digest, failure in self.failures.items():
            if digest == node.digest or node.digest in self._descendants(digest):
                return failure.reason
        fatal = self._fatal()
        return fatal.reason if fatal is not None and node.digest in self._undone else None

    def entries(self) -> dict[str, CellEntry]:
        """The cells as the ledger keeps them."""
        entries = {}
        look = self.seen or Look(self.store)
        for name, node in self.scores.items():
            record = look.standing(node, self.graph)
            fresh = node.digest in self._fresh
            if record is not None:
                entries[name] = CellEntry(node.digest, record.content, record.facts, fresh)
            else:
                entries[name] = CellEntry(node.digest)
        return entries

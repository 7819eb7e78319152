"""The runner: walk the graph, skip what is stored, submit what is ready, survive failures.

    repeat
        plan what is absent (nothing: done)
        submit nodes whose parents are there, cell by cell, as many as are worth it;
            what another run is at (see `leases`) is left to it, and taken when it is there
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
    CellScored,
    Done,
    Elsewhere,
    Failure,
    NodeDone,
    NodeFailed,
    NodeRetried,
    NodeStarted,
    Observers,
    Retry,
    RunFinished,
    RunStarted,
    SetAside,
    Stopped,
)
from pipeline.execution.executors.base import Executor
from pipeline.grid.cells import Grid
from pipeline.grid.graph import Graph, Node
from pipeline.grid.names import node_name
from pipeline.plan.planning import Plan, make_plan
from pipeline.plan.snapshot import Snapshot
from pipeline.problems import BadInput, Unwritable
from pipeline.problems.sanitize import clean, shown_lines
from pipeline.store.leases import Leases
from pipeline.store.ledger import CellEntry, Ledger
from pipeline.store.store import Store

LOOK_S = 1.0
"""How often to look at what other runs are at, while something waits for it."""


@dataclass
class _Round:
    """What is ready, at work and over of one plan. rank: digest → place, first things first.

    waiting: digest → planned parents that are not there yet. elsewhere: what another run is at.
    over: nothing more is begun.
    """

    plan: Plan
    rank: Mapping[str, int]
    waiting: dict[str, set[str]]
    ready: list[tuple[int, str]] = field(init=False)
    running: dict[str, Executor] = field(default_factory=dict)
    elsewhere: set[str] = field(default_factory=set)
    ended: set[str] = field(default_factory=set)
    mended: set[str] = field(default_factory=set)
    over: bool = False
    _looked: float = field(default_factory=time.monotonic)

    def __post_init__(self) -> None:
        parents = self.waiting.items()
        self.ready = [(self.rank[digest], digest) for digest, left in parents if not left]
        heapify(self.ready)

    def push(self, digest: str) -> None:
        """A node can be begun."""
        heappush(self.ready, (self.rank[digest], digest))

    def pop(self) -> str:
        """The next node to begin."""
        return heappop(self.ready)[1]

    def drop(self, digests: Collection[str]) -> None:
        """These nodes cannot be begun any more."""
        self.ready = [entry for entry in self.ready if entry[1] not in digests]
        heapify(self.ready)

    def release(self, child: str, parent: str) -> None:
        """A parent's artifact is there: its child may have waited for it alone."""
        if child in self.waiting and child not in self.ended | self.running.keys():
            self.waiting[child].discard(parent)
            if not self.waiting[child]:
                self.push(child)

    def looks_now(self) -> bool:
        """Whether it is time to look at what other runs are at."""
        due = bool(self.elsewhere) and time.monotonic() - self._looked >= LOOK_S
        if due:
            self._looked = time.monotonic()
        return due


class TimeLimitReached(Exception):
    """The time of the run is up and there is work left."""


@dataclass
class Run:
    """One walk over a grid's graph.

    start_executor is called when there is work for it; start_local when files of the user's
    have to be read first. cluster_first: start it before even these are read, since it may turn
    out to be of no use. `scores` maps a cell's name to its score node; `cards` and `exhibits` are
    computed after them, see `make_plan`. until: Unix time, s, to stop at in order; each run begins
    one node at least, so that runs in pieces end.
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
    exhibits: Collection[Node] = ()
    forced: Collection[str] = ()
    cluster_first: bool = False
    until: float | None = None
    computed: Counter[str] = field(default_factory=Counter)
    unchanged: set[str] = field(default_factory=set)
    failures: dict[str, Failure] = field(default_factory=dict)
    last_snapshot: Snapshot | None = None
    """What the last round saw of the store, where nothing was to be done any more."""
    _executor: Executor | None = None
    _local: Executor | None = None
    _damage: Counter[str] = field(default_factory=Counter)
    _fresh: set[str] = field(default_factory=set)
    _told: set[str] = field(default_factory=set)
    _set_aside: int = 0
    _undone: set[str] = field(default_factory=set)
    _leases: Leases = field(init=False)

    def __post_init__(self) -> None:
        self._leases = Leases(self.store.backend)

    def execute(self) -> RunFinished:
        """Run to the end, to `until` or the first Ctrl-C; what was finished is kept always."""
        began = time.monotonic()
        interrupted = False
        try:
            self._rounds()
        except (KeyboardInterrupt, TimeLimitReached):
            interrupted = True
        finally:
            for executor in (self._executor, self._local):
                if executor is not None:
                    executor.close()
            self._leases.close()
        finished = self._finished(time.monotonic() - began, interrupted=interrupted)
        self.observers.notify(finished)
        return finished

    def _rounds(self) -> None:
        left = set(self.forced)
        first = True
        while True:
            blocked = self._blocked()
            leaves = [*self.scores.values(), *self.cards]
            snapshot = Snapshot(self.store)
            plan = make_plan(
                self.graph,
                leaves,
                self.store,
                exhibits=self.exhibits,
                forced=left,
                without=blocked,
                snapshot=snapshot,
            )
            for damaged in plan.damaged:
                self._put_aside(damaged.kind, damaged.digest, damaged.reason)
            if self._fatal() is not None:
                self._undone = set(plan.todo)
                return
            if not plan.todo:
                self.last_snapshot = snapshot
                return
            if not first and self._time_is_up():
                raise TimeLimitReached
            if first:
                if self.cluster_first:
                    self._executor = self.start_executor()
                done, failed = self._ingest(plan)
                self._announce(plan)
                for result in done:
                    self._take(result)
                for failure in failed:
                    self._fail(failure)
                first = False
                plan = self._without(plan, done)
            left -= self._round(plan, left)

    def _ingest(self, plan: Plan) -> tuple[list[Done], list[Failure]]:
        """Read the user's files before anything is started.

        What is wrong with them is BadInput where every cell needs them; else it fails those that
        do.
        """
        done: list[Done] = []
        failed: list[Failure] = []
        lost: set[str] = set()
        for digest in plan.todo:
            node = self.graph[digest]
            if node.info.local and digest not in lost:
                local = self._local = self._local or self.start_local()
                while not self._leases.claim(digest):
                    time.sleep(LOOK_S)
                local.submit(node, replace=digest in plan.replaced)
                result = local.next()
                while result is None or isinstance(result, Retry):
                    result = local.next()
                self._leases.release(digest)
                if isinstance(result, Failure):
                    if result.fatal:
                        raise Unwritable(result.reason)
                    failed.append(result)
                    lost |= {digest, *self._descendants(digest)}
                if isinstance(result, Done):
                    done.append(result)
        if failed and all(leaf.digest in lost for leaf in (*self.scores.values(), *self.cards)):
            node = self.graph[failed[0].digest]
            raise BadInput(f"{node_name(node, self.grid)}: {failed[0].reason}")
        return done, failed

    def _without(self, plan: Plan, done: list[Done]) -> Plan:
        """What is left of a plan after its files were read, and what failed of them."""
        gone = self._blocked().union(result.digest for result in done)
        return replace(plan, todo={k: v for k, v in plan.todo.items() if k not in gone})

    def _announce(self, plan: Plan) -> None:
        self._executor = self._executor or self.start_executor()
        todo = plan.by_kind(self.graph)
        self.observers.notify(RunStarted(self.grid, todo, plan.stored, self._executor.name))

    def _round(self, plan: Plan, forced: set[str]) -> set[str]:
        """Compute what is planned; returns the forced digests that are done with."""
        round_ = _Round(plan, self._ranks(plan), self._parents(plan))
        while True:
            self._submit(round_)
            if round_.looks_now():
                self._look_elsewhere(round_)
            elif round_.running:
                executor = next(iter(round_.running.values()))
                result = executor.next(LOOK_S if round_.elsewhere else None)
                if isinstance(result, Retry):
                    self.observers.notify(NodeRetried(self.graph[result.digest], result.reason))
                elif result is not None:
                    self._leases.release(result.digest)
                    self._end(round_, result)
            elif round_.elsewhere and not round_.over and not self._time_is_up():
                time.sleep(LOOK_S / 4)
            else:
                return forced & round_.ended

    def _parents(self, plan: Plan) -> dict[str, set[str]]:
        """The parents that each planned node waits for."""
        return {
            digest: {parent.digest for _, parent in self.graph[digest].parents} & plan.todo.keys()
            for digest in plan.todo
        }

    def _submit(self, round_: _Round) -> None:
        """Hand out what is ready, as much as is worth it and no other run is at."""
        running = round_.running
        while round_.ready and not round_.over:
            if (running or round_.ended) and self._time_is_up():
                return
            executor = self._executor_of(self.graph[round_.ready[0][1]])
            if sum(other is executor for other in running.values()) >= executor.capacity:
                return
            digest = round_.pop()
            if not self._leases.claim(digest):
                round_.elsewhere.add(digest)
                continue
            node = self.graph[digest]
            self.observers.notify(NodeStarted(node))
            # what another driver has made since the plan is taken as it is
            executor.submit(node, replace=digest in round_.plan.replaced)
            running[digest] = executor

    def _end(self, round_: _Round, result: Done | Failure | Stopped) -> None:
        """Note how a node ended, and what follows from it."""
        round_.running.pop(result.digest, None)
        round_.ended.add(result.digest)
        if isinstance(result, Done):
            self._take(result)
            for child in self.graph.children(self.graph[result.digest]):
                round_.release(child.digest, result.digest)
        elif isinstance(result, Stopped):
            round_.ended.discard(result.digest)
            round_.over = True
        elif not self._mend(result, round_.mended):
            self._fail(result)
            round_.over = round_.over or result.fatal
            round_.drop(self._descendants(result.digest))
        else:
            # its input is computed again first; what was asked for with --force still is
            round_.ended.discard(result.digest)
            round_.over = True

    def _look_elsewhere(self, round_: _Round) -> None:
        """Take what other runs have made, and what they gave up."""
        others = self._leases.others()
        for digest in sorted(round_.elsewhere, key=round_.rank.__getitem__):
            node, holder = self.graph[digest], others.get(digest)
            if holder is not None:
                if str(holder) not in self._told:
                    self._told.add(str(holder))
                    self.observers.notify(Elsewhere(node, str(holder)))
                continue
            round_.elsewhere.discard(digest)
            found = self.store.state(node.kind, digest).standing
            if found is None or digest in round_.plan.replaced:
                round_.push(digest)
            else:
                done = Done(digest, found.content, found.facts, found.how, found=True)
                self._end(round_, done)

    def _ranks(self, plan: Plan) -> dict[str, int]:
        """By the rank of their kind; then cell by cell, so scores come early."""
        order = sorted(plan.todo, key=lambda digest: self.graph[digest].info.rank)
        return {digest: rank for rank, digest in enumerate(order)}

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
        if not done.found:
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
                    self.observers.notify(
                        CellScored(cell, node, done.facts, old, computed=not done.found)
                    )

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
        for digest, failure in self.failures.items():
            if digest == node.digest or node.digest in self._descendants(digest):
                return failure.reason
        fatal = self._fatal()
        return fatal.reason if fatal is not None and node.digest in self._undone else None

    def failure_details(self) -> dict[str, str]:
        """The line of each failure that has details, such as a traceback, and its details."""
        details = {}
        for digest, failure in self.failures.items():
            if failure.detail and failure.detail != failure.reason:
                name = node_name(self.graph[digest], self.grid)
                line = clean(f"{name} ({digest[:12]}): {failure.reason}")
                details[line] = "\n".join(shown_lines(failure.detail))
        return details

    def entries(self) -> dict[str, CellEntry]:
        """The cells as the ledger keeps them."""
        entries = {}
        snapshot = self.last_snapshot or Snapshot(self.store)
        for name, node in self.scores.items():
            record = snapshot.standing(node, self.graph)
            fresh = node.digest in self._fresh
            if record is not None:
                entries[name] = CellEntry(node.digest, record.content, record.facts, fresh)
            else:
                entries[name] = CellEntry(node.digest)
        return entries

"""The runner: walks the task graph, skips what is stored, and computes the rest.

    repeat
        plan which nodes are missing; stop if there are none
        submit nodes whose parents are stored, cell by cell, up to the executor's capacity;
            nodes leased by another run (see `leases`) are awaited instead
        when a node ends, notify the observers and release its children;
            a failed node blocks its descendants, but nothing else;
            a damaged artifact is set aside and computed again in the next round,
            as is one that another process removed

A fatal failure, such as a full disk, ends the run after the running nodes. At the time limit no
more nodes are submitted; running ones finish, a training at the end of its epoch. Further rounds
also catch artifacts that became outdated because an ancestor was recomputed with other content.
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
from pipeline.store.verify import still_damaged

NOT_AGAIN = "not computed again before the run ended; the stored score is of an earlier run"
"""Reason for a missing score where the run was to replace the stored one."""
LOOK_S = 1.0
"""Interval for checking the leases of other runs, if any node is waiting for them."""


@dataclass
class _Round:
    """State of one round, which executes one plan.

    Attributes:
        rank: Priority of each node by digest; smaller values start first.
        waiting: Planned parents that are not stored yet, by the digest of the child.
        elsewhere: Nodes that another run is computing.
        ended: Nodes that are done or failed.
        mended: Damaged inputs that were dealt with in this round.
        over: Whether no further node is started.
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


class TimeLimitReached(Exception):
    """The time limit of the run was reached with work left."""


@dataclass
class Run:
    """One run over the task graph of a grid.

    Attributes:
        scores: Score node of each cell to compute, by cell name.
        start_executor: Creates the executor; called when there is work for it.
        start_local: Creates the executor for nodes that read the user's files, which come first.
        cards, exhibits: Further nodes to compute; see `make_plan`.
        forced: Digests of nodes to compute again.
        cluster_first: Start the executor even before the user's files are read, since a cluster may
            turn out to be unusable.
        until: Time limit, Unix time in seconds. Each run starts at least one node, so that a
            sequence of limited runs makes progress.
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
    """State of the store in the last round, if that found nothing left to do."""
    _executor: Executor | None = None
    _local: Executor | None = None
    _damage: Counter[str] = field(default_factory=Counter)
    _fresh: set[str] = field(default_factory=set)
    _told: set[str] = field(default_factory=set)
    _set_aside: int = 0
    _undone: set[str] = field(default_factory=set)
    _forced_left: set[str] = field(init=False)
    """The forced nodes that have neither been computed nor failed."""
    _leases: Leases = field(init=False)

    def __post_init__(self) -> None:
        self._leases = Leases(self.store.backend)
        self._forced_left = set(self.forced)

    def execute(self) -> RunFinished:
        """Run to completion, to the time limit or to the first Ctrl-C.

        The artifacts of finished nodes are kept in every case.
        """
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
                forced=self._forced_left,
                without=blocked,
                snapshot=snapshot,
            )
            self._put_damaged_aside(plan)
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
            self._round(plan)

    def _ingest(self, plan: Plan) -> tuple[list[Done], list[Failure]]:
        """Compute the nodes that read the user's files, before anything else is started.

        Returns:
            The nodes that are done, and those that failed.

        Raises:
            BadInput: If a file is invalid and all cells need it. Otherwise only the cells fail that
                do.
            TimeLimitReached: If another run was still reading a file.
            Unwritable: If the store cannot be written.
        """
        done: list[Done] = []
        failed: list[Failure] = []
        lost: set[str] = set()
        for digest in plan.todo:
            node = self.graph[digest]
            if node.info.local and digest not in lost:
                local = self._local = self._local or self.start_local()
                self._wait_to_claim(node)
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

    def _wait_to_claim(self, node: Node) -> None:
        """Take the lease of a node; if another run has it, say so and wait until it is released.

        Raises:
            TimeLimitReached: If it is not released in time.
        """
        while not self._leases.claim(node.digest):
            if (holder := self._leases.others().get(node.digest)) is not None:
                self._tell_elsewhere(node, str(holder))
            if self._time_is_up():
                raise TimeLimitReached
            time.sleep(LOOK_S)

    def _tell_elsewhere(self, node: Node, holder: str) -> None:
        """Notify that another run computes a node, once for each run."""
        if holder not in self._told:
            self._told.add(holder)
            self.observers.notify(Elsewhere(node, holder, self.grid))

    def _without(self, plan: Plan, done: list[Done]) -> Plan:
        """The rest of a plan after the user's files were read."""
        gone = self._blocked().union(result.digest for result in done)
        return replace(plan, todo={k: v for k, v in plan.todo.items() if k not in gone})

    def _announce(self, plan: Plan) -> None:
        self._executor = self._executor or self.start_executor()
        todo = plan.by_kind(self.graph)
        self.observers.notify(RunStarted(self.grid, todo, plan.stored, self._executor.name))

    def _round(self, plan: Plan) -> None:
        """Execute a plan."""
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
                return

    def _parents(self, plan: Plan) -> dict[str, set[str]]:
        """Planned parents of each planned node."""
        return {
            digest: {parent.digest for _, parent in self.graph[digest].parents} & plan.todo.keys()
            for digest in plan.todo
        }

    def _submit(self, round_: _Round) -> None:
        """Submit ready nodes up to the executor's capacity, except those leased by other runs."""
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
            # without replace, an artifact that another driver made since the plan is accepted
            executor.submit(node, replace=digest in round_.plan.replaced)
            running[digest] = executor

    def _end(self, round_: _Round, result: Done | Failure | Stopped) -> None:
        """Record how a node ended, and release, retry or block what depends on it."""
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
            # the damaged input is computed again first; a forced node remains forced
            round_.ended.discard(result.digest)
            round_.over = True

    def _look_elsewhere(self, round_: _Round) -> None:
        """Accept artifacts that other runs have completed, and queue nodes that they gave up."""
        others = self._leases.others()
        for digest in sorted(round_.elsewhere, key=round_.rank.__getitem__):
            node, holder = self.graph[digest], others.get(digest)
            if holder is not None:
                self._tell_elsewhere(node, str(holder))
                continue
            round_.elsewhere.discard(digest)
            found = self.store.state(node.kind, digest).standing
            if found is None or digest in round_.plan.replaced:
                round_.push(digest)
            else:
                done = Done(digest, found.content, found.facts, found.how, found=True)
                self._end(round_, done)

    def _ranks(self, plan: Plan) -> dict[str, int]:
        """Priority of each planned node: by kind, then cell by cell, so that scores come early."""
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
        self._forced_left.discard(done.digest)
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
        """Handle a failure that was caused by a damaged or missing input.

        Damage that a second look does not find is first read again. An input is repaired twice at
        most. Nodes that find the same fault in one round count once,
        by `mended`.

        Returns:
            Whether the next round will compute the input again; if not, the node has failed.
        """
        if failure.damaged is None:
            return False
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

    def _put_damaged_aside(self, plan: Plan) -> None:
        """Set aside what a plan found damaged, unless another run has replaced it meanwhile."""
        for found in plan.damaged:
            if self.store.state(found.kind, found.digest).status == "damaged":
                self._put_aside(found.kind, found.digest, found.reason)

    def _put_aside(self, kind: str, digest: str, reason: str) -> None:
        if self.store.set_aside(kind, digest) is not None:
            self._set_aside += 1
            self.observers.notify(SetAside(kind, digest, reason))

    def _fail(self, failure: Failure) -> None:
        self.failures[failure.digest] = failure
        self._forced_left.discard(failure.digest)
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
        """Why a score or card is missing, or was not replaced as asked; None if it is as asked."""
        for digest, failure in self.failures.items():
            if digest == node.digest or node.digest in self._descendants(digest):
                return failure.reason
        fatal = self._fatal()
        if fatal is not None and node.digest in self._undone:
            return fatal.reason
        left = node.digest in self._forced_left
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

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
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field, replace

from pipeline.execution.events import (
    Done,
    Elsewhere,
    Failure,
    NodeRetried,
    NodeStarted,
    Observers,
    Retry,
    RunFinished,
    RunStarted,
    Stopped,
)
from pipeline.execution.executors.base import Executor
from pipeline.execution.outcomes import Outcomes
from pipeline.execution.round import LOOK_S, Round
from pipeline.grid.cells import Grid
from pipeline.grid.graph import Graph, Node
from pipeline.grid.names import node_name
from pipeline.plan.planning import Plan, make_plan
from pipeline.plan.snapshot import Snapshot
from pipeline.problems import BadInput, Unwritable
from pipeline.store.leases import Leases
from pipeline.store.ledger import Ledger
from pipeline.store.store import Store


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
    outcomes: Outcomes = field(init=False)
    _executor: Executor | None = None
    _local: Executor | None = None
    _told: set[str] = field(default_factory=set)
    _leases: Leases = field(init=False)

    def __post_init__(self) -> None:
        self._leases = Leases(self.store.backend)
        self.outcomes = Outcomes(
            grid=self.grid,
            graph=self.graph,
            scores=self.scores,
            cards=self.cards,
            exhibits=self.exhibits,
            forced=self.forced,
            store=self.store,
            ledger=self.ledger,
            observers=self.observers,
        )

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
        finished = self.outcomes.finished(time.monotonic() - began, interrupted=interrupted)
        self.observers.notify(finished)
        return finished

    def _rounds(self) -> None:
        first = True
        while True:
            blocked = self.outcomes.blocked()
            leaves = [*self.scores.values(), *self.cards]
            snapshot = Snapshot(self.store)
            plan = make_plan(
                self.graph,
                leaves,
                self.store,
                exhibits=self.exhibits,
                forced=self.outcomes.forced_left,
                without=blocked,
                snapshot=snapshot,
            )
            self.outcomes.put_damaged_aside(plan)
            if self.outcomes.fatal() is not None:
                self.outcomes.undone = set(plan.todo)
                return
            if not plan.todo:
                self.outcomes.last_snapshot = snapshot
                return
            if not first and self._time_is_up():
                raise TimeLimitReached
            if first:
                if self.cluster_first:
                    self._executor = self.start_executor()
                done, failed = self._ingest(plan)
                self._announce(plan)
                for result in done:
                    self.outcomes.take(result)
                for failure in failed:
                    self.outcomes.fail(failure)
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
                local = self._executor_of(node)
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
                    lost |= {digest, *self.graph.descendants(digest)}
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
        gone = self.outcomes.blocked().union(result.digest for result in done)
        return replace(plan, todo={k: v for k, v in plan.todo.items() if k not in gone})

    def _announce(self, plan: Plan) -> None:
        self._executor = self._executor or self.start_executor()
        todo = plan.by_kind(self.graph)
        self.observers.notify(RunStarted(self.grid, todo, plan.stored, self._executor.name))

    def _round(self, plan: Plan) -> None:
        """Execute a plan."""
        round_ = Round(plan, self.graph)
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

    def _submit(self, round_: Round) -> None:
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

    def _end(self, round_: Round, result: Done | Failure | Stopped) -> None:
        """Record how a node ended, and release, retry or block what depends on it."""
        round_.running.pop(result.digest, None)
        round_.ended.add(result.digest)
        if isinstance(result, Done):
            self.outcomes.take(result)
            for child in self.graph.children(self.graph[result.digest]):
                round_.release(child.digest, result.digest)
        elif isinstance(result, Stopped):
            round_.ended.discard(result.digest)
            round_.over = True
        elif not self.outcomes.mend(result, round_.mended):
            self.outcomes.fail(result)
            round_.over = round_.over or result.fatal
            round_.drop(self.graph.descendants(result.digest))
        else:
            # the damaged input is computed again first; a forced node remains forced
            round_.ended.discard(result.digest)
            round_.over = True

    def _look_elsewhere(self, round_: Round) -> None:
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

    def _time_is_up(self) -> bool:
        return self.until is not None and time.time() >= self.until

    def _executor_of(self, node: Node) -> Executor:
        if node.info.local:
            if self._local is None:
                self._local = self.start_local()
            return self._local
        assert self._executor is not None
        return self._executor

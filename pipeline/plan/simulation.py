"""Simulates the execution of a task graph on a number of workers, from estimated durations.

As in the real runner, ready nodes start by the rank of their kind and then in plan order, a single
driver submits them, and a worker runs one task at a time.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from heapq import heapify, heappop, heappush

from pipeline.grid.graph import Graph, Node
from pipeline.grid.kinds import KINDS, NodeKind
from tasks.evaluation.specs import CraftSpec, DefendSpec, SelectSpec
from tasks.specs import SHARD


@dataclass(frozen=True)
class Overhead:
    """Overhead of a task in seconds: on its worker, and in the driver before it starts."""

    task_s: float
    driver_s: float


@dataclass(frozen=True)
class Task:
    """Nodes that one worker computes in sequence; after: the tasks that have to end first."""

    nodes: tuple[Node, ...]
    seconds: float
    after: frozenset[int]

    @property
    def kind(self) -> NodeKind:
        """Kind of its nodes."""
        return self.nodes[0].kind


@dataclass(frozen=True)
class Replay:
    """Result of a simulation: total duration, and time that workers were busy, in seconds."""

    workers: int
    wall_s: float
    busy_s: float

    @property
    def use(self) -> float:
        """Utilisation of the workers, 0 to 1."""
        return self.busy_s / (self.wall_s * self.workers) if self.wall_s else 1.0


def tasks_of(graph: Graph, seconds: Mapping[str, float], *, shards: int) -> list[Task]:
    """Group nodes into tasks, in topological order.

    Args:
        seconds: Duration of each node to include, by digest.
        shards: Number of shards of the same work that may share a task.
    """
    groups: dict[str, list[Node]] = {}
    for node in graph:
        if node.digest in seconds:
            groups.setdefault(_group(node, shards), []).append(node)
    place = {node.digest: number for number, nodes in enumerate(groups.values()) for node in nodes}
    return [
        Task(
            tuple(nodes),
            sum(seconds[node.digest] for node in nodes),
            frozenset(
                place[parent.digest]
                for node in nodes
                for _, parent in node.parents
                if parent.digest in place
            ),
        )
        for nodes in groups.values()
    ]


def _group(node: Node, shards: int) -> str:
    """Key that is equal for nodes of the same task."""
    if shards == 1 or not isinstance(node.spec, CraftSpec | DefendSpec | SelectSpec):
        return node.digest
    about: list[object] = [node.kind, node.spec.model_dump(mode="json", exclude={"shard"})]
    for role, parent in node.parents:
        cut = isinstance(parent.spec, CraftSpec | SelectSpec)
        spec = parent.spec.model_dump(mode="json", exclude={"shard"} if cut else None)
        about.append([role, spec if cut else parent.digest])
    number = node.spec.shard.start // (SHARD * shards)
    return json.dumps([*about, number], sort_keys=True)


def replay(tasks: list[Task], workers: int, costs: Overhead) -> Replay:
    """Simulate the execution of all tasks."""
    children: dict[int, list[int]] = {}
    waiting = [len(task.after) for task in tasks]
    for number, task in enumerate(tasks):
        for before in task.after:
            children.setdefault(before, []).append(number)
    ready = [_ranked(tasks, number) for number, count in enumerate(waiting) if not count]
    heapify(ready)
    running: list[tuple[float, int]] = []
    now = driver = busy = 0.0
    while ready or running:
        while ready and len(running) < workers:
            _, number = heappop(ready)
            driver = max(driver, now) + costs.driver_s
            taken = costs.task_s + tasks[number].seconds
            busy += taken
            heappush(running, (driver + taken, number))
        now, ended = heappop(running)
        for child in children.get(ended, ()):
            waiting[child] -= 1
            if not waiting[child]:
                heappush(ready, _ranked(tasks, child))
    return Replay(workers, now, busy)


def _ranked(tasks: list[Task], number: int) -> tuple[tuple[int, int], int]:
    return (KINDS[tasks[number].kind].rank, number), number


def longest_chain(tasks: list[Task], costs: Overhead) -> list[Task]:
    """The critical path: the chain of dependent tasks with the longest total duration."""
    ends: list[float] = []
    before: list[int | None] = []
    for task in tasks:
        last = max(task.after, key=lambda number: ends[number], default=None)
        begin = ends[last] if last is not None else 0.0
        ends.append(begin + costs.driver_s + costs.task_s + task.seconds)
        before.append(last)
    at = max(range(len(tasks)), key=lambda number: ends[number], default=None)
    chain = list(_back(at, before))
    return [tasks[number] for number in reversed(chain)]


def _back(at: int | None, before: list[int | None]) -> Iterator[int]:
    while at is not None:
        yield at
        at = before[at]

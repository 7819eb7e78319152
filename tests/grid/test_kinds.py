"""The table of the kinds of node, and what is to agree with it."""

from __future__ import annotations

import importlib.util
from typing import get_args

import pytest

from pipeline.execution.work.kinds import PERFORM
from pipeline.grid.graph import Graph, Node
from pipeline.grid.kinds import FORCE_STARTS, KINDS, NODE_KINDS, NodeKind, forced_kinds
from pipeline.plan.simulation import Overhead, replay, tasks_of
from tasks.specs import Shard


def test_every_kind_has_one_row_in_the_order_of_the_work_and_a_function_that_performs_it() -> None:
    assert get_args(NodeKind) == NODE_KINDS == tuple(PERFORM)


@pytest.mark.parametrize("kind", NODE_KINDS)
def test_the_modules_that_perform_a_kind_exist(kind: NodeKind) -> None:
    assert KINDS[kind].modules
    for module in KINDS[kind].modules:
        assert importlib.util.find_spec(module) is not None


def test_a_later_start_of_force_takes_the_earlier_ones_along_and_never_a_training() -> None:
    assert forced_kinds("defend") == {"defend", "score", "exhibit"}
    assert forced_kinds("craft") == forced_kinds("defend") | {"craft", "select", "card"}
    assert FORCE_STARTS == ("defend", "craft")


def node(kind: NodeKind, number: int) -> Node:
    return Node(kind, Shard(start=number, stop=number + 1))


def test_the_simulation_starts_nodes_in_the_order_of_the_runner() -> None:
    cards, craft = [node("card", 0), node("card", 1)], node("craft", 2)
    graph = Graph([*cards, craft])
    seconds = {craft.digest: 4.0, **{card.digest: 1.0 for card in cards}}
    tasks = tasks_of(graph, seconds, shards=1)
    # cards come last: were both started first, as in the graph, the craft would end after 5 s
    assert replay(tasks, 2, Overhead(task_s=0.0, driver_s=0.0)).wall_s == 4.0

"""The kinds of nodes: the function that does the work of each.

A function reads the node's parents, calls the task, and returns the files to write.
"""

from __future__ import annotations

from collections.abc import Callable

from pipeline.execution.work.evaluate import (
    card_node,
    craft_node,
    defend_node,
    exhibit_node,
    select_node,
)
from pipeline.execution.work.inputs import NodeInputs
from pipeline.execution.work.output import NodeOutput
from pipeline.execution.work.prepare import (
    checkpoint_node,
    dataset_node,
    ensemble_node,
    train_node,
)
from pipeline.execution.work.score import score_node
from pipeline.grid.kinds import NodeKind

PERFORM: dict[NodeKind, Callable[[NodeInputs], NodeOutput]] = {
    "dataset": dataset_node,
    "train": train_node,
    "checkpoint": checkpoint_node,
    "ensemble": ensemble_node,
    "craft": craft_node,
    "select": select_node,
    "defend": defend_node,
    "score": score_node,
    "card": card_node,
    "exhibit": exhibit_node,
}
"""The function of each kind.

Each raises Damaged if a parent's artifact does not match its record, and the exceptions of the
task that it calls.
"""

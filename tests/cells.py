"""Cells of a made-up grid on the digits, and the nodes of cells."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable

from pipeline.grid.cells import Cell
from pipeline.grid.graph import Graph, Node
from pipeline.grid.nodes import CellNodes
from tasks.attacks.base import Attack
from tasks.data.spec import DatasetSpec
from tasks.defenses.base import Defense
from tasks.networks.small import Small
from tasks.specs import Problem
from tasks.training.recipe import Recipe, TrainSpec

PROBLEM = Problem(epsilon=8.0, classes=10, side=8, pool=1000)


def digits_cell(
    model: str,
    attack: tuple[str, Attack],
    defense: tuple[str, Defense],
    **changes: object,
) -> Cell:
    """A cell of the digits: names with specs of an attack and a defense, its defaults filled in."""
    spec = defense[1].resolved(PROBLEM)
    cell = Cell(
        dataset="digits",
        model=model,
        attack=attack[0],
        defense=defense[0],
        seed=0,
        images=360,
        redraws=1 if spec.deterministic(PROBLEM.classes) else 3,
        precision="float32",
        dataset_spec=DatasetSpec(kind="digits", classes=10, channels=1, side=8),
        model_spec=TrainSpec(network=Small(), recipe=Recipe(epochs=3)).resolved(PROBLEM),
        attack_spec=attack[1].resolved(PROBLEM),
        defense_spec=spec,
    )
    return dataclasses.replace(cell, **changes)  # type: ignore[arg-type]


def graph_of(cells: Iterable[Cell]) -> tuple[Graph, dict[str, Node]]:
    """The graph of some cells, and the score node of each cell by the cell's name."""
    nodes = CellNodes()
    scores = {cell.name: nodes.score(cell) for cell in cells}
    return Graph(scores.values()), scores

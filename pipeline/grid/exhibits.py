"""Which images a grid's report shows before and after an attack and a defense: one node a model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from pipeline.grid.cells import Cell, Grid
from pipeline.grid.graph import Node
from pipeline.grid.nodes import CellNodes
from tasks.evaluation.specs import ExhibitSpec

CLASSES = 10
"""Classes that are shown of a data set with more."""


@dataclass(frozen=True)
class ExhibitNode:
    """The exhibits of one model: the bare and the defended cell that they are of, and the node."""

    bare: Cell
    defended: Cell
    node: Node

    @property
    def classes(self) -> int:
        """How many classes are shown, from the first."""
        assert isinstance(self.node.spec, ExhibitSpec)
        return self.node.spec.classes


def exhibit_nodes(nodes: CellNodes, grid: Grid, scores: Mapping[str, Node]) -> list[ExhibitNode]:
    """The exhibits of each model with a defended cell, none of a grid that asks for no gallery.

    Of the model's cells the first is shown whose defense is the counter-perturbation alone,
    else the first defended one; a bare cell of the same examples must be in the grid. scores:
    the score node of each cell, by its name.
    """
    if not grid.gallery:
        return []
    cells: dict[str, list[Cell]] = {}
    for cell in grid.cells:
        if cell.attack_spec.crafts and not cell.attack_spec.compound:
            cells.setdefault(cell.model, []).append(cell)
    found = []
    for own in cells.values():
        pair = _pair(own, scores)
        if pair is not None:
            bare, defended = pair
            spec = ExhibitSpec(
                defense=defended.defense_spec,
                classes=min(CLASSES, defended.dataset_spec.classes),
                seed=defended.seed,
                precision=defended.precision,
            )
            node = nodes.exhibit(defended, spec, scores[bare.name], scores[defended.name])
            found.append(ExhibitNode(bare, defended, node))
    return found


def _pair(cells: Sequence[Cell], scores: Mapping[str, Node]) -> tuple[Cell, Cell] | None:
    """A bare cell, and the defended one that is shown of those with the very same examples."""
    bare = {
        _examples(cell, scores): cell
        for cell in reversed(cells)
        if cell.defense_spec.kind == "none"
    }
    defended = [cell for cell in cells if cell.defense_spec.kind != "none"]
    counters = [cell for cell in defended if cell.defense_spec.kind == "counter"]
    for cell in (*counters, *defended):
        twin = bare.get(_examples(cell, scores))
        if twin is not None:
            return twin, cell
    return None


def _examples(cell: Cell, scores: Mapping[str, Node]) -> tuple[str, ...]:
    """Digests of the examples of each shard."""
    return tuple(node.parent("examples").digest for _, node in scores[cell.name].parents)

"""Exhibits: example images before and after an attack and a defense, one node for each model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from pipeline.grid.cells import Cell, Grid
from pipeline.grid.graph import Node
from pipeline.grid.nodes import CellNodes
from tasks.evaluation.specs import ExhibitSpec

CLASSES = 10
"""Maximum number of classes that are shown."""


@dataclass(frozen=True)
class ExhibitNode:
    """The exhibits of one model: the bare and the defended cell that are compared, and the node."""

    bare: Cell
    defended: Cell
    node: Node

    @property
    def classes(self) -> int:
        """Number of classes shown, counted from the first."""
        assert isinstance(self.node.spec, ExhibitSpec)
        return self.node.spec.classes


def exhibit_nodes(nodes: CellNodes, grid: Grid, scores: Mapping[str, Node]) -> list[ExhibitNode]:
    """The exhibits of each model that has a defended cell; empty if the grid has no gallery.

    For each model the first cell whose defense is the counter-perturbation alone is shown, else the
    first defended cell, provided that the grid has a bare cell with the same examples.

    Args:
        scores: Score node of each cell, by cell name.
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
    """A bare cell, and the defended cell with identical examples that is shown beside it."""
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
    """Digests of the examples of each shard, which identify them."""
    return tuple(node.parent("examples").digest for _, node in scores[cell.name].parents)

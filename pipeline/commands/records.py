"""JSON answers for programs, and the fields that all of them share; see `docs/json.md`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    # imported lazily: reading grids needs slow imports, which --help does without
    from pipeline.grid.cells import Cell, Table

SCHEMA = 1
"""Incremented when a field of an answer is renamed, removed or changes its meaning."""


def answer(facts: Mapping[str, object]) -> dict[str, object]:
    """Add the schema version to an answer."""
    return {"schema": SCHEMA, **facts}


def cell_record(cell: Cell) -> dict[str, object]:
    """A cell's name, and its components as fields."""
    return {
        "cell": cell.name,
        "dataset": cell.dataset,
        "model": cell.model,
        "attack": cell.attack,
        "defense": cell.defense,
        "seed": cell.seed,
    }


def swept_values(cell: Cell, tables: tuple[Table, ...]) -> dict[str, object]:
    """Values of a cell's swept parameters, such as `guo.draws: 10`."""
    labels = {("models", cell.model), ("attacks", cell.attack), ("defenses", cell.defense)}
    found: dict[str, object] = {}
    for table in tables:
        for each in table.swept:
            if (each.section, each.label) in labels:
                found.update(each.values)
    return found

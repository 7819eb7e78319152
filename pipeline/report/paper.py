"""Published numbers beside measured ones: which cells have one, and whether they agree.

A published accuracy counts as inside or outside a measured interval only if the whole setup is the
paper's. What the paper computed is described by the cells of a grid that contains them all.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Literal

from pipeline.catalogue.catalogue import Catalogue, bundled_folder
from pipeline.catalogue.paper import Key, Published, published
from pipeline.grid.builder import load_grid
from pipeline.grid.cells import Cell, Grid
from pipeline.grid.coverage import key as key_of
from tasks.defenses.base import Defense
from tasks.training.recipe import ClassifierSpec, TrainSpec

PAPER_GRID = "full"
"""The grid with all cells that the paper computed."""

Other = Literal[
    "other data set", "other network", "other recipe", "other attack", "other defense", "not judged"
]
Verdict = Literal["inside", "outside"] | Other


@dataclass(frozen=True)
class Reference:
    """A published number, the cell that it is shown beside, and the paper's own cell."""

    published: Published
    cell: Cell
    paper: Cell | None

    @property
    def printed_in(self) -> tuple[str, ...]:
        """The paper's tables that print the number, such as `Table 1`."""
        return tuple(re.sub(r"^table(?=\d)", "Table ", name) for name in self.published.tables)

    @property
    def other(self) -> Other | None:
        """The first difference from the paper's setup; None if there is none."""
        cell, paper = self.cell, self.paper
        if paper is None:
            return "not judged"
        if cell.dataset != paper.dataset:
            return "other data set"
        if cell.model_spec.network != paper.model_spec.network:
            return "other network"
        if not same_recipe(cell.model_spec, paper.model_spec):
            return "other recipe"
        if cell.attack_spec != paper.attack_spec:
            return "other attack"
        return "other defense" if cell.defense_spec != paper.defense_spec else None

    def difference(self, accuracy: float) -> float | None:
        """Measured minus published accuracy in points; None if a published bound is met."""
        value = self.published.value
        if self.published.upper_bound and accuracy <= value:
            return None
        return accuracy - value

    def verdict(self, interval: tuple[float, float] | None) -> Verdict:
        """Whether the published number is in the interval; `not judged` without an interval.

        A published upper bound is met by an interval that reaches it or lies below.
        """
        if self.other is not None:
            return self.other
        if interval is None:
            return "not judged"
        low, high = interval
        value = self.published.value
        inside = low <= value and (self.published.upper_bound or value <= high)
        return "inside" if inside else "outside"


def same_recipe(ours: ClassifierSpec, theirs: ClassifierSpec) -> bool:
    """Whether the weights of two models come from the same recipe or file, whatever the seed."""
    if isinstance(ours, TrainSpec) and isinstance(theirs, TrainSpec):
        return ours.recipe == theirs.recipe
    return ours == theirs


def references_of(grid: Grid, catalogue: Catalogue) -> dict[str, Reference]:
    """Published numbers of a grid's cells, by cell name.

    The paper's own cells are those of the program's own configs, without options: a user's configs
    or `--set` may change what a name stands for.
    """
    numbers = published(catalogue)
    models = {model for model, _, _ in numbers}
    if not any(key_of(cell)[0] in models for cell in grid.cells):
        return {}
    paper = load_grid(Catalogue([bundled_folder()]), PAPER_GRID)
    return references(grid.cells, numbers, paper.cells)


def references(
    cells: Iterable[Cell], numbers: Mapping[Key, Published], paper: Iterable[Cell]
) -> dict[str, Reference]:
    """The published number of each cell that has one, by cell name.

    A cell is matched by its names or, if its defense has another label, by the parameters of the
    defense: one variant of a sweep may be the published one.

    Args:
        numbers: Published numbers.
        paper: The cells that the paper computed.
    """
    own = [cell for cell in paper if cell.stands_for is None and key_of(cell) in numbers]
    theirs = {key_of(cell): cell for cell in reversed(own)}  # the first of several seeds
    labels: dict[tuple[str, str, Defense], Key] = {}
    for key, cell in theirs.items():
        labels.setdefault((*key[:2], cell.defense_spec), key)
    found = {}
    for cell in cells:
        key = key_of(cell)
        if key not in numbers:
            key = labels.get((*key[:2], cell.defense_spec), key)
        if key in numbers:
            found[cell.name] = Reference(numbers[key], cell, theirs.get(key))
    return found

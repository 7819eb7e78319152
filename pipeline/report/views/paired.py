"""The answers of cells about the same images, by model, defense and attack."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from pipeline.grid.cells import Cell, Grid
from pipeline.report.answers import Answers, NotTested
from pipeline.report.scores import Scores
from pipeline.report.views.costs import Cost, prediction_costs

Images = Mapping[int, NDArray[np.int64]]
"""By seed, the ids of images in ascending order."""
Right = NDArray[np.bool_]


@dataclass(frozen=True)
class Paired:
    """A grid's cells and their answers, several seeds of a cell together."""

    grid: Grid
    scores: Scores

    @cached_property
    def _cells(self) -> dict[tuple[str, str, str], list[Cell]]:
        found: dict[tuple[str, str, str], list[Cell]] = {}
        for cell in self.grid.cells:
            found.setdefault((cell.model, cell.defense, cell.attack), []).append(cell)
        return found

    @cached_property
    def costs(self) -> Mapping[tuple[str, str], Cost]:
        """See `prediction_costs`."""
        return prediction_costs(self.grid, self.scores)

    def cells(self, model: str, defense: str, attack: str) -> list[Cell]:
        """The cells of a place, one a seed; none where the grid has none."""
        return self._cells.get((model, defense, attack), [])

    def answers(self, model: str, defense: str, attack: str) -> dict[int, Answers]:
        """By seed, of the cells that are scored."""
        found: dict[int, Answers] = {}
        for cell in self.cells(model, defense, attack):
            if self.scores.per_image is None or self.scores.accuracy(cell.name) is None:
                continue
            try:
                found[cell.seed] = self.scores.per_image.answers(cell.name)
            except NotTested:
                continue
        return found

    def images(self, model: str, defense: str, attack: str) -> Images:
        """By seed, which images the cells of a place are about."""
        answers = self.answers(model, defense, attack)
        return {seed: found.ids for seed, found in answers.items()}

    def right(self, model: str, defense: str, attack: str, images: Images) -> dict[int, Right]:
        """By seed, bool [N, R] of these images; no seed that lacks one of them."""
        found = {}
        for seed, answers in self.answers(model, defense, attack).items():
            wanted = images.get(seed)
            if wanted is not None and np.isin(wanted, answers.ids).all():
                found[seed] = answers.right[np.searchsorted(answers.ids, wanted)]
        return found

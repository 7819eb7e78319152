"""Answers of cells restricted to common images, by model, defense and attack."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, reduce

import numpy as np
from numpy.typing import NDArray

from pipeline.grid.cells import Cell, Grid
from pipeline.report.answers import Answers, NotTested
from pipeline.report.scores import Scores
from pipeline.report.views.costs import Cost, prediction_costs

Images = Mapping[int, NDArray[np.int64]]
"""Ids of images in ascending order, by seed."""
Right = NDArray[np.bool_]


@dataclass(frozen=True)
class Paired:
    """Cells of a grid and their answers, with the seeds of a cell grouped together."""

    grid: Grid
    scores: Scores

    @cached_property
    def _cells(self) -> dict[tuple[str, str, str], list[Cell]]:
        found: dict[tuple[str, str, str], list[Cell]] = {}
        for cell in self.grid.cells:
            found.setdefault((cell.model, cell.defense, cell.attack), []).append(cell)
        return found

    @cached_property
    def costs(self) -> Mapping[str, Cost]:
        """See `prediction_costs`."""
        return prediction_costs(self.grid, self.scores)

    def cells(self, model: str, defense: str, attack: str) -> list[Cell]:
        """The cells of a model, defense and attack, one for each seed; may be empty."""
        return self._cells.get((model, defense, attack), [])

    def answers(self, model: str, defense: str, attack: str) -> dict[int, Answers]:
        """Answers of the scored cells, by seed."""
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
        """The images that the cells are about, by seed."""
        answers = self.answers(model, defense, attack)
        return {seed: found.ids for seed, found in answers.items()}

    def common(self, places: Sequence[tuple[str, str, str]]) -> Images:
        """The images that all of these models, defenses and attacks are about, by common seed."""
        found = [self.images(*place) for place in places]
        seeds = sorted(set.intersection(*(set(images) for images in found)))
        return {seed: reduce(np.intersect1d, [images[seed] for images in found]) for seed in seeds}

    def right(self, model: str, defense: str, attack: str, images: Images) -> dict[int, Right]:
        """Right answers on the given images, bool [N, R], by seed; only seeds with all images."""
        found = {}
        for seed, answers in self.answers(model, defense, attack).items():
            wanted = images.get(seed)
            if wanted is not None and np.isin(wanted, answers.ids).all():
                found[seed] = answers.right[np.searchsorted(answers.ids, wanted)]
        return found

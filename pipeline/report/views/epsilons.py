"""Accuracy of each defense against the epsilon of the attack.

The values come from the integrity cards, which attack each defended model with several epsilons. So
they are based on the card's images, which are fewer than the table's.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from pipeline.grid.cells import Cell, Grid
from pipeline.report.cards import Card
from pipeline.report.scores import Scores
from pipeline.report.views.table import View
from tasks.evaluation.statistics import wilson_interval

CHECK = "epsilon"
"""The finding of a card that contains the accuracies."""
FEWEST = 3
"""Minimum number of epsilons for a curve."""


@dataclass(frozen=True)
class EpsilonPoint:
    """epsilon: in 1/255 of the pixel range; accuracy, interval: in percent of the card's images."""

    epsilon: float
    accuracy: float
    interval: tuple[float, float]


@dataclass(frozen=True)
class EpsilonCurve:
    """The curve of one defense, by ascending epsilon.

    Attributes:
        images: Number of attacked images.
        draws: Number of draws that an answer averages.
        own_draws: Number of draws that the defense itself averages.
    """

    defense: str
    images: int
    draws: int
    own_draws: int
    points: tuple[EpsilonPoint, ...]


@dataclass(frozen=True)
class EpsilonPanel:
    """The defenses of one model."""

    model: str
    curves: tuple[EpsilonCurve, ...]


@dataclass(frozen=True)
class Epsilons:
    """Panels of a figure, side by side.

    order: All defenses of the grid; its place decides a defense's colour in all figures.
    """

    title: str
    panels: tuple[EpsilonPanel, ...]
    order: tuple[str, ...]

    @property
    def defenses(self) -> tuple[str, ...]:
        """All defenses shown, in order."""
        found = (curve.defense for panel in self.panels for curve in panel.curves)
        return tuple(dict.fromkeys(found))

    @property
    def few_draws(self) -> dict[str, str]:
        """Defenses with answers of fewer draws than in a table, in words such as `5 of 50`."""
        return {
            curve.defense: f"{curve.draws} of {curve.own_draws}"
            for panel in self.panels
            for curve in panel.curves
            if curve.draws < curve.own_draws
        }


def by_epsilon(card: Card) -> Iterator[EpsilonPoint]:
    """Accuracies that a card measured, by ascending epsilon; empty if it measured none."""
    measured = next((found.measured for found in card.model if found.check == CHECK), {})
    sizes = {float(key.partition("/")[0]): value for key, value in measured.items()}
    for size in sorted(sizes):
        # a card stores percentages of counted answers
        right = round(sizes[size] / 100 * card.images)
        low, high = wilson_interval(right, card.images)
        yield EpsilonPoint(size, sizes[size], (100 * low, 100 * high))


def epsilons(view: View, grid: Grid, scores: Scores) -> Epsilons | None:
    """Curves of a table's defenses; None if it has no adaptive attack with a card.

    An undefended model is shown only together with defenses.
    """
    cells: dict[tuple[str, str], list[Cell]] = {}
    for cell in grid.cells:
        if cell.attack in view.table.attacks:
            cells.setdefault((cell.model, cell.defense), []).append(cell)
    panels = []
    for model in view.models:
        names = dict.fromkeys(row.defense for row in view.rows if row.model == model)
        balls = {
            cell.ball for cell in grid.cells if cell.model == model and cell.attack_spec.compound
        }
        found = {
            name: _curve(name, cells.get((model, name), []), scores.cards, alone=len(balls) == 1)
            for name in names
        }
        curves = tuple(curve for curve in found.values() if curve is not None)
        if any(curve.defense != "none" for curve in curves):
            panels.append(EpsilonPanel(model, curves))
    title = view.table.title or view.table.name
    return Epsilons(title, tuple(panels), grid.defenses) if panels else None


def _curve(
    defense: str, cells: list[Cell], cards: Mapping[str, Card], *, alone: bool
) -> EpsilonCurve | None:
    """The curve from the first card of the defended model, or of the bare model for `none`.

    alone: whether the model is attacked in one ball only, so that all cards are of this ball.
    """
    # an adaptive cell's card is of the ball of its attack
    for cell in sorted(cells, key=lambda cell: not cell.attack_spec.compound):
        card = cards.get(cell.name)
        if card is None or not (cell.attack_spec.compound or (defense == "none" and alone)):
            continue
        points = tuple(by_epsilon(card))
        if len(points) >= FEWEST:
            return EpsilonCurve(defense, card.images, card.draws, card.own_draws, points)
    return None

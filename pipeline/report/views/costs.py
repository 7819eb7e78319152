"""What a prediction costs, and a defense's accuracy against the passes that it takes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from statistics import median

from pipeline.grid.cells import Cell, Grid
from pipeline.report.scores import Facts, Scores, number
from pipeline.report.views.table import Entry, Row, View

FEWEST = 3
"""Defenses of a model that make a figure."""


@dataclass(frozen=True)
class Priced:
    """A defense: passes an image's prediction takes, and its least accuracy of the table's.

    attack: under which it is least; accuracy, interval: percent, the interval None where
    several seeds are averaged.
    """

    defense: str
    passes: float
    attack: str
    accuracy: float
    interval: tuple[float, float] | None


@dataclass(frozen=True)
class CostPanel:
    """The defenses of one model."""

    model: str
    points: tuple[Priced, ...]


@dataclass(frozen=True)
class Costs:
    """Panels to be drawn side by side."""

    title: str
    panels: tuple[CostPanel, ...]

    @property
    def defenses(self) -> tuple[str, ...]:
        """All that are drawn, in their order."""
        return tuple(
            dict.fromkeys(point.defense for panel in self.panels for point in panel.points)
        )


@dataclass(frozen=True)
class Cost:
    """Of one prediction for one image: passes through the network, and milliseconds.

    times_bare: the milliseconds as a multiple of the bare model's; None without it.
    """

    forwards: float
    backwards: float
    milliseconds: float
    times_bare: float | None = None


def prediction_costs(grid: Grid, scores: Scores) -> dict[tuple[str, str], Cost]:
    """By model and defense, of those that tell of it: passes are the median over their cells.

    One for all attacks, since how an image came about does not change what its answer costs. The
    time is that of the quickest cell: a first question that warms up, and whatever else the machine
    did, only add to it.
    """
    told: dict[tuple[str, str], list[tuple[float, ...]]] = {}
    for cell in grid.cells:
        facts = scores.facts.get(cell.name, {})
        names = ("forwards", "backwards", "seconds")
        each = (number(facts, f"{name}_per_prediction") for name in names)
        known = tuple(value for value in each if value is not None)
        if len(known) == len(names):
            told.setdefault((cell.model, cell.defense), []).append(known)
    taken = {}
    for place, of in told.items():
        forwards, backwards, seconds = zip(*of, strict=True)
        taken[place] = median(forwards), median(backwards), min(seconds)
    costs_of = {}
    for (model, defense), (forwards, backwards, seconds) in taken.items():
        bare = taken[model, "none"][-1] if (model, "none") in taken else 0.0
        times = seconds / bare if bare else None
        costs_of[model, defense] = Cost(forwards, backwards, 1000 * seconds, times)
    return costs_of


def costs(view: View, grid: Grid, scores: Scores) -> Costs | None:
    """The costs of a table's defenses; None where too few are known, or all cost the same.

    A table with a figure of its own has none: its rows are one defense with other parameters.
    """
    if view.table.figure is not None:
        return None
    cells: dict[tuple[str, str, str], Cell] = {}
    for cell in grid.cells:
        if scores.accuracy(cell.name) is not None:
            cells.setdefault((cell.model, cell.defense, cell.attack), cell)
    panels = []
    for model in view.models:
        rows = [row for row in view.rows if row.model == model]
        points = tuple(_points(rows, cells, scores))
        if len(points) >= FEWEST and len({point.passes for point in points}) > 1:
            panels.append(CostPanel(model, points))
    return Costs(view.table.title or view.table.name, tuple(panels)) if panels else None


def passes(facts: Facts) -> float | None:
    """Forwards and backwards a prediction, together; None where a score tells of neither."""
    found = (number(facts, f"{name}_per_prediction") for name in ("forwards", "backwards"))
    known = [value for value in found if value is not None]
    return sum(known) if known else None


def _points(
    rows: Sequence[Row], cells: dict[tuple[str, str, str], Cell], scores: Scores
) -> Iterator[Priced]:
    for row in rows:
        scored = [entry for entry in row.entries if entry.accuracy is not None]
        if not scored:
            continue
        least = min(scored, key=_accuracy)
        cell = cells.get((row.model, row.defense, least.attack))
        taken = passes(scores.facts[cell.name]) if cell is not None else None
        if taken:
            yield Priced(row.defense, taken, least.attack, _accuracy(least), least.interval)


def _accuracy(entry: Entry) -> float:
    assert entry.accuracy is not None
    return entry.accuracy

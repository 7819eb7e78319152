"""Cost of predictions, and accuracy of defenses against it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from statistics import median

from pipeline.grid.cells import Cell, Grid
from pipeline.report.facts import Facts, number
from pipeline.report.scores import Scores
from pipeline.report.views.table import Entry, Row, View

FEWEST = 3
"""Minimum number of a model's defenses for a figure."""


@dataclass(frozen=True)
class Priced:
    """A defense: passes for the prediction of an image, and its lowest accuracy in the table.

    Attributes:
        attack: The attack with the lowest accuracy.
        accuracy, interval: In percent; the interval is None if several seeds are averaged.
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
    """Panels of a figure, side by side.

    Attributes:
        order: All defenses of the grid; its place decides a defense's colour in all figures.
        left_out: `model/defense` of what has no adaptive accuracy in a table with an adaptive
            attack.
    """

    title: str
    panels: tuple[CostPanel, ...]
    order: tuple[str, ...]
    left_out: tuple[str, ...] = ()

    @property
    def defenses(self) -> tuple[str, ...]:
        """All defenses shown, in order."""
        return tuple(
            dict.fromkeys(point.defense for panel in self.panels for point in panel.points)
        )


@dataclass(frozen=True)
class Cost:
    """Cost of one prediction for one image: passes through the network, and milliseconds.

    times_bare: the time relative to the bare model on the same device; None if that is unknown.
    """

    forwards: float
    backwards: float
    milliseconds: float
    times_bare: float | None = None


def prediction_costs(grid: Grid, scores: Scores) -> dict[str, Cost]:
    """Cost of a prediction by cell name, where recorded.

    A model and defense have one value on each device, for all attacks, since the cost of a
    prediction does not depend on how the image was made. Passes are the median over the cells. The
    time is the minimum, since warm-up and other load on the machine only add to it.
    """

    def place(cell: Cell, defense: str) -> tuple[str, str, str | None]:
        return cell.model, defense, scores.devices.get(cell.name)

    told: dict[tuple[str, str, str | None], list[tuple[float, ...]]] = {}
    for cell in grid.cells:
        facts = scores.facts.get(cell.name, {})
        names = ("forwards", "backwards", "seconds")
        each = (number(facts, f"{name}_per_prediction") for name in names)
        known = tuple(value for value in each if value is not None)
        if len(known) == len(names):
            told.setdefault(place(cell, cell.defense), []).append(known)
    costs_of = {}
    for cell in grid.cells:
        of = told.get(place(cell, cell.defense))
        if of is None:
            continue
        forwards, backwards, seconds = zip(*of, strict=True)
        bare = min((each[-1] for each in told.get(place(cell, "none"), ())), default=0.0)
        # several devices, of which each cell may have used another share
        mixed = ", " in (scores.devices.get(cell.name) or "")
        times = min(seconds) / bare if bare and not mixed else None
        milliseconds = 1000 * min(seconds)
        costs_of[cell.name] = Cost(median(forwards), median(backwards), milliseconds, times)
    return costs_of


def costs(view: View, grid: Grid, scores: Scores) -> Costs | None:
    """Costs of a table's defenses; None if too few are known or all are equal.

    Tables with a figure of their own have none, since their rows are variants of one defense. In a
    table with an adaptive attack, defenses without an adaptive accuracy are left out, since other
    attacks say little about their robustness.
    """
    if view.table.figure is not None:
        return None
    cells: dict[tuple[str, str, str], Cell] = {}
    for cell in grid.cells:
        if scores.accuracy(cell.name) is not None:
            cells.setdefault((cell.model, cell.defense, cell.attack), cell)
    adaptive = _adaptive(view, grid)
    panels, left_out = [], []
    for model in view.models:
        rows = [row for row in view.rows if row.model == model and _scored(row)]
        shown = [
            row
            for row in rows
            if not adaptive or any(entry.attack in adaptive for entry in _scored(row))
        ]
        points = tuple(_points(shown, cells, scores))
        if len(points) >= FEWEST and len({point.passes for point in points}) > 1:
            panels.append(CostPanel(model, points))
            left_out += [f"{model}/{row.defense}" for row in rows if row not in shown]
    if not panels:
        return None
    title = view.table.title or view.table.name
    return Costs(title, tuple(panels), grid.defenses, tuple(left_out))


def passes(facts: Facts) -> float | None:
    """Forward and backward passes of a prediction in total; None if not recorded."""
    found = (number(facts, f"{name}_per_prediction") for name in ("forwards", "backwards"))
    known = [value for value in found if value is not None]
    return sum(known) if known else None


def _adaptive(view: View, grid: Grid) -> set[str]:
    """A table's adaptive attacks; those of a single candidate only if there are no others."""
    found = [
        cell for cell in grid.cells if cell.attack_spec.compound and cell.attack in view.attacks
    ]
    several = {cell.attack for cell in found if cell.candidates > 1}
    return several or {cell.attack for cell in found}


def _scored(row: Row) -> list[Entry]:
    return [entry for entry in row.entries if entry.accuracy is not None]


def _points(
    rows: Sequence[Row], cells: dict[tuple[str, str, str], Cell], scores: Scores
) -> Iterator[Priced]:
    for row in rows:
        least = min(_scored(row), key=_accuracy)
        cell = cells.get((row.model, row.defense, least.attack))
        taken = passes(scores.facts[cell.name]) if cell is not None else None
        if taken:
            yield Priced(row.defense, taken, least.attack, _accuracy(least), least.interval)


def _accuracy(entry: Entry) -> float:
    assert entry.accuracy is not None
    return entry.accuracy

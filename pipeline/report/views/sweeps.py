"""What a figure of a swept parameter shows: accuracy against it, a curve a model and attack."""

from __future__ import annotations

from dataclasses import dataclass

from pipeline.grid.cells import Cell, Grid
from pipeline.report.paper import Reference
from pipeline.report.views.table import Row, View

QUANTITIES = {
    "draws": "draws averaged, K",
    "label_count": "class labels perturbed for, N",
    "limit": "limit of the perturbation, μ (1/255 of the pixel range)",
    "step_size": "step size, α (1/255 of the pixel range)",
}
"""Names and units of parameters, for axes; others go by their own names."""


@dataclass(frozen=True)
class Point:
    """An accuracy in percent; its interval is None where several seeds are averaged."""

    x: float
    accuracy: float
    interval: tuple[float, float] | None
    reference: Reference | None = None


@dataclass(frozen=True)
class Curve:
    """One model under one attack, its points by ascending x."""

    dataset: str
    model: str
    attack: str
    points: tuple[Point, ...]


@dataclass(frozen=True)
class Sweep:
    """Curves to be drawn together, and what is said of their axes."""

    title: str
    quantity: str
    curves: tuple[Curve, ...]

    @property
    def datasets(self) -> tuple[str, ...]:
        """The data sets of the curves, in their order: each has a panel."""
        return tuple(dict.fromkeys(curve.dataset for curve in self.curves))

    @property
    def published(self) -> tuple[Reference, ...]:
        """The published points."""
        points = (point for curve in self.curves for point in curve.points)
        return tuple(point.reference for point in points if point.reference is not None)


def sweep(view: View, grid: Grid) -> Sweep | None:
    """The curves of a table that asks for them; None where it does not, or nothing is scored."""
    figure = view.table.figure
    if figure is None or figure.x is None:
        return None
    cells = {(cell.model, cell.defense, cell.attack): cell for cell in grid.cells}
    curves = []
    for model in view.models:
        rows = [row for row in view.rows if row.model == model]
        for place, attack in enumerate(view.attacks):
            found = [
                (point, cell)
                for row in rows
                if (cell := cells.get((model, row.defense, attack))) is not None
                and (point := _point(row, place, cell, figure.of, figure.x)) is not None
            ]
            if found:
                points = tuple(sorted((point for point, _ in found), key=lambda point: point.x))
                curves.append(Curve(found[0][1].dataset, model, attack, points))
    if not curves:
        return None
    quantity = QUANTITIES.get(figure.x, figure.x.replace("_", " "))
    return Sweep(view.table.title or view.table.name, quantity, tuple(curves))


def _point(row: Row, place: int, cell: Cell, of: str, name: str) -> Point | None:
    """The point of an entry; None where it has no score or its defense no such parameter."""
    entry = row.entries[place]
    values = [getattr(part, name) for _, part in cell.defense_spec.stages() if part.kind == of]
    if entry.accuracy is None or not values or isinstance(values[0], str | bool | tuple | None):
        return None
    return Point(float(values[0]), entry.accuracy, entry.interval, entry.reference)

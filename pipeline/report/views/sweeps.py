"""Accuracy against a swept parameter.

The cells of one curve differ only in that parameter, and share model, attack and defense.
"""

from __future__ import annotations

from dataclasses import dataclass

from pipeline.catalogue.grid_entries import FigureEntry
from pipeline.grid.cells import Cell, Grid, Section
from pipeline.report.paper import Reference
from pipeline.report.views.table import Entry, Row, View

QUANTITIES = {
    "draws": "draws averaged, K",
    "epsilon": "size of the perturbation, ε (1/255 of the pixel range)",
    "label_count": "class labels perturbed for, N",
    "limit": "limit of the perturbation, μ (1/255 of the pixel range)",
    "step_size": "step size, α (1/255 of the pixel range)",
}
"""Axis labels of parameters; others are labelled with their name."""
OF_ATTACKS = {"draws": "draws of the defense at each step of the attack"}
"""Axis labels of parameters of attacks, where they differ."""


@dataclass(frozen=True)
class Point:
    """An accuracy in percent; the interval is None if several seeds are averaged.

    images: Number of images, where clean images may be the first point of the curve.
    """

    x: float
    accuracy: float
    interval: tuple[float, float] | None
    reference: Reference | None = None
    images: int | None = None


@dataclass(frozen=True)
class Curve:
    """A curve of one model under one attack, by ascending x.

    Attributes:
        defense: Label of the defense without the parameter; empty where the table lists its
            variants individually.
        level: Whether the cell does not have the parameter, so that the curve is constant.
    """

    dataset: str
    model: str
    attack: str
    points: tuple[Point, ...]
    defense: str = ""
    level: bool = False


@dataclass(frozen=True)
class Sweep:
    """Curves of a figure, with the label of its x axis.

    order: All defenses of the grid; its place decides a defense's colour in all figures.
    """

    title: str
    quantity: str
    curves: tuple[Curve, ...]
    order: tuple[str, ...] = ()

    @property
    def datasets(self) -> tuple[str, ...]:
        """Data sets of the curves, in order; each has a panel."""
        return tuple(dict.fromkeys(curve.dataset for curve in self.curves))

    @property
    def published(self) -> tuple[Reference, ...]:
        """The published points."""
        points = (point for curve in self.curves for point in curve.points)
        return tuple(point.reference for point in points if point.reference is not None)


def sweep(view: View, grid: Grid) -> Sweep | None:
    """The curves of a table's figure; None if it has none, or no cell is scored."""
    figure = view.table.figure
    if figure is None or figure.x is None:
        return None
    x = figure.x
    curves = _swept_curves(view, grid, x) if "." in x else _curves(view, grid, figure)
    if not curves:
        return None
    name = x.rpartition(".")[2]
    labels = QUANTITIES
    if any(each.section == "attacks" and x in dict(each.values) for each in view.table.swept):
        labels = {**QUANTITIES, **OF_ATTACKS}
    quantity = labels.get(name, name.replace("_", " "))
    return Sweep(view.table.title or view.table.name, quantity, tuple(curves), grid.defenses)


def _swept_curves(view: View, grid: Grid, x: str) -> list[Curve]:
    """Curves of a parameter that the table sweeps, and constant ones of cells without it.

    If x is the epsilon of an attack, clean images are shown as the point at epsilon 0.
    """
    swept = {
        (each.section, each.label): each for each in view.table.swept if x in dict(each.values)
    }
    cells = {(cell.model, cell.defense, cell.attack): cell for cell in grid.cells}
    points: dict[tuple[str, str, str, str], dict[float, Point]] = {}
    level: dict[tuple[str, str, str, str], Entry] = {}
    for row in view.rows:
        for entry in row.entries:
            cell = cells.get((row.model, row.defense, entry.attack))
            if cell is None or entry.accuracy is None:
                continue
            names: list[tuple[Section, str]] = [
                ("models", row.model),
                ("attacks", entry.attack),
                ("defenses", row.defense),
            ]
            found = [swept[name] for name in names if name in swept]
            rest = [dict(swept[name].without)[x] if name in swept else name[1] for name in names]
            key = (cell.dataset, rest[0], rest[1], rest[2])
            if not found:
                level[key] = entry
                continue
            value = dict(found[0].values)[x]
            assert isinstance(value, int | float)
            point = Point(
                float(value), entry.accuracy, entry.interval, entry.reference, entry.images
            )
            points.setdefault(key, {})[point.x] = point
    _begin_clean(points, level, x, grid)
    everything = [each for known in points.values() for each in known]
    curves = [
        Curve(dataset, model, attack, tuple(known[each] for each in sorted(known)), defense)
        for (dataset, model, attack, defense), known in points.items()
    ]
    for (dataset, model, attack, defense), entry in level.items() if curves else ():
        assert entry.accuracy is not None
        ends = tuple(Point(end, entry.accuracy, None) for end in (min(everything), max(everything)))
        curves.append(Curve(dataset, model, attack, ends, defense, level=True))
    return curves


def _begin_clean(
    points: dict[tuple[str, str, str, str], dict[float, Point]],
    level: dict[tuple[str, str, str, str], Entry],
    x: str,
    grid: Grid,
) -> None:
    """Add clean accuracies as points at epsilon 0 to the curves of the same model and defense.

    Only to curves about as many images, so that a curve does not join different images.
    """
    clean = {cell.attack for cell in grid.cells if not cell.attack_spec.crafts}
    for key, entry in list(level.items()):
        dataset, model, attack, defense = key
        if attack not in clean or not x.endswith(".epsilon") or entry.accuracy is None:
            continue
        point = Point(0.0, entry.accuracy, entry.interval, entry.reference, entry.images)
        for other, known in points.items():
            alike = all(each.images == entry.images for each in known.values())
            if alike and (other[0], other[1], other[3]) == (dataset, model, defense):
                known[0.0] = point
                level.pop(key, None)


def _curves(view: View, grid: Grid, figure: FigureEntry) -> list[Curve]:
    """Curves of a table whose variants are listed individually."""
    assert figure.x is not None
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
    return curves


def _point(row: Row, place: int, cell: Cell, of: str, name: str) -> Point | None:
    """The point of a cell; None if it has no score, or its defense does not have the parameter."""
    entry = row.entries[place]
    values = [getattr(part, name) for _, part in cell.defense_spec.stages() if part.kind == of]
    if entry.accuracy is None or not values or isinstance(values[0], str | bool | tuple | None):
        return None
    return Point(float(values[0]), entry.accuracy, entry.interval, entry.reference)

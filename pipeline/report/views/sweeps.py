"""What a figure of a swept parameter shows: accuracy against it.

A curve is what differs in that parameter alone: one model, attack and defense.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from pipeline.catalogue.entries import FigureEntry
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
    """One model under one attack, its points by ascending x.

    defense: its label without the parameter, "" where all curves of the figure are of one;
    level: whether it has no such parameter, so that its points repeat one accuracy.
    """

    dataset: str
    model: str
    attack: str
    points: tuple[Point, ...]
    defense: str = ""
    level: bool = False

    @property
    def label(self) -> str:
        """What a legend calls it."""
        return ", ".join(filter(None, [self.model, self.attack, self.defense]))


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
    x = figure.x
    curves = _swept_curves(view, grid, x) if "." in x else _curves(view, grid, figure)
    if not curves:
        return None
    name = x.rpartition(".")[2]
    quantity = QUANTITIES.get(name, name.replace("_", " "))
    return Sweep(view.table.title or view.table.name, quantity, tuple(curves))


def _swept_curves(view: View, grid: Grid, x: str) -> list[Curve]:
    """The curves of a parameter that the table sweeps, and levels of what has none.

    Against an attack's epsilon, clean images are the point of epsilon 0.
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
            point = Point(float(value), entry.accuracy, entry.interval, entry.reference)
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
    if len({curve.defense for curve in curves}) == 1:
        curves = [replace(curve, defense="") for curve in curves]
    return curves


def _begin_clean(
    points: dict[tuple[str, str, str, str], dict[float, Point]],
    level: dict[tuple[str, str, str, str], Entry],
    x: str,
    grid: Grid,
) -> None:
    """Clean images become the points of epsilon 0 of the attacks on the same model and defense."""
    clean = {cell.attack for cell in grid.cells if not cell.attack_spec.crafts}
    for key, entry in list(level.items()):
        dataset, model, attack, defense = key
        if attack not in clean or not x.endswith(".epsilon") or entry.accuracy is None:
            continue
        point = Point(0.0, entry.accuracy, entry.interval, entry.reference)
        for other, known in points.items():
            if (other[0], other[1], other[3]) == (dataset, model, defense):
                known[0.0] = point
                level.pop(key, None)


def _curves(view: View, grid: Grid, figure: FigureEntry) -> list[Curve]:
    """The curves of a table whose variants were written one by one."""
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
    """The point of an entry; None where it has no score or its defense no such parameter."""
    entry = row.entries[place]
    values = [getattr(part, name) for _, part in cell.defense_spec.stages() if part.kind == of]
    if entry.accuracy is None or not values or isinstance(values[0], str | bool | tuple | None):
        return None
    return Point(float(values[0]), entry.accuracy, entry.interval, entry.reference)

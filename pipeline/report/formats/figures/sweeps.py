"""Figures of parameter sweeps.

Equal data give identical files: no dates, no random ids, text as outlines. Curves differ in colour,
line style and marker at the same time, with colours that colour-blind people can distinguish (Okabe
and Ito).
"""

from __future__ import annotations

import math
import textwrap
from collections.abc import Iterator, Sequence
from pathlib import Path

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from pipeline.report.formats.figures.style import (
    COLOURS,
    HOLLOW,
    MANNERS,
    STYLE,
    WIDE,
    FileKind,
    save,
    ticks_at,
    write_title,
)
from pipeline.report.views.sweeps import Curve, Point, Sweep

PANEL_WIDTH_IN = 5.2
HEADING = 60
"""Characters of a line of a panel's heading."""
SPACE = 0.045
"""Minimum distance of ticks, as a share of the axis."""


def draw_sweep(sweep: Sweep, path: Path, kind: FileKind) -> None:
    """Draw accuracy against a parameter, with a panel for each data set and bands of intervals.

    Large hollow marks are published accuracies. Thin lines without marks are for cells that do not
    have the parameter.
    """
    panels = sweep.datasets
    attacks = list(dict.fromkeys(curve.attack for curve in sweep.curves))
    lines = max(sum(curve.dataset == panel for curve in sweep.curves) for panel in panels)
    with mpl.rc_context(STYLE):
        size = (max(6.4, PANEL_WIDTH_IN * len(panels)), 4.4 + 0.22 * lines)
        figure = Figure(figsize=size, layout="constrained")
        row = figure.subplots(1, len(panels), sharey=True, squeeze=False)[0]
        for panel, axes in zip(panels, row, strict=True):
            curves = [curve for curve in sweep.curves if curve.dataset == panel]
            shared, labels = _labels(curves)
            _panel(axes, curves, labels, attacks, sweep.order)
            heading = f"{panel}: {shared}" if shared else panel
            axes.set_title(textwrap.fill(heading, HEADING), fontsize=10)
            axes.set_xlabel(sweep.quantity)
        row[0].set_ylabel("accuracy (% of images)")
        low, high = row[0].get_ylim()  # common limits, once all panels are drawn
        row[0].set_ylim(max(-2.0, low), min(102.0, high))
        write_title(figure, sweep.title)
        save(figure, path, kind)


def _labels(curves: Sequence[Curve]) -> tuple[str, list[str]]:
    """Model, attack and defense: those that all curves share, and the others of each curve."""
    names = [(curve.model, curve.attack, curve.defense) for curve in curves]
    alone = len(curves) == 1
    differ = [alone or len(set(column)) > 1 for column in zip(*names, strict=True)]

    def joined(of: tuple[str, ...], *, differing: bool) -> str:
        return ", ".join(n for n, d in zip(of, differ, strict=True) if n and d is differing)

    return joined(names[0], differing=False), [joined(each, differing=True) for each in names]


def _colours(curves: Sequence[Curve], order: Sequence[str]) -> dict[tuple[str, str], str]:
    """The colour of each model and defense.

    A defense has its own colour, by its place in `order`, unless two would then look the same.
    """
    pairs = list(dict.fromkeys((curve.model, curve.defense) for curve in curves))
    places = [order.index(name) if name in order else 0 for _, name in pairs]
    found = [COLOURS[place % len(COLOURS)] for place in places]
    if len(set(found)) < len(pairs):
        found = [COLOURS[place % len(COLOURS)] for place in range(len(pairs))]
    return dict(zip(pairs, found, strict=True))


def _panel(
    axes: Axes,
    curves: Sequence[Curve],
    labels: Sequence[str],
    attacks: Sequence[str],
    order: Sequence[str],
) -> None:
    colours = _colours(curves, order)
    handles: list[Line2D] = []
    published: list[str] = []
    for curve, label in zip(curves, labels, strict=True):
        colour = colours[curve.model, curve.defense]
        mark, line = MANNERS[attacks.index(curve.attack) % len(MANNERS)]
        points = curve.points
        _intervals(axes, points, colour)
        (drawn,) = axes.plot(
            [point.x for point in points],
            [point.accuracy for point in points],
            color=colour,
            marker="" if curve.level else mark,
            linestyle=line,
            linewidth=0.9 if curve.level else 1.6,
            markersize=4.5,
            label=label,
        )
        handles.append(drawn)
        published += _published(axes, points, colour, mark)
    if published:
        tables = ", ".join(dict.fromkeys(published))
        hollow = Line2D([], [], label=f"published ({tables}), in its curve's colour and shape")
        hollow.set(marker="o", linestyle="none", color="#444444", **HOLLOW)
        handles.append(hollow)
    _ticks(axes, [point for curve in curves for point in curve.points])
    axes.legend(
        handles=handles,
        loc="upper center",
        bbox_to_anchor=(0.5, -0.15),
        fontsize=9,
        handlelength=3.5,
    )


def _intervals(axes: Axes, points: Sequence[Point], colour: str) -> None:
    """Draw intervals as a band, or as a bar if there is a single point."""
    known = [(point.x, *point.interval) for point in points if point.interval is not None]
    if not known:
        return
    x, low, high = zip(*known, strict=True)
    if len(known) == 1:
        axes.vlines(x, low, high, color=colour, alpha=0.3, linewidth=6)
    else:
        axes.fill_between(x, low, high, color=colour, alpha=0.13, linewidth=0)


def _published(axes: Axes, points: Sequence[Point], colour: str, mark: str) -> Iterator[str]:
    """Draw the published points; yields the tables that print them."""
    for point in points:
        if point.reference is None:
            continue
        number = point.reference.published
        axes.plot(
            [point.x],
            [number.value],
            color=colour,
            marker=mark,
            linestyle="none",
            zorder=3,
            **HOLLOW,
        )
        if number.upper_bound:
            axes.annotate(
                "≤", (point.x, number.value), (9, 0), textcoords="offset points", va="center"
            )
        yield from point.reference.printed_in


def _ticks(axes: Axes, points: Sequence[Point]) -> None:
    """Place ticks at the drawn values, as many as fit, published ones first."""
    values = sorted({point.x for point in points})
    first = [point.x for point in points if point.reference is not None]
    logarithmic = values[0] > 0 and values[-1] / values[0] > WIDE
    if logarithmic:
        axes.set_xscale("log")
    places = {value: math.log(value) if logarithmic else value for value in values}
    room = SPACE * (places[values[-1]] - places[values[0]])
    shown: list[float] = []
    for value in dict.fromkeys([*first, values[0], values[-1], *values]):
        if all(abs(places[value] - places[other]) >= room for other in shown):
            shown.append(value)
    ticks_at(axes, sorted(shown))

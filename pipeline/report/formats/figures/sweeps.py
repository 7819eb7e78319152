"""Figures as SVG and PNG: the only door to matplotlib.

Equal data give equal bytes: no dates, no random identifiers, text as outlines. Curves differ
in colour, line and mark at once, in colours that colour-blind eyes tell apart (Okabe and Ito).
"""

from __future__ import annotations

import contextlib
import math
import textwrap
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FixedLocator, NullLocator, StrMethodFormatter

from pipeline.report.views.pictures import Picture
from pipeline.report.views.sweeps import INK, LINE, PAPER, Curve, Point, Sweep

FileKind = Literal["svg", "png"]

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", INK)
"""One a model of a panel."""
MANNERS = (("o", "-"), ("s", "--"), ("^", "-."), ("D", ":"), ("v", "-"), ("P", "--"))
"""A mark and a line, one pair an attack of the figure."""

STYLE: dict[Any, Any] = {
    "axes.edgecolor": INK,
    "axes.grid": True,
    "axes.labelcolor": INK,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "figure.facecolor": PAPER,
    "font.family": "DejaVu Sans",
    "font.size": 10,
    "grid.color": LINE,
    "grid.linewidth": 0.6,
    "legend.frameon": False,
    "savefig.bbox": "tight",
    "savefig.facecolor": PAPER,
    "svg.fonttype": "path",
    "svg.hashsalt": "figure",
    "text.color": INK,
    "xtick.color": INK,
    "ytick.color": INK,
}
HOLLOW: dict[str, Any] = {"markersize": 11, "markeredgewidth": 1.8, "markerfacecolor": "none"}
"""Of marks of published numbers."""
RESOLUTION_DPI = 150
PANEL_WIDTH_IN = 5.2
WIDE = 15
"""How many times the smallest parameter the largest is where an axis becomes logarithmic."""
SPACE = 0.045
"""The least distance of two ticks, as a share of its length."""


def draw_sweep(sweep: Sweep, path: Path, kind: FileKind) -> None:
    """Accuracy against a parameter, a panel a data set, with bands of intervals.

    Large hollow marks are published accuracies.
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
            _panel(axes, curves, attacks)
            axes.set_title(panel, fontsize=10)
            axes.set_xlabel(sweep.quantity)
        row[0].set_ylabel("accuracy (% of images)")
        low, high = row[0].get_ylim()  # of all panels, once all are drawn
        row[0].set_ylim(max(-2.0, low), min(102.0, high))
        write_title(figure, sweep.title)
        save(figure, path, kind)


def draw_pictures(pictures: Sequence[Picture], path: Path, kind: FileKind) -> None:
    """Each image clean and attacked, with what the attack added, magnified, a row a picture."""
    with mpl.rc_context({**STYLE, "axes.grid": False}):
        figure = Figure(figsize=(7.5, 3.2 * len(pictures)), layout="constrained")
        rows = figure.subplots(len(pictures), 3, squeeze=False)
        for axes, picture in zip(rows, pictures, strict=True):
            for place, (heading, pixels) in zip(axes, _images(picture), strict=True):
                grey = pixels.shape[2] == 1
                place.imshow(
                    pixels[:, :, 0] if grey else pixels,
                    cmap="gray" if grey else None,
                    vmin=0,
                    vmax=1,
                    interpolation="nearest",
                )
                place.set_title(heading, fontsize=10)
                place.set_axis_off()
        save(figure, path, kind)


def magnification(picture: Picture) -> float:
    """How many times a perturbation is shown magnified: its largest change spans half the range."""
    largest = picture.largest_change
    return math.floor(0.5 / largest + 1e-6) if largest > 0 else 1.0


def _panel(axes: Axes, curves: Sequence[Curve], attacks: Sequence[str]) -> None:
    models = list(dict.fromkeys(curve.model for curve in curves))
    handles: list[Line2D] = []
    published: list[str] = []
    for curve in curves:
        colour = COLOURS[models.index(curve.model) % len(COLOURS)]
        mark, line = MANNERS[attacks.index(curve.attack) % len(MANNERS)]
        points = curve.points
        _intervals(axes, points, colour)
        (drawn,) = axes.plot(
            [point.x for point in points],
            [point.accuracy for point in points],
            color=colour,
            marker=mark,
            linestyle=line,
            linewidth=1.6,
            markersize=4.5,
            label=f"{curve.model}, {curve.attack}",
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
    """A band, which has a width even around a point that stands alone."""
    known = [(point.x, *point.interval) for point in points if point.interval is not None]
    if not known:
        return
    x, low, high = zip(*known, strict=True)
    if len(known) == 1:
        axes.vlines(x, low, high, color=colour, alpha=0.3, linewidth=6)
    else:
        axes.fill_between(x, low, high, color=colour, alpha=0.13, linewidth=0)


def _published(axes: Axes, points: Sequence[Point], colour: str, mark: str) -> Iterator[str]:
    """Draws the published points; yields the tables that print them."""
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
    """Ticks at the values drawn, as many as there is room for, published ones first."""
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


def _images(picture: Picture) -> list[tuple[str, np.ndarray]]:
    times = magnification(picture)
    change = picture.adversarial - picture.clean
    attacked = next(iter(picture.answers.values()))
    before = [f"clean: class {picture.label}"]
    if picture.clean_answer is not None:
        before = [_seen("clean", picture.clean_answer)]
    return [
        (before[0], picture.clean),
        (_seen(picture.attack, attacked), picture.adversarial),
        (f"perturbation, {times:g} times\n(grey: no change)", np.clip(0.5 + times * change, 0, 1)),
    ]


def _seen(heading: str, answer: np.ndarray) -> str:
    return f"{heading}\nseen as class {answer.argmax()} ({answer.max():.2f})"


def ticks_at(axes: Axes, values: Sequence[float]) -> None:
    """Ticks along x at these values alone, written as they are."""
    axes.xaxis.set_major_locator(FixedLocator(values))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(StrMethodFormatter("{x:g}"))


@contextlib.contextmanager
def sheet(width_in: float, height_in: float) -> Iterator[Figure]:
    """A figure to be drawn and saved within the style."""
    with mpl.rc_context(STYLE):
        yield Figure(figsize=(width_in, height_in), layout="constrained")


def write_title(figure: Figure, title: str) -> None:
    """Above all, in as many lines as it takes."""
    room = int(figure.get_figwidth() * 11)
    figure.suptitle("\n".join(textwrap.wrap(title, room)), fontsize=11)


def save(figure: Figure, path: Path, kind: FileKind) -> None:
    """Without anything that differs from day to day."""
    nothing = {"svg": {"Date": None, "Creator": None}, "png": {"Software": None}}[kind]
    figure.savefig(path, format=kind, dpi=RESOLUTION_DPI, metadata=nothing)

"""Figures of defenses: accuracy against cost, accuracy against epsilon, robustness."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from pipeline.report.formats.figures.colours import INK
from pipeline.report.formats.figures.style import (
    COLOURS,
    MANNERS,
    WIDE,
    FileKind,
    ends,
    save,
    sheet,
    ticks_at,
    write_title,
)
from pipeline.report.views.adaptive import Robustness
from pipeline.report.views.costs import CostPanel, Costs
from pipeline.report.views.epsilons import EpsilonPanel, Epsilons
from pipeline.report.words.numbers import images_range

APART = 0.03
"""Minimum distance of marks, as a share of the width of all marks."""


def draw_costs(costs: Costs, path: Path, kind: FileKind) -> None:
    """Draw the lowest accuracy of each defense against its passes, with a panel for each model."""
    with _panels(costs, _cost_panel, {}) as (figure, row):
        row[0].set_ylabel("least accuracy (% of images)")
        for axes in row:
            axes.set_xlabel("passes of the network per prediction\n(equal ones drawn side by side)")
        write_title(figure, f"{costs.title}: accuracy against cost")
        save(figure, path, kind)


def draw_epsilons(epsilons: Epsilons, path: Path, kind: FileKind) -> None:
    """Draw the accuracy of each defense against epsilon, with a panel for each model."""
    with _panels(epsilons, _epsilon_panel, _with_images(epsilons)) as (figure, row):
        accuracy = "few-draw accuracy" if epsilons.few_draws else "accuracy"
        row[0].set_ylabel(f"{accuracy} (% of the card's images)")
        for axes in row:
            axes.set_xlabel("epsilon (1/255 of the pixel range)")
        write_title(figure, f"{epsilons.title}: {accuracy} against epsilon")
        save(figure, path, kind)


def draw_robustness(rows: Sequence[Robustness], path: Path, kind: FileKind) -> None:
    """Draw accuracy under replayed, adaptive and all attacks, with a line for each defense."""
    with sheet(7.2, 1.6 + 0.34 * len(rows)) as figure:
        axes = figure.subplots()
        for line, row in enumerate(rows):
            _rates(axes, line, row)
            if row.oblivious is not None:
                ends = [row.oblivious.accuracy, row.adaptive.accuracy]
                axes.plot(ends, [line, line], color="#888888", linewidth=1, zorder=0)
        several = len({row.adaptive_attack for row in rows}) > 1
        labels = [
            f"{row.model}, {row.defense}" + (f" ({row.adaptive_attack})" if several else "")
            for row in rows
        ]
        axes.set_yticks(range(len(rows)), labels)
        axes.set_ylim(len(rows) - 0.5, -0.5)
        axes.set_xlim(-2, 102)
        axes.set_xlabel("accuracy (% of images)")
        handles = dict(zip(*reversed(axes.get_legend_handles_labels()), strict=True))
        figure.legend(
            handles=list(handles.values()),
            labels=list(handles),
            loc="outside lower center",
            ncols=3,
            fontsize=9,
        )
        save(figure, path, kind)


@contextmanager
def _panels(
    shown: Costs | Epsilons,
    draw: Callable[[Any, Any, Sequence[str]], dict[str, Any]],
    labels: Mapping[str, str],
) -> Iterator[tuple[Any, Any]]:
    """Context manager: a figure with a panel for each model and a common legend of defenses.

    Args:
        draw: Fills a panel and returns a legend handle for each of its defenses.
        labels: Legend entries of the defenses, where they are not the names.
    """
    panels: Sequence[CostPanel | EpsilonPanel] = shown.panels
    lines = -(-len(shown.defenses) // 2)
    with sheet(max(6.4, 4.6 * len(panels)), 4.2 + 0.22 * lines) as figure:
        row = figure.subplots(1, len(panels), sharey=True, squeeze=False)[0]
        handles: dict[str, Any] = {}
        for panel, axes in zip(panels, row, strict=True):
            handles |= draw(axes, panel, shown.order)
            axes.set_title(panel.model, fontsize=10)
        row[0].set_ylim(-2, 102)
        figure.legend(
            handles=[handles[defense] for defense in shown.defenses],
            labels=[labels.get(defense, defense) for defense in shown.defenses],
            loc="outside lower center",
            ncols=2,
            fontsize=9,
            handlelength=3.5,
        )
        yield figure, row


def _with_images(epsilons: Epsilons) -> dict[str, str]:
    """`hedge (70 images)` for each defense, if curves are of different numbers of images."""
    counts: dict[str, list[int]] = {}
    for panel in epsilons.panels:
        for curve in panel.curves:
            counts.setdefault(curve.defense, []).append(curve.images)
    if len({count for of in counts.values() for count in of}) == 1:
        return {}
    return {name: f"{name} ({images_range(min(of), max(of))})" for name, of in counts.items()}


def _cost_panel(axes: Any, panel: CostPanel, order: Sequence[str]) -> dict[str, Any]:
    """Draw the points of a model; returns a legend handle for each defense."""
    handles = {}
    taken = [point.passes for point in panel.points]
    wide = max(taken) / min(taken) > WIDE
    for point, across in zip(panel.points, side_by_side(taken, logarithmic=wide), strict=True):
        place = order.index(point.defense)
        error = None if point.interval is None else ends(point.accuracy, point.interval)
        handles[point.defense] = axes.errorbar(
            [across],
            [point.accuracy],
            yerr=error,
            color=COLOURS[place % len(COLOURS)],
            marker=MANNERS[place % len(MANNERS)][0],
            markersize=7,
            linestyle="none",
            capsize=3,
        )
    if wide:
        axes.set_xscale("log")
        axes.xaxis.set_major_formatter("{x:g}")
    return handles


def side_by_side(values: Sequence[float], *, logarithmic: bool) -> list[float]:
    """Positions at which marks do not overlap, moved as little as possible.

    Marks that would overlap are placed side by side around their centre.
    """
    places = [math.log(value) if logarithmic else value for value in values]
    gap = APART * (max(places) - min(places))
    groups: list[list[int]] = []
    for mark in sorted(range(len(places)), key=places.__getitem__):
        group = [mark]
        while groups and _ends(group, places, gap)[0] < _ends(groups[-1], places, gap)[1] + gap:
            group = groups.pop() + group
        groups.append(group)
    moved = dict[int, float]()
    for group in groups:
        first, _ = _ends(group, places, gap)
        moved |= {mark: first + gap * place for place, mark in enumerate(group)}
    return [math.exp(moved[mark]) if logarithmic else moved[mark] for mark in range(len(places))]


def _ends(group: Sequence[int], places: Sequence[float], gap: float) -> tuple[float, float]:
    """First and last position of marks placed at distance `gap` around their centre."""
    middle = sum(places[mark] for mark in group) / len(group)
    half = gap * (len(group) - 1) / 2
    return middle - half, middle + half


def _epsilon_panel(axes: Any, panel: EpsilonPanel, order: Sequence[str]) -> dict[str, Any]:
    """Draw the curves of a model; returns a legend handle for each defense."""
    handles = {}
    for curve in panel.curves:
        place = order.index(curve.defense)
        colour = COLOURS[place % len(COLOURS)]
        mark, line = MANNERS[place % len(MANNERS)]
        sizes = [point.epsilon for point in curve.points]
        low, high = zip(*(point.interval for point in curve.points), strict=True)
        # lines instead of bands, since ten bands would hide one another
        axes.vlines(sizes, low, high, color=colour, alpha=0.4, linewidth=1.2)
        (handles[curve.defense],) = axes.plot(
            sizes,
            [point.accuracy for point in curve.points],
            color=colour,
            marker=mark,
            linestyle=line,
            linewidth=1.6,
            markersize=5,
        )
    shown = sorted({point.epsilon for curve in panel.curves for point in curve.points})
    # linear from 0 to the smallest epsilon, logarithmic beyond
    axes.set_xscale("symlog", base=2, linthresh=next(size for size in shown if size > 0))
    ticks_at(axes, shown)
    return handles


def _rates(axes: Any, line: int, row: Robustness) -> None:
    """Draw the marks of a defense on its line."""
    marks = (
        ("replayed", row.oblivious, "o", COLOURS[0], "none"),
        ("adaptive", row.adaptive, "o", COLOURS[1], COLOURS[1]),
        ("all attacks", row.all_attacks, "x", INK, INK),
    )
    for label, rate, mark, colour, face in marks:
        if rate is None:
            continue
        error = None
        if rate.interval is not None and mark == "o":
            error = ends(rate.accuracy, rate.interval)
        axes.errorbar(
            [rate.accuracy],
            [line],
            xerr=error,
            color=colour,
            marker=mark,
            markersize=7,
            markerfacecolor=face,
            linestyle="none",
            capsize=3,
            label=label,
        )

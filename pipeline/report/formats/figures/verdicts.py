"""Figure of verdicts: worst-case accuracy of each defense, and accuracy without a defense."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes

from pipeline.report.formats.figures.colours import INK
from pipeline.report.formats.figures.style import COLOURS, FileKind, ends, save, sheet
from pipeline.report.views.verdict_panels import VerdictMark, VerdictPanel
from pipeline.report.words.numbers import accuracy, images_range
from tasks.evaluation.verdicts import Word

TITLE = "Worst-case accuracy of each defense, and its verdict"
WIDTH_IN = 4.7
"""Narrow enough to be read on a phone without scrolling."""
ROW_IN, PANEL_IN, LINE_IN = 0.25, 0.75, 0.2
"""Heights in inches: of a defense, of an empty panel, of a line of the legend."""
GREY = "#888888"
"""Colour of less important marks, visible on white and on black."""
WITHOUT, REPLAYED = "without a defense", "replayed"
LOOKS: dict[Word, tuple[str, str, str]] = {
    "holds": ("^", COLOURS[2], COLOURS[2]),
    "no gain": ("s", COLOURS[0], COLOURS[0]),
    "harms": ("v", COLOURS[1], COLOURS[1]),
    "undecided": ("D", COLOURS[3], "none"),
    "cannot tell": ("x", GREY, GREY),
}
"""Marker, colour and fill colour of each verdict."""


def draw_verdicts(panels: Sequence[VerdictPanel], path: Path, kind: FileKind) -> None:
    """Draw the worst case of each defense: a panel for each network, a line for each defense."""
    heights = [PANEL_IN + ROW_IN * len(panel.marks) for panel in panels]
    words = {mark.verdict for panel in panels for mark in panel.marks}
    labels = [*(word for word in LOOKS if word in words), WITHOUT, REPLAYED]
    lines = -(-len(labels) // 2)
    with sheet(WIDTH_IN, sum(heights) + LINE_IN * (lines + 1)) as figure:
        column = figure.subplots(
            len(panels), 1, sharex=True, squeeze=False, gridspec_kw={"height_ratios": heights}
        )[:, 0]
        handles: dict[str, Any] = {}
        for panel, axes in zip(panels, column, strict=True):
            handles |= _panel(axes, panel)
        _, most = column[0].get_xlim()  # common limits, once all panels are drawn
        column[0].set_xlim(-1.5, min(101.5, most))
        column[-1].set_xlabel("accuracy (% of images)")
        shown = [label for label in labels if label in handles]
        figure.legend(
            handles=[handles[label] for label in shown],
            labels=[f"worst case: {label}" if label in LOOKS else label for label in shown],
            loc="outside lower center",
            ncols=2,
            fontsize=9,
        )
        save(figure, path, kind, title=TITLE, description=described(panels))


def described(panels: Sequence[VerdictPanel]) -> str:
    """The figure as text, with its numbers, for people who cannot see it."""
    told = []
    for panel in panels:
        rates = dict.fromkeys(mark.without.accuracy for mark in panel.marks if mark.without)
        without = " or ".join(f"{accuracy(rate)} %" for rate in rates) or "unknown"
        marks = ", ".join(
            f"{mark.defense} {accuracy(mark.worst.accuracy)} % ({mark.verdict})"
            for mark in panel.marks
        )
        told.append(
            f"On {panel.model}, {panel.norm} {panel.epsilon:g}/255, worst-case accuracy without a "
            f"defense is {without}. With one: {marks}."
        )
    return " ".join(told)


def _panel(axes: Axes, panel: VerdictPanel) -> dict[str, Any]:
    """Draw the defenses of a network; returns legend handles of the verdicts and other marks."""
    handles = _without(axes, panel.marks)
    for line, mark in enumerate(panel.marks):
        if mark.replayed is not None:
            (handles[REPLAYED],) = axes.plot(
                [mark.replayed.accuracy],
                [line],
                color=GREY,
                marker="o",
                markerfacecolor="none",
                markersize=5,
                linestyle="none",
            )
        shape, colour, face = LOOKS[mark.verdict]
        handles[mark.verdict] = axes.errorbar(
            [mark.worst.accuracy],
            [line],
            xerr=None
            if mark.worst.interval is None
            else ends(mark.worst.accuracy, mark.worst.interval),
            color=colour,
            marker=shape,
            markerfacecolor=face,
            markersize=6,
            linestyle="none",
            capsize=2.5,
        )
    axes.set_yticks(range(len(panel.marks)), [mark.defense for mark in panel.marks])
    axes.set_ylim(len(panel.marks) - 0.5, -0.5)
    axes.set_title(
        f"{panel.model}\n{panel.norm} {panel.epsilon:g}/255, {images_range(*panel.images)}",
        fontsize=10,
    )
    axes.grid(visible=False, axis="y")
    axes.tick_params(labelbottom=True)
    return handles


def _without(axes: Axes, marks: Sequence[VerdictMark]) -> dict[str, Any]:
    """Draw the accuracy without a defense as a vertical line, with its interval as a band.

    Defenses that were attacked with different budgets may be compared with different values.
    """
    handles: dict[str, Any] = {}
    top = -0.5
    for rate, same in groupby(mark.without for mark in marks):
        bottom = top + len(list(same))
        if rate is not None:
            drawn: list[Any] = [
                axes.vlines(rate.accuracy, top, bottom, INK, linewidth=1.1, zorder=1)
            ]
            if rate.interval is not None:
                low, high = rate.interval
                band = axes.fill_betweenx(
                    [top, bottom], low, high, color=INK, alpha=0.1, linewidth=0
                )
                drawn.append(band)
            handles[WITHOUT] = tuple(drawn)
        top = bottom
    return handles

"""Common style of all figures, and saving."""

from __future__ import annotations

import contextlib
import html
import textwrap
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, NullLocator, StrMethodFormatter

from pipeline.report.formats.figures.colours import INK, LINE, PAPER

FileKind = Literal["svg", "png"]


COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", INK)
"""Colours of curves and marks, in order."""


MANNERS = (("o", "-"), ("s", "--"), ("^", "-."), ("D", ":"), ("v", "-"), ("P", "--"))
"""Pairs of marker and line style, in order."""


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
"""Style of marks for published numbers."""


RESOLUTION_DPI = 150


WIDE = 15
"""Ratio of largest to smallest value above which an axis becomes logarithmic."""


def ticks_at(axes: Axes, values: Sequence[float]) -> None:
    """Place ticks on the x axis at exactly these values."""
    axes.xaxis.set_major_locator(FixedLocator(values))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(StrMethodFormatter("{x:g}"))


@contextlib.contextmanager
def sheet(width_in: float, height_in: float) -> Iterator[Figure]:
    """Context manager: a figure to be drawn and saved with the common style."""
    with mpl.rc_context(STYLE):
        yield Figure(figsize=(width_in, height_in), layout="constrained")


def write_title(figure: Figure, title: str) -> None:
    """Set the figure's title, wrapped to its width."""
    room = int(figure.get_figwidth() * 11)
    figure.suptitle("\n".join(textwrap.wrap(title, room)), fontsize=11)


def ends(value: float, interval: tuple[float, float]) -> list[list[float]]:
    """Distances of an interval's bounds from a value, in the form of matplotlib's error bars."""
    low, high = interval
    return [[max(0.0, value - low)], [max(0.0, high - value)]]


def save(
    figure: Figure, path: Path, kind: FileKind, *, title: str = "", description: str = ""
) -> None:
    """Save a figure reproducibly, without dates.

    title, description: metadata of an SVG file for people who cannot see it.
    """
    nothing = {"svg": {"Date": None, "Creator": None}, "png": {"Software": None}}[kind]
    named = {"Title": title} if title else {}
    figure.savefig(path, format=kind, dpi=RESOLUTION_DPI, metadata={**nothing, **named})
    if kind == "svg" and description:
        text = path.read_text(encoding="utf-8")
        told = f"</title>\n <desc>{html.escape(description, quote=False)}</desc>"
        path.write_text(text.replace("</title>", told, 1), encoding="utf-8")

"""Figure of the simulated time against the number of workers."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from pipeline.report.formats.figures.style import COLOURS, save, sheet, write_title


def draw_scale(times: Sequence[tuple[int, float]], bound: float, title: str, path: Path) -> None:
    """Draw hours against workers as SVG, both axes logarithmic.

    bound: lower limit in hours for any number of workers.
    """
    with sheet(6.4, 4.4) as figure:
        axes = figure.subplots()
        counts, hours = zip(*times, strict=True)
        ideal = [hours[0] * counts[0] / count for count in counts]
        axes.loglog(counts, hours, "o-", color=COLOURS[0], label="simulated", base=2)
        axes.loglog(counts, ideal, ":", color=COLOURS[6], label="work shared out evenly", base=2)
        axes.axhline(bound, color=COLOURS[1], linestyle="--", label="longest chain")
        axes.set_xticks(counts, [str(count) for count in counts])
        axes.yaxis.set_major_formatter("{x:g}")
        axes.set_xlabel("workers")
        axes.set_ylabel("hours")
        axes.legend()
        write_title(figure, title)
        save(figure, path, "svg")

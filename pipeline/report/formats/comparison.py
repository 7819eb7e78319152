"""A comparison of two sets of scores, for the terminal and as Markdown."""

from __future__ import annotations

import re
from collections.abc import Iterator

from rich import box
from rich.console import Group
from rich.table import Column, Table
from rich.text import Text

from pipeline.report.formats.markdown import markdown_table
from pipeline.report.views.comparison import Compared, Comparison
from pipeline.report.views.table import LEVEL
from pipeline.report.words.numbers import NOTHING, accuracy, gain

COLUMNS = ("before", "after", "change", "lost", "won", "p")
REASONS = 12
"""Maximum number of reasons shown; there may be one for each swept value."""
NARROWEST = 12
"""Minimum width of the column of cell names, however narrow the terminal."""
STYLES = {"worse": "bold red", "better": "bold green"}
LEGEND = (
    "lost, won: images that are classified correctly less often, or more often, than before. "
    f"p: sign-flip test over images, Holm-corrected for all cells; significant if p ≤ {LEVEL:g}."
)


def comparison_terminal(found: Comparison, *, every: bool, width: int) -> Group:
    """The changed cells, or all of them, and the reasons; fitted to `width` columns."""
    rows = _shown(found, every=every)
    room = max(NARROWEST, width - _others_width(rows))
    table = Table(
        Column("cell", overflow="fold"),
        *(Column(name, justify="right", no_wrap=True) for name in COLUMNS),
        Column("", no_wrap=True),
        box=box.SIMPLE_HEAD,
        show_edge=False,
        padding=(0, 1, 0, 0),
        pad_edge=False,
    )
    for row in rows:
        style = STYLES.get(row.outcome, "")
        name = Text(broken_name(row.place.words, room))
        table.add_row(name, *_numbers(row), Text(_outcome(row), style=style))
    lines = list(_lines(found))
    title = Text(f"{found.before} → {found.after}", style="italic")
    return Group(title, *([table] if rows else []), *(Text(line) for line in lines))


def broken_name(name: str, room: int) -> str:
    """A cell's name, broken after slashes into lines of at most `room` characters, if possible."""
    lines = [""]
    for part in re.findall(r"[^/]+/?", name):
        if lines[-1] and len(lines[-1]) + len(part) > room:
            lines.append("")
        lines[-1] += part
    return "\n".join(lines)


def _others_width(rows: list[Compared]) -> int:
    """Total width of the other columns, with their padding."""
    cells = [[*COLUMNS, ""], *([*_numbers(row), _outcome(row)] for row in rows)]
    return sum(2 + max(map(len, column)) for column in zip(*cells, strict=True))


def comparison_markdown(found: Comparison, *, every: bool) -> str:
    """The comparison as Markdown."""
    rows = [
        [f"`{row.place.words}`", *_numbers(row), _outcome(row)]
        for row in _shown(found, every=every)
    ]
    parts = [f"## {found.before} → {found.after}", ""]
    if rows:
        parts += [*markdown_table(["cell"], [*COLUMNS, "outcome"], rows), ""]
    parts += [f"- {line.strip()}" for line in _lines(found) if line.strip()]
    return "\n".join(parts) + "\n"


def _shown(found: Comparison, *, every: bool) -> list[Compared]:
    """The rows to show: worst first, then by size of the change."""
    rank = {"worse": 0, "better": 1, "moved": 2}
    rows = [row for row in found.rows if every or row.outcome in rank]
    return sorted(rows, key=lambda row: (rank.get(row.outcome, 3), -abs(row.change or 0.0)))


def _numbers(row: Compared) -> list[str]:
    tested = row.p_holm is not None
    return [
        accuracy(row.before),
        accuracy(row.after),
        NOTHING if row.change is None else gain(row.change),
        str(row.lost) if tested else NOTHING,
        str(row.won) if tested else NOTHING,
        _probability(row.p_holm),
    ]


def _probability(value: float | None) -> str:
    if value is None:
        return NOTHING
    return f"{value:.2g}" if value >= 0.001 else "<0.001"


def _outcome(row: Compared) -> str:
    return {"moved": "not significant", "same": "unchanged"}.get(row.outcome, row.outcome)


def _lines(found: Comparison) -> Iterator[str]:
    total = len(found.rows)
    counts = [
        f"{len(rows)} {words}"
        for words, rows in (
            ("significantly worse", found.having("worse")),
            ("significantly better", found.having("better")),
            ("changed, but not significantly", found.having("moved")),
            ("unchanged", found.having("same")),
            (f"scored only in {found.before}", found.having("only before")),
            (f"scored only in {found.after}", found.having("only after")),
        )
        if rows
    ]
    yield f"{total} {'cell' if total == 1 else 'cells'}: {', '.join(counts)}"
    for reason, count in list(found.reasons.items())[:REASONS]:
        yield f"  why   {reason}" + (f"  ({count} cells)" if count > 1 else "")
    if len(found.reasons) > REASONS:
        yield f"  and {len(found.reasons) - REASONS} more; --json has them all"
    untested: dict[str, int] = {}
    for row in found.rows:
        if row.untested:
            said = row.untested.partition(": ")[2] or row.untested
            untested[said] = untested.get(said, 0) + 1
    for said, count in untested.items():
        yield f"  not tested   {said}" + (f"  ({count} cells)" if count > 1 else "")
    if any(row.p_holm is not None for row in found.rows):
        yield f"  {LEGEND}"

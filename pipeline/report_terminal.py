"""A report's tables on a terminal, in as many columns as it has."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from rich import box
from rich.console import Group, RenderableType
from rich.table import Column, Table
from rich.text import Text

from pipeline.grid import Grid
from pipeline.report_tables import Entry, Row, Scores, View, views
from pipeline.report_text import caption, entry_words

LETTERS = 6
"""What is left of a long word of a heading, before its full stop."""
NARROWEST = 8


@dataclass(frozen=True)
class Layout:
    """How headings and entries are broken into lines."""

    heading: Callable[[str], str]
    separator: str


def _stacked(label: str) -> str:
    return re.sub(r"(?<=[-+_/ ])(?=.)", "\n", label)


def _abbreviated(label: str) -> str:
    words = _stacked(label).split("\n")
    return "\n".join(
        f"{word[:LETTERS]}." if len(word.rstrip("-")) > LETTERS + 1 else word for word in words
    )


LAYOUTS = (
    Layout(str, " "),
    Layout(_stacked, " "),
    Layout(_stacked, "\n"),
    Layout(_abbreviated, "\n"),
)
"""From the roomiest to the tightest; the first that fits is taken."""


def render_terminal(grid: Grid, scores: Scores, *, width: int) -> Group:
    """Every table of a grid, no line longer than `width`.

    What is too wide in every layout is continued in another block of columns below.
    """
    return Group(*(part for view in views(grid, scores) for part in _rendered(view, width)))


def _rendered(view: View, width: int) -> Iterator[RenderableType]:
    room = width - min(_first_width(view), max(width // 3, NARROWEST)) - 1
    fitting = (layout for layout in LAYOUTS if sum(_widths(view, layout)) <= room)
    layout = next(fitting, LAYOUTS[-1])
    yield Text(view.table.title or view.table.name, style="bold")
    for block in _blocks(_widths(view, layout), room):
        yield _table(view, layout, block, width)
    lines = list(caption(view))
    if any(row.redraws == "deterministic" for row in view.rows):
        lines.append("* deterministic: nothing is drawn at random.")
    lines.extend(f"[{place}] {note}" for place, note in enumerate(view.notes, 1))
    yield Text("\n".join(lines) + "\n", style="dim")


def _table(view: View, layout: Layout, block: range, width: int) -> Table:
    columns = [
        Column(Text(layout.heading(view.attacks[place])), justify="right", no_wrap=True)
        for place in block
    ]
    first = min(_first_width(view), max(width // 3, NARROWEST))
    table = Table(
        Column("", overflow="fold", width=first),
        *columns,
        box=box.SIMPLE_HEAD,
        show_edge=False,
        padding=(0, 1, 0, 0),
        pad_edge=False,
    )
    for model in view.models:
        table.add_row(Text(model, style="bold"))
        for row in view.rows:
            if row.model == model:
                entries = (row.entries[place] for place in block)
                table.add_row(Text(_label(row)), *(_shown(entry, layout) for entry in entries))
        table.add_section()
    return table


def _blocks(widths: Sequence[int], room: int) -> Iterator[range]:
    """Places of columns that fit beside each other, at least one at a time."""
    start, used = 0, 0
    for place, width in enumerate(widths):
        if place > start and used + width > room:
            yield range(start, place)
            start, used = place, 0
        used += width
    yield range(start, len(widths))


def _first_width(view: View) -> int:
    return max(len(text) for row in view.rows for text in (row.model, _label(row)))


def _widths(view: View, layout: Layout) -> list[int]:
    """Of the columns, with two characters between one and the next."""
    return [2 + max(map(len, _column(view, layout, place))) for place in range(len(view.attacks))]


def _column(view: View, layout: Layout, place: int) -> list[str]:
    """Every line of a column."""
    entries = (row.entries[place] for row in view.rows)
    heading = layout.heading(view.attacks[place]).split("\n")
    return [*heading, *(line for entry in entries for line in _lines(entry, layout))]


def _label(row: Row) -> str:
    return f"  {row.defense}{' *' if row.redraws == 'deterministic' else ''}"


def _lines(entry: Entry, layout: Layout) -> list[str]:
    return layout.separator.join(entry_words(entry)).split("\n")


def _shown(entry: Entry, layout: Layout) -> Text:
    text = Text(layout.separator.join(entry_words(entry)), justify="right")
    if entry.accuracy is None:
        text.stylize("dim")
    elif entry.gain is not None:
        text.highlight_regex(r"\(\+.*?\)", "green")
        text.highlight_regex(r"\(-.*?\)", "red")
    return text

"""Tables of a report for the terminal, fitted to its width."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from rich import box
from rich.console import Group, RenderableType
from rich.table import Column, Table
from rich.text import Text

from pipeline.grid.cells import Cell, Grid
from pipeline.grid.choices import BARE
from pipeline.report.scores import Scores
from pipeline.report.views.adaptive import Robustness, robustness_rows
from pipeline.report.views.table import Entry, Row, View, beside, of_cells
from pipeline.report.views.table_rows import views
from pipeline.report.views.verdict_row import VerdictRow
from pipeline.report.views.verdicts import verdict_rows
from pipeline.report.words import verdicts
from pipeline.report.words.adaptive import (
    SHORT,
    SHORT_LEGEND,
    attack_notes,
    short_robustness_words,
)
from pipeline.report.words.adaptive import heading as robustness_heading
from pipeline.report.words.numbers import entry_words
from pipeline.report.words.paper import compact_words, differing, judged
from pipeline.report.words.table import caption, heading

LETTERS = 6
"""Number of characters kept of a long word in a heading that is abbreviated."""
NARROWEST = 8


@dataclass(frozen=True)
class Wrapping:
    """A way to break headings and entries into lines."""

    heading: Callable[[str], str]
    separator: str


@dataclass(frozen=True)
class Sheet:
    """A table, and a function for the words of its entries."""

    view: View
    words: Callable[[Entry], list[str]]


def _stacked(label: str) -> str:
    """One line per word; swept parameters such as `[epsilon=20]` have lines of their own."""
    return re.sub(r"(?<=[-+_/ ,=])(?=.)|(?<=.)(?=\[)", "\n", label)


def _abbreviated(label: str) -> str:
    return "\n".join(map(_short, _stacked(label).split("\n")))


def _short(word: str) -> str:
    """Abbreviate a long word; swept parameters and numbers distinguish columns and are kept."""
    swept = word.startswith("[") or any(letter.isdigit() for letter in word)
    if swept or len(word.rstrip("-")) <= LETTERS + 1:
        return word
    return f"{word[:LETTERS]}."


WRAPPINGS = (
    Wrapping(str, " "),
    Wrapping(_stacked, " "),
    Wrapping(_stacked, "\n"),
    Wrapping(_abbreviated, "\n"),
)
"""From widest to narrowest; the first one that fits is used."""


def render_terminal(
    grid: Grid,
    scores: Scores,
    *,
    width: int,
    asked: Sequence[Cell] | None = None,
    judged: str | None = None,
    bold: bool = True,
) -> Group:
    """All tables of a grid, with no line longer than `width`.

    Columns that do not fit continue in another block below.

    Args:
        asked: Cells whose rows and columns are shown; all by default.
        judged: The defense whose verdicts are shown, and only the robustness that these are based
            on; by default the verdicts of the cells `asked`, and all robustness.
        bold: Whether the output can show bold text.
    """
    shown = views(grid, scores)
    if asked is not None and len(asked) < len(grid.cells):
        shown = [view for view in (of_cells(view, asked) for view in shown) if view is not None]
    decisive = {
        (row.model, row.attack)
        for row in (verdict_rows(grid, scores) if judged is not None else ())
        if row.defense == judged and not row.verdict.fallen
    }

    def decides(row: Robustness) -> bool:
        return judged is None or (row.model, row.adaptive_attack) in decisive

    robust = [
        [row for row in robustness_rows(view, grid, scores) if decides(row)] for view in shown
    ]
    return Group(
        *(
            part
            for view, rows in zip(shown, robust, strict=True)
            for part in _rendered(view, rows, width, bold=bold)
        ),
        *_legend(shown, grid, explained=any(robust)),
        *_verdicts(grid, scores, grid.cells if asked is None else asked, judged),
    )


def _verdicts(
    grid: Grid, scores: Scores, asked: Sequence[Cell], judged: str | None
) -> Iterator[RenderableType]:
    """Whether the selected defenses hold; printed last, where people look first."""
    meant = {(cell.model, cell.defense, cell.attack) for cell in asked}
    defended = {(cell.model, cell.defense) for cell in asked}

    def is_meant(row: VerdictRow) -> bool:
        if judged is not None:
            return row.defense == judged
        if row.verdict.fallen and (row.model, row.defense) in defended:
            # the verdict follows from the bare network alone
            return not meant.isdisjoint((row.model, of, row.attack) for of in (row.defense, BARE))
        return (row.model, row.defense, row.attack) in meant

    rows = [row for row in verdict_rows(grid, scores) if is_meant(row)]
    lines = [verdicts.plain(line) for line in verdicts.answers(rows)]
    if absent := verdicts.without_verdict(grid):
        lines.append(verdicts.plain(absent))
    if lines:
        yield Text(verdicts.HEADING, style="bold")
        yield Text("\n".join(lines))


def _rendered(
    view: View, robust: Sequence[Robustness], width: int, *, bold: bool
) -> Iterator[RenderableType]:
    yield Text(heading(view), style="bold")
    yield from _tables(Sheet(view, entry_words), width)
    lines = list(caption(view, bold=bold))
    if any(row.redraws == "deterministic" for row in view.rows):
        lines.append("* deterministic: the defense draws no random numbers.")
    lines.extend(f"[{place}] {note}" for place, note in enumerate(view.notes, 1))
    yield Text("\n".join(lines) + "\n", style="dim")
    yield from _robustness(robust, width)
    both = beside(view)
    if both is not None:
        yield Text("Beside the paper: measured (published)", style="bold")
        yield from _tables(Sheet(both, compact_words), width)
        yield Text("\n".join(_said(both)) + "\n", style="dim")


def _robustness(rows: Sequence[Robustness], width: int) -> Iterator[RenderableType]:
    """Robustness of defenses, with a block for each adaptive attack and a line for each defense."""
    for attack in dict.fromkeys(row.adaptive_attack for row in rows):
        own = [row for row in rows if row.adaptive_attack == attack]
        yield Text(robustness_heading(attack, own), style="bold")
        table = Table(box=box.SIMPLE_HEAD, show_edge=False, padding=0, pad_edge=False)
        table.add_column("", max_width=max(width // 4, NARROWEST), overflow="fold")
        for name in SHORT:
            table.add_column(name, justify="right")
        model = None
        for row in own:
            if row.model != model:
                table.add_row(Text(row.model, style="bold"))
                model = row.model
            table.add_row(Text(row.defense), *map(Text, short_robustness_words(row)))
        yield table


def _legend(shown: Sequence[View], grid: Grid, *, explained: bool) -> Iterator[RenderableType]:
    """Notes about attacks; before them, the columns of robustness tables may be `explained`."""
    if explained:
        yield Text(SHORT_LEGEND.replace("\n", " ") + "\n", style="dim")
    for note in attack_notes(grid, dict.fromkeys(name for view in shown for name in view.attacks)):
        yield Text(f"{note}\n", style="dim")


def _said(both: View) -> list[str]:
    lines = judged(both)
    if lines:
        lines.insert(0, "in, out: the published number lies inside or outside the 95 % interval.")
    return [*lines, *differing(both)]


def _tables(sheet: Sheet, width: int) -> Iterator[RenderableType]:
    """The columns in blocks that fit the width."""
    room = width - min(_first_width(sheet.view), max(width // 3, NARROWEST)) - 1
    fitting = (wrapping for wrapping in WRAPPINGS if sum(_widths(sheet, wrapping)) <= room)
    wrapping = next(fitting, WRAPPINGS[-1])
    for block in _blocks(_widths(sheet, wrapping), room):
        yield _table(sheet, wrapping, block, width)


def _table(sheet: Sheet, wrapping: Wrapping, block: range, width: int) -> Table:
    view = sheet.view
    columns = [
        Column(Text(wrapping.heading(view.attacks[place])), justify="right", no_wrap=True)
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
                shown = (
                    _shown(view, entry, wrapping.separator.join(sheet.words(entry)))
                    for entry in entries
                )
                table.add_row(Text(_label(row)), *shown)
        table.add_section()
    return table


def _blocks(widths: Sequence[int], room: int) -> Iterator[range]:
    """Ranges of columns that fit side by side, at least one each."""
    start, used = 0, 0
    for place, width in enumerate(widths):
        if place > start and used + width > room:
            yield range(start, place)
            start, used = place, 0
        used += width
    yield range(start, len(widths))


def _first_width(view: View) -> int:
    return max(len(text) for row in view.rows for text in (row.model, _label(row)))


def _widths(sheet: Sheet, wrapping: Wrapping) -> list[int]:
    """Widths of the columns, including two characters of padding."""
    places = range(len(sheet.view.attacks))
    return [2 + max(map(len, _column(sheet, wrapping, place))) for place in places]


def _column(sheet: Sheet, wrapping: Wrapping, place: int) -> list[str]:
    """All lines of a column."""
    heading = wrapping.heading(sheet.view.attacks[place]).split("\n")
    entries = (wrapping.separator.join(sheet.words(row.entries[place])) for row in sheet.view.rows)
    return [*heading, *(line for entry in entries for line in entry.split("\n"))]


def _label(row: Row) -> str:
    return f"  {row.defense}{' *' if row.redraws == 'deterministic' else ''}"


def _shown(view: View, entry: Entry, words: str) -> Text:
    text = Text(words, justify="right")
    if entry.accuracy is None:
        text.stylize("dim")
    else:
        if entry.bold:
            text.highlight_regex(r"\([-+].*?\)", "bold")
        text.highlight_regex(r"\bin$", "green")
        text.highlight_regex(r"\bout$", "red")
        if shows := view.gain_shows(entry):
            text.highlight_regex(r"\([-+].*?\)", {"up": "green", "down": "red"}[shows])
    return text

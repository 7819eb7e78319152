"""Tables in HTML. The only module that imports great_tables."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence

from great_tables import GT, html

from pipeline.report.formats.frames import laid_out, texts
from pipeline.report.views.adaptive import Robustness
from pipeline.report.views.table import Entry, Row, View, spans
from pipeline.report.views.verdict_row import VerdictRow
from pipeline.report.words.adaptive import NUMBERS, images_words, robustness_words
from pipeline.report.words.verdicts import COLUMNS as VERDICT_COLUMNS
from pipeline.report.words.verdicts import IN_WORDS, row_words


def table_html(view: View, identity: str, words: Callable[[Row, Entry], str]) -> str:
    """A `<table>` without styles, in which models are row groups and attacks are columns.

    Attacks with a common first word share a heading, and each cell refers to its headings.

    Args:
        identity: Unique id of the element.
        words: Returns the HTML of an entry.
    """
    frame = laid_out(view, words)
    table = GT(frame, id=identity, rowname_col="defense", groupname_col="model", auto_align=False)
    places = [str(place) for place in range(len(view.attacks))]
    labels = dict(zip(places, view.attacks, strict=True))
    start = 0
    for first, count in spans(view.attacks):
        if first:
            shared = places[start : start + count]
            table = table.tab_spanner(first, shared, id=f"over-{start}")
            labels |= {place: labels[place].removeprefix(f"{first}-") for place in shared}
        start += count
    # labels are the user's text, not Markdown
    escaped = {place: html(_escaped(label)) for place, label in labels.items()}
    table = (
        table.tab_stubhead("defense")
        .cols_label(redraws="redraws", **escaped)  # type: ignore[arg-type]
        .cols_align("right", [*places])
        .cols_align("left", ["redraws"])
        .fmt_passthrough(places, escape=False)
    )
    return _bare(table, _legend(view))


def robustness_html(rows: Sequence[Robustness], identity: str) -> str:
    """Robustness of defenses under one adaptive attack, with a row group for each model."""
    words = {
        name: [robustness_words(row)[place] for row in rows] for place, name in enumerate(NUMBERS)
    }
    frame = texts({"model": [r.model for r in rows], "defense": [r.defense for r in rows], **words})
    table = (
        GT(frame, id=identity, rowname_col="defense", groupname_col="model", auto_align=False)
        .tab_stubhead("defense")
        .cols_align("right", list(NUMBERS))
    )
    return _bare(
        table,
        "Accuracy in percent, with the 95 % interval; all columns of a row are about the same "
        f"images: {images_words(rows)}",
    )


def verdicts_html(rows: Sequence[VerdictRow], identity: str) -> str:
    """Verdicts of one network's defenses, one row each, in the given order."""
    words = {
        name: [_over_interval(row_words(row)[place]) for row in rows]
        for place, name in enumerate(VERDICT_COLUMNS)
    }
    frame = texts({"defense": [row.title for row in rows], **words})
    numbers = [name for name in VERDICT_COLUMNS if name not in IN_WORDS]
    table = (
        GT(frame, id=identity, rowname_col="defense", auto_align=False)
        .tab_stubhead("defense")
        .cols_align("right", numbers)
        .cols_align("left", list(IN_WORDS))
        .fmt_passthrough(list(VERDICT_COLUMNS), escape=False)
    )
    return _bare(
        table,
        "Accuracy in percent with 95 % intervals, gains in points with 99 % intervals; all of a "
        "row are about the same images",
    )


def _over_interval(words: str) -> str:
    """HTML of a number with its interval below it, for text such as `37.7 [31, 45] (-0.7)`."""
    number, bracket, rest = _escaped(words).partition(" [")
    if not bracket:
        return number
    interval, _, more = rest.partition("]")
    return f'{number}{more}<span class="beneath">{interval.replace(", ", " to ")}</span>'


def _bare(table: GT, caption: str) -> str:
    """The table element without styles, with a caption."""
    found = re.search(r"<table.*</table>", table.as_raw_html(), re.DOTALL)
    assert found is not None
    element = f"<caption><span>{_escaped(caption)}</span></caption>"
    return re.sub(r"(<table[^>]*>)", lambda start: start[0] + element, found[0], count=1)


def _legend(view: View) -> str:
    """What the numbers of an entry are, in their order."""
    entries = [entry for row in view.rows for entry in row.entries]
    words = ["Accuracy in percent"]
    if any(entry.gain is not None for entry in entries):
        words.append("in parentheses the gain in points, bold where significant")
    if any(entry.interval is not None for entry in entries):
        words.append("beneath it the 95 % interval")
    if any(entry.reference is not None for entry in entries):
        words.append("and the published number")
    return ", ".join(words)


def _escaped(text: str) -> str:
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")

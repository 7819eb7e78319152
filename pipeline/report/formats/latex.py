"""Tables in LaTeX, in the form used in papers; pdflatex with booktabs is enough."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator, Sequence

from pipeline.report.views.table import Entry, View, spans
from pipeline.report.views.verdict_row import VerdictRow
from pipeline.report.words import verdicts as verdict_words
from pipeline.report.words.numbers import NOTHING, accuracy, gain
from pipeline.report.words.paper import published_words
from pipeline.report.words.table import caption, heading

_SPECIAL = {
    "\\": r"\textbackslash{}",
    "{": r"\{",
    "}": r"\}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    **{letter: f"\\{letter}" for letter in "&%$#_"},
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    '"': "''",
    "–": "--",
    "—": "---",
    "…": r"\dots{}",
    "±": r"$\pm$",
    "≤": r"$\le$",
    "≥": r"$\ge$",
    "→": r"$\to$",
    "−": "$-$",
    "×": r"$\times$",
    "µ": r"$\mu$",
}
_GREEK = "αβγδεζηθικλμνξπρστυφχψωΓΔΘΛΞΠΣΥΦΨΩ"
_LAST = "\u017f"
"""Last of the letters that plain LaTeX knows without a command."""


def table_latex(view: View) -> str:
    r"""A `table` environment; the document needs `\\usepackage{booktabs}`.

    Significant gains are bold; published numbers are in brackets.
    """
    columns = len(view.attacks)
    lines = [
        "% needs \\usepackage{booktabs}",
        r"\begin{table}",
        r"\centering",
        rf"\caption{{{escaped(heading(view))}}}",
        rf"\label{{tab:{re.sub(r'[^A-Za-z0-9]', '-', view.table.name)}}}",
        rf"\begin{{tabular}}{{ll{'r' * columns}}}",
        r"\toprule",
        *_heading(view.attacks),
        r"\midrule",
    ]
    for place, model in enumerate(view.models):
        if place:
            lines.append(r"\midrule")
        rows = [row for row in view.rows if row.model == model]
        for index, row in enumerate(rows):
            words = ["" if index else escaped(model), escaped(row.defense)]
            lines.append(_line([*words, *map(_words, row.entries)]))
    lines += [r"\bottomrule", r"\end{tabular}"]
    said = [*caption(view), *(f"[{place}] {note}" for place, note in enumerate(view.notes, 1))]
    if any(entry.reference for row in view.rows for entry in row.entries):
        said.append("In brackets: the published number.")
    if said:
        lines += ["", r"\medskip", r"\footnotesize", escaped(" ".join(said))]
    return "\n".join([*lines, r"\end{table}", ""])


def verdicts_latex(rows: Sequence[VerdictRow]) -> str:
    r"""The verdicts as a `table` environment; the document needs `\\usepackage{booktabs}`."""
    columns = [name for name in verdict_words.COLUMNS if name != "claimed"]
    lines = [
        "% needs \\usepackage{booktabs}",
        r"\begin{table}",
        r"\centering",
        r"\footnotesize",
        r"\setlength{\tabcolsep}{3pt}",
        rf"\caption{{{escaped(verdict_words.CAPTION)}}}",
        r"\label{tab:verdicts}",
        rf"\begin{{tabular}}{{ll{'r' * (len(columns) - 1)}}}",
        r"\toprule",
        _line(["defense", *map(escaped, columns)]),
    ]
    for model in dict.fromkeys(row.model for row in rows):
        own = [row for row in rows if row.model == model]
        about = escaped(verdict_words.about(own))
        lines += [r"\midrule", _line([rf"\multicolumn{{{len(columns) + 1}}}{{l}}{{{about}}}"])]
        for row in own:
            words = dict(zip(verdict_words.COLUMNS, verdict_words.row_words(row), strict=True))
            shown = [re.sub(r"-(?=\d)", "$-$", escaped(words[name])) for name in columns]
            lines.append(_line([escaped(row.title), *shown]))
    return "\n".join([*lines, r"\bottomrule", r"\end{tabular}", r"\end{table}", ""])


def escaped(text: str) -> str:
    """Escape text for LaTeX; letters that LaTeX has no command for become question marks."""
    return "".join(map(_escaped, text))


def _escaped(letter: str) -> str:
    if letter in _SPECIAL:
        return _SPECIAL[letter]
    if letter in _GREEK:
        # "GREEK SMALL LETTER LAMDA"
        name = unicodedata.name(letter).split()[-1].replace("LAMDA", "LAMBDA")
        return f"$\\{name.title() if letter.isupper() else name.lower()}$"
    return letter if letter <= _LAST else "?"


def _heading(attacks: Sequence[str]) -> Iterator[str]:
    shared = spans(attacks)
    labels = []
    for (first, count), start in zip(shared, _starts(shared), strict=True):
        cut = len(first) + 1 if first else 0
        labels += [attack[cut:] for attack in attacks[start : start + count]]
    if any(first for first, _ in shared):
        words = [
            rf"\multicolumn{{{count}}}{{c}}{{{escaped(first)}}}" if first else ""
            for first, count in shared
        ]
        yield _line(["", "", *words])
        yield " ".join(
            rf"\cmidrule(lr){{{start + 3}-{start + 2 + count}}}"
            for (first, count), start in zip(shared, _starts(shared), strict=True)
            if first
        )
    yield _line(["model", "defense", *map(escaped, labels)])


def _starts(shared: Sequence[tuple[str, int]]) -> list[int]:
    starts = [0]
    for _, count in shared[:-1]:
        starts.append(starts[-1] + count)
    return starts


def _line(words: Sequence[str]) -> str:
    return " & ".join(words) + r" \\"


def _words(entry: Entry) -> str:
    words = [escaped(accuracy(entry.accuracy) if entry.accuracy is not None else NOTHING)]
    if entry.gain is not None:
        points = gain(entry.gain).replace("-", "$-$")
        words.append(rf"(\textbf{{{points}}})" if entry.bold else f"({points})")
    if entry.reference is not None:
        words.append(escaped(f"[{published_words(entry.reference)}]"))
    if notes := [str(note) for note in (entry.note, entry.card_note) if note is not None]:
        words.append(rf"$^{{{','.join(notes)}}}$")
    return " ".join(words)

"""Tables and reports in Markdown."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Iterable, Mapping, Sequence

from pipeline.grid.cells import Grid
from pipeline.plan.words import counted
from pipeline.report.cards import Card
from pipeline.report.facts import Facts
from pipeline.report.scores import Scores
from pipeline.report.views.adaptive import Robustness
from pipeline.report.views.table import Entry, Row, View, beside
from pipeline.report.views.training import Training
from pipeline.report.views.verdict_row import VerdictRow
from pipeline.report.words import adaptive as adaptive_words
from pipeline.report.words import cards as card_words
from pipeline.report.words import verdicts as verdict_words
from pipeline.report.words.citation import HEADING as CITED
from pipeline.report.words.citation import bibtex
from pipeline.report.words.identity import identity
from pipeline.report.words.legends import ADAPTIVE, BESIDE, GAINS, INTERVALS, oblivious
from pipeline.report.words.numbers import NOTHING, accuracy, entry_words, gain
from pipeline.report.words.paper import differing, judged, published_words
from pipeline.report.words.settings import datasets_said, joined, settings_said
from pipeline.report.words.table import caption, heading

LEGEND = "Entries: measured accuracy (published, difference in points), and the verdict."


GAIN_LEGEND = """\
Entries: measured gain (published gain), both computed from accuracies; there is none where a
published accuracy is a bound."""


def beside_markdown(view: View) -> str:
    """The section `Beside the paper`: published numbers, gains, differences; empty without any."""
    both = beside(view)
    if both is None:
        return ""
    lines = ["### Beside the paper", ""]
    lines += [*_table(both, _words), "", LEGEND]
    gains = [row for row in both.rows if any(one.published_gain is not None for one in row.entries)]
    if gains:
        gained = dataclasses.replace(both, rows=tuple(gains))
        lines += ["", "Gains in points:", "", *_table(gained, _gain_words), "", GAIN_LEGEND]
    said = [*judged(both), *differing(both)]
    if said:
        lines += ["", *(f"- {line}" for line in said)]
    return "\n".join(lines) + "\n"


def _table(view: View, words: Callable[[Entry], str]) -> list[str]:
    rows = [[row.model, row.defense, *map(words, row.entries)] for row in view.rows]
    return markdown_table(["model", "defense"], view.attacks, rows)


def _words(entry: Entry) -> str:
    if entry.reference is None:
        return NOTHING
    both = [published_words(entry.reference)]
    if entry.difference is not None:
        both.append(gain(entry.difference))
    return " ".join([accuracy(entry.accuracy), f"({', '.join(both)})", entry.verdict or ""]).strip()


def _gain_words(entry: Entry) -> str:
    if entry.published_gain is None:
        return NOTHING
    measured = NOTHING if entry.gain is None else gain(entry.gain)
    return f"{measured} ({gain(entry.published_gain)})"


def table_markdown(view: View) -> str:
    """A table with its title, caption and footnotes."""
    lines = [f"## {heading(view)}", ""]
    lines += markdown_table(["model", "defense", "redraws"], view.attacks, map(_row, view.rows))
    lines.extend(["", *caption(view)])
    if view.notes:
        lines.append("")
        lines.extend(f"- [{place}] {note}" for place, note in enumerate(view.notes, 1))
    return "\n".join(lines).rstrip() + "\n"


def markdown_table(
    names: Sequence[str], numbers: Sequence[str], rows: Iterable[Sequence[str]]
) -> list[str]:
    """Lines of a table: left-aligned columns of names, then right-aligned columns of numbers.

    Headings and names are text without markup, other than code; numbers may be bold.
    """
    heads = [*map(_literal, (*names, *numbers))]
    whole = [heads, [*("---" for _ in names), *("---:" for _ in numbers)]]
    whole += [[*map(_literal, row[: len(names)]), *row[len(names) :]] for row in rows]
    return ["| " + " | ".join(word.replace("|", "\\|") for word in row) + " |" for row in whole]


def _literal(text: str) -> str:
    """Text whose `*` and `_` are no emphasis; an underscore within a word never is."""
    return re.sub(r"`[^`]*`|\*|(?<!\w)_|_(?!\w)", _escaped, text)


def _escaped(found: re.Match[str]) -> str:
    return found[0] if found[0].startswith("`") else f"\\{found[0]}"


def page(
    grid: Grid,
    scores: Scores,
    parts: Sequence[tuple[str, str]],
    provenance: Facts,
    cards: str = "",
    answer: str = "",
    verdicts: str = "",
    trainings: str = "",
) -> str:
    """The front page of a report: what is measured and how, and all tables.

    Args:
        parts: Tables in Markdown, with the stems of their files.
        provenance: How the results were computed, such as device and versions.
        cards: Section on integrity cards.
        answer, verdicts: Verdicts in sentences and as tables.
        trainings: Section on trainings, with curves.
    """
    missing = [cell.name for cell in grid.cells if scores.accuracy(cell.name) is None]
    lines = [f"# {grid.title or grid.name}", ""]
    lines += [answer] if answer else []
    lines += [f"- {term}: {what}" for term, what in identity(grid, scores, provenance)]
    lines += ["", f"{counted(len(grid.cells), 'cell')}, {len(missing)} of them missing.", ""]
    lines += [verdicts, ""] if verdicts else []
    lines += ["## What the numbers mean", ""]
    lines += [*datasets_said(grid.cells, scores.by_class), "", oblivious(grid), ""]
    lines += [ADAPTIVE, ""] if any(cell.attack_spec.compound for cell in grid.cells) else []
    lines += [INTERVALS, "", GAINS, ""]
    lines += [BESIDE, ""] if scores.published else []
    for markdown, stem in parts:
        lines += [markdown]
        lines += [f"The same table with intervals: [{stem}.csv]({stem}.csv).", ""]
    lines += [cards, ""] if cards else []
    lines += [trainings, ""] if trainings else []
    lines += ["## How it was made", ""]
    lines += [f"- {what}: {value}" for what, value in provenance.items()]
    lines += [f"- redraws: {joined(sorted({cell.redraws for cell in grid.cells}))}"]
    lines += [f"- precision: {joined(sorted({cell.precision for cell in grid.cells}))}", ""]
    lines += ["Epsilon, step sizes and limits are in 1/255 of the pixel range.", ""]
    for title, described in settings_said(grid.cells):
        lines += [f"### {title}", "", *described, ""]
    lines += ["All cells with all their numbers: [results.csv](results.csv).", ""]
    lines += [f"## {CITED}", "", "```bibtex", bibtex(grid, scores, provenance), "```"]
    return "\n".join(lines).rstrip() + "\n"


def trainings_markdown(trainings: Sequence[Training], curves: str, file: str) -> str:
    """The section on trainings. curves: the figure; file: data file with all epochs."""
    lines = ["## Training", "", *(f"- {training.words}" for training in trainings), "", curves]
    return "\n".join([*lines, f"Every epoch, with its learning rate: [{file}]({file})."])


def _row(row: Row) -> list[str]:
    return [row.model, row.defense, row.redraws, *map(_bold, row.entries)]


def _bold(entry: Entry) -> str:
    """The words of an entry, with the gain in bold if it is emphasised."""
    words = entry_words(entry)
    if entry.bold:
        words[1] = f"(**{words[1].strip('()')}**)"
    return " ".join(words)


def candidates_markdown(rows: Sequence[Robustness], file: str) -> str:
    """Statistics of the candidates of adaptive attacks; empty if unknown.

    file: data file with all numbers.
    """
    lines: list[str] = []
    known = [row for row in rows if row.candidates]
    for attack, model in dict.fromkeys((row.adaptive_attack, row.model) for row in known):
        own = [row for row in known if (row.adaptive_attack, row.model) == (attack, model)]
        lines += [f"### {adaptive_words.CANDIDATES}: {attack} on {model}", ""]
        defenses = [row.defense for row in own]
        lines += [*markdown_table(["candidate"], defenses, adaptive_words.candidate_rows(own)), ""]
    if lines:
        lines += [adaptive_words.CANDIDATES_LEGEND.format(f"[{file}]({file})"), ""]
    return "\n".join(lines)


def answer_markdown(rows: Sequence[VerdictRow], grid: Grid) -> str:
    """Whether each defense holds, in sentences; what to do if nothing is known."""
    lines = [f"## {verdict_words.HEADING}", ""]
    lines += [f"- {line}" for line in verdict_words.answers(rows)]
    lines += [verdict_words.without_verdict(grid)]
    return "\n".join(lines).rstrip() + "\n"


def verdicts_markdown(rows: Sequence[VerdictRow], file: str) -> str:
    """The verdicts as a table for each network, and published claims.

    file: data file with all numbers.
    """
    if not verdict_words.known(rows):
        return ""
    lines = ["## Verdicts"]
    known = verdict_words.known(rows)
    for model in dict.fromkeys(row.model for row in known):
        own = [row for row in known if row.model == model]
        lines += ["", f"### {verdict_words.about(own)}", ""]
        words = ([row.title, *verdict_words.row_words(row)] for row in own)
        verdict, *others = verdict_words.COLUMNS
        lines += markdown_table(("defense", verdict), others, words)
    lines += ["", verdict_words.TERMS, "", verdict_words.LEGEND, "", verdict_words.THREAT]
    lines += [line for note in verdict_words.notes(rows) for line in ("", f"- {note}")]
    claims = verdict_words.claim_lines(rows)
    if claims:
        lines += ["", verdict_words.CLAIMS, "", *(f"- {line}" for line in claims)]
    lines += ["", f"The same table with all numbers: [{file}]({file})."]
    return "\n".join(lines)


def robustness_markdown(rows: Sequence[Robustness], notes: Sequence[str] = ()) -> str:
    """A table for each adaptive attack, with explanations; empty without any."""
    lines: list[str] = []
    for attack in dict.fromkeys(row.adaptive_attack for row in rows):
        own = [row for row in rows if row.adaptive_attack == attack]
        lines += [f"### {adaptive_words.heading(attack, own)}", ""]
        words = ([row.model, row.defense, *adaptive_words.robustness_words(row)] for row in own)
        lines += [*markdown_table(adaptive_words.NAMES, adaptive_words.NUMBERS, words), ""]
        lines += [adaptive_words.attacks_words(own), ""]
    if rows:
        lines += [line for said in (adaptive_words.LEGEND, *notes) for line in (said, "")]
    return "\n".join(lines)


def cards_markdown(cards: Mapping[str, Card]) -> str:
    """The section on integrity cards; empty without any."""
    if not cards:
        return ""
    lines = ["## Integrity cards", "", card_words.LEGEND, ""]
    names, rows = card_words.NAMES, card_words.card_rows(cards)
    lines += markdown_table(names[:-1], names[-1:], rows)
    if stored := [f"- {line}" for line in card_words.stored_lines(cards)]:
        lines += ["", "Checks of stored predictions, made for every cell:", "", *stored]
    lines += ["", "All checks with their measurements: [cards.csv](cards.csv)."]
    return "\n".join(lines)

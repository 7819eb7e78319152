"""The report as a self-contained HTML page. The only module that imports Jinja.

It can be opened from disk and makes no network requests: styles, scripts, plots and pictures are
embedded. Links to other files and to a tracking server are followed only if they are clicked.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from pipeline.grid.cells import Grid
from pipeline.report.formats.page.parts import (
    anchors,
    cell_summaries,
    inline,
    model_gallery,
    themed,
)
from pipeline.report.formats.page.tables import robustness_html, table_html, verdicts_html
from pipeline.report.scores import Scores
from pipeline.report.views.adaptive import Robustness
from pipeline.report.views.failures import ModelFailures
from pipeline.report.views.gallery import Gallery
from pipeline.report.views.table import Entry, Row, View
from pipeline.report.views.verdict_row import VerdictRow
from pipeline.report.words import failures as failure_words
from pipeline.report.words import verdicts as verdict_words
from pipeline.report.words.adaptive import HEADING, attack_notes
from pipeline.report.words.adaptive import LEGEND as ROBUSTNESS_LEGEND
from pipeline.report.words.cards import LEGEND as CARDS_LEGEND
from pipeline.report.words.cards import NAMES as CARD_NAMES
from pipeline.report.words.cards import card_rows, stored_lines
from pipeline.report.words.citation import HEADING as CITED
from pipeline.report.words.citation import bibtex
from pipeline.report.words.identity import identity
from pipeline.report.words.legends import ADAPTIVE, BESIDE, GAINS, INTERVALS, oblivious
from pipeline.report.words.numbers import accuracy, gain, interval_words
from pipeline.report.words.paper import differing, judged, published_words
from pipeline.report.words.settings import datasets_said, settings_said
from pipeline.report.words.table import caption, heading, terms

LONG = 2000
"""Number of table entries, or of cells, above which the page collapses them."""
SENTENCES = 5
"""Maximum number of defended models for which the first screen has one sentence each."""
TEMPLATES = Path(__file__).with_name("templates")
FILES = ("csv", "parquet", "md", "tex")
"""Extensions of a table's files in the report's folder."""


@dataclass(frozen=True)
class Plot:
    """A figure on the page: SVG source, empty if it has none.

    alt: alternative text; caption: Markdown.
    """

    svg: str
    alt: str
    caption: str


@dataclass(frozen=True)
class Section:
    """A table on the page: stem of its files, figures and robustness tables."""

    view: View
    stem: str
    plots: Sequence[Plot] = ()
    robustness: Sequence[Robustness] = ()


def page_html(
    grid: Grid,
    scores: Scores,
    sections: Sequence[Section],
    galleries: Sequence[Gallery],
    verdicts: Sequence[VerdictRow] = (),
    *,
    judged: Plot | None = None,
    failures: Sequence[ModelFailures] = (),
    trainings: Sequence[str] = (),
    curves: Plot | None = None,
    provenance: Mapping[str, object],
    again: Sequence[str] = (),
    links: Mapping[str, str] | None = None,
) -> str:
    """The complete page; see `page.parts.cell_summaries` for `again` and `links`.

    judged: figure of the verdicts; curves: figure of the trainings.
    """
    environment = Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters["inline"] = inline
    environment.filters["number"] = accuracy
    environment.globals["gain"] = gain
    environment.globals["interval_words"] = interval_words
    environment.globals["published_words"] = published_words
    places = anchors(grid)
    adaptive = [ADAPTIVE] if any(cell.attack_spec.compound for cell in grid.cells) else []
    meaning = [oblivious(grid), *adaptive, INTERVALS, *GAINS.split("\n\n")]
    if scores.published:
        meaning.append(BESIDE)
    cells = cell_summaries(grid, scores, again, links or {})
    template = environment.get_template("page.html")
    return template.render(
        title=grid.title or grid.name,
        grid=grid,
        missing=sum(scores.accuracy(cell.name) is None for cell in grid.cells),
        datasets=datasets_said(grid.cells, scores.by_class),
        identity=identity(grid, scores, provenance),
        cited=CITED,
        bibtex=bibtex(grid, scores, provenance),
        verdicts=_verdicts(verdicts, grid, judged),
        meaning=meaning,
        sections=[
            _section(number, section, grid, places, environment)
            for number, section in enumerate(sections, 1)
        ],
        model_galleries=[
            model_gallery(gallery, places[gallery.cell.name]) for gallery in galleries
        ],
        failures=_failures(failures, grid),
        cards=card_rows(scores.cards),
        card_names=CARD_NAMES,
        cards_said=CARDS_LEGEND,
        stored_said=stored_lines(scores.cards),
        trainings=trainings,
        curves=[] if curves is None else [_plot(curves, "training")],
        cells=cells,
        cells_folded=len(cells) > LONG,
        any_published=any(cell.published for cell in cells),
        provenance=provenance,
        settings=settings_said(grid.cells),
        style=(TEMPLATES / "style.css").read_text(encoding="utf-8"),
        behaviour=(TEMPLATES / "behaviour.js").read_text(encoding="utf-8"),
    )


def _verdicts(rows: Sequence[VerdictRow], grid: Grid, figure: Plot | None) -> dict[str, object]:
    """Verdicts: sentences for the first screen, a figure, and a table for each network."""
    sentences = verdict_words.sentences(rows)
    known = verdict_words.known(rows)
    networks = dict.fromkeys(row.model for row in known)
    return {
        "title": verdict_words.HEADING,
        "absent": verdict_words.without_verdict(grid),
        "summary": verdict_words.summary(rows) if len(sentences) > SENTENCES else [],
        "sentences": sentences,
        "plots": [] if figure is None else [_plot(figure, "verdicts-figure")],
        "reading": verdict_words.READING if known else "",
        "tables": [
            {
                "id": f"verdicts-{place}",
                "title": verdict_words.about([row for row in known if row.model == model]),
                "table": verdicts_html(
                    [row for row in known if row.model == model], f"verdicts-{place}-table"
                ),
            }
            for place, model in enumerate(networks, 1)
        ],
        "said": [verdict_words.LEGEND, verdict_words.THREAT] if known else [],
        "notes": [*verdict_words.notes(rows), *[verdict_words.TERMS] * bool(known)],
        "claims_said": verdict_words.CLAIMS,
        "claims": verdict_words.claim_lines(rows),
    }


def _failures(found: Sequence[ModelFailures], grid: Grid) -> dict[str, object]:
    """Failures by class, confusion and image, in a table for each network."""
    tables = []
    for one in found:
        classes, rows = failure_words.table(one)
        tables.append(
            {
                "title": f"{one.model}, {one.attack}",
                "extremes": failure_words.extremes(one),
                "classes": classes,
                "rows": rows,
            }
        )
    # a grid without a file exists only within its own command
    said = [failure_words.SAID, *[failure_words.ANY_CELL] * (not grid.command)]
    return {"title": failure_words.HEADING, "said": " ".join(said), "tables": tables}


def _section(
    number: int, section: Section, grid: Grid, places: Mapping[str, str], environment: Environment
) -> dict[str, object]:
    view, identity = section.view, f"table-{number}"
    of = {(cell.model, cell.attack, cell.defense): places[cell.name] for cell in grid.cells[::-1]}
    macros = environment.get_template("entry.html").module

    def words(row: Row, entry: Entry) -> str:
        anchor = of.get((row.model, entry.attack, row.defense))
        shows = view.gain_shows(entry)
        return str(macros.entry(entry, anchor, identity, shows)).strip()  # type: ignore[attr-defined]

    return {
        "id": identity,
        "title": heading(view),
        "table": table_html(view, identity, words),
        "folded": _folded(view),
        "said": [*caption(view), *terms(view)],
        "robustness": [
            {
                "id": f"{identity}-robustness-{place}",
                "title": f"{HEADING} under {attack}",
                "table": robustness_html(
                    [row for row in section.robustness if row.adaptive_attack == attack],
                    f"{identity}-robustness-{place}-table",
                ),
            }
            for place, attack in enumerate(
                dict.fromkeys(row.adaptive_attack for row in section.robustness), 1
            )
        ],
        "robustness_said": [ROBUSTNESS_LEGEND, *attack_notes(grid, view.attacks)],
        "notes": view.notes,
        "beside": [*judged(view), *differing(view)],
        "plots": [_plot(plot, f"{identity}-{n}") for n, plot in enumerate(section.plots)],
        "files": [f"{section.stem}.{ending}" for ending in FILES],
    }


def _plot(plot: Plot, prefix: str) -> dict[str, str]:
    svg = themed(plot.svg, prefix) if plot.svg else ""
    return {"svg": svg, "alt": plot.alt, "said": plot.caption}


def _folded(view: View) -> str:
    """Summary shown in place of a long table; empty if the table is not long."""
    rows, columns = len(view.rows), len(view.attacks)
    return f"{rows} rows, {columns} columns" if rows * columns > LONG else ""

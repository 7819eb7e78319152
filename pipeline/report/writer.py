"""Writes the report of a grid: data files, tables, figures and a web page.

All files but the page depend only on the scores, so equal scores give identical files. Files that
an earlier report of the grid wrote and this one does not are deleted, since nothing in them says
that their numbers are of other scores.
"""

from __future__ import annotations

import io
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline.grid.cells import Grid
from pipeline.problems import writing_to
from pipeline.problems.sanitize import markdown
from pipeline.report.formats.figures.drawings import (
    Drawing,
    cost_drawing,
    drawing,
    epsilon_drawing,
    robustness_drawing,
    training_drawing,
    verdict_drawing,
)
from pipeline.report.formats.frames import (
    as_csv,
    candidate_values,
    card_values,
    probabilities,
    results,
    robustness_values,
    table_values,
    training_values,
    verdict_values,
)
from pipeline.report.formats.latex import table_latex, verdicts_latex
from pipeline.report.formats.markdown import (
    answer_markdown,
    beside_markdown,
    candidates_markdown,
    cards_markdown,
    page,
    robustness_markdown,
    table_markdown,
    trainings_markdown,
    verdicts_markdown,
)
from pipeline.report.formats.page.page import Plot, Section, page_html
from pipeline.report.scores import PAGE, Scores
from pipeline.report.views.adaptive import robustness_rows
from pipeline.report.views.failures import ModelFailures, failures_by_model
from pipeline.report.views.gallery import galleries
from pipeline.report.views.pictures import Artifacts
from pipeline.report.views.table import View
from pipeline.report.views.table_rows import views
from pipeline.report.views.training import Training, trainings
from pipeline.report.views.verdict_row import VerdictRow
from pipeline.report.views.verdicts import verdict_rows
from pipeline.report.words.adaptive import attack_notes
from pipeline.report.words.verdicts import known
from pipeline.store.files import replace_bytes

if TYPE_CHECKING:
    from polars import DataFrame

PARTS = ("", "-robustness", "-candidates", "-epsilon", "-cost", "-probabilities")
"""Suffixes of the names of a table's files."""
WHOLE = ("csv", "parquet", "tex", "md")
"""Endings of the files that every table has; a name with all four is one of a table."""
ENDINGS = (*WHOLE, "svg", "png")
SOMETIMES: Mapping[str, tuple[str, ...]] = {
    "cards": ("csv", "parquet"),
    "verdicts": ("csv", "parquet", "tex", "md", "svg", "png"),
    "training": ("csv", "parquet", "svg", "png"),
}
"""Files, by stem, that only some reports have, beside those of tables."""


@dataclass
class _Folder:
    """The folder of a report, and the names of the files that this report wrote into it."""

    path: Path
    written: set[str] = field(default_factory=set)

    def text(self, name: str, text: str) -> None:
        """Write a text file."""
        self.file(name, text.encode())

    def file(self, name: str, data: bytes) -> None:
        """Write a file atomically."""
        replace_bytes(self.path / name, data)
        self.written.add(name)

    def frame(self, stem: str, frame: DataFrame) -> None:
        """Write a table of values, as CSV and as Parquet."""
        # written by Python, whose exceptions keep the errno
        parquet = io.BytesIO()
        frame.write_parquet(parquet)
        self.text(f"{stem}.csv", as_csv(frame))
        self.file(f"{stem}.parquet", parquet.getvalue())

    def figure(self, stem: str, figure: Drawing) -> str:
        """Write a figure's files; returns the SVG source, empty if it has none."""
        for ending, file in figure.files.items():
            self.file(f"{stem}.{ending}", file.content())
        if figure.pictures:
            self.frame(f"{stem}-probabilities", probabilities(figure.pictures))
        return self.read(f"{stem}.svg") if "svg" in figure.files else ""

    def read(self, name: str) -> str:
        """The text of a file."""
        return (self.path / name).read_text(encoding="utf-8")

    def clear(self, tables: Sequence[str]) -> None:
        """Delete what an earlier report wrote and this one did not; nobody else's files.

        tables: stems of the files of this report's tables.
        """
        there = {path.name for path in self.path.iterdir()}
        stems = {name.removesuffix(".tex") for name in there if name.endswith(".tex")}
        stems -= SOMETIMES.keys()
        old = {stem for stem in stems if {f"{stem}.{ending}" for ending in WHOLE} <= there}
        names = {f"{stem}.{ending}" for stem, endings in SOMETIMES.items() for ending in endings}
        names |= {
            f"{stem}{part}.{ending}"
            for stem in old.union(tables)
            for part in PARTS
            for ending in ENDINGS
        }
        for name in sorted(names & there - self.written):
            if (self.path / name).is_file():
                (self.path / name).unlink(missing_ok=True)


def write_report(
    grid: Grid,
    scores: Scores,
    reports: Path,
    provenance: Mapping[str, object] | None = None,
    artifacts: Artifacts | None = None,
    *,
    again: Sequence[str] = (),
    links: Mapping[str, str] | None = None,
) -> Path:
    """Write all files of a report into `<reports>/<grid name>/`; returns the path of the page.

    Each file is replaced atomically. Files of an earlier report that this one has not are deleted.

    Args:
        provenance: How the results were computed, such as device and library versions.
        artifacts: Access to the images that figures show.
        again, links: See `page.parts.cell_summaries`. Unlike the rest of the report they do not
            follow from the scores, and are used in the page only.

    Raises:
        Unwritable: If the folder cannot be written.
    """
    folder = _Folder(reports / grid.name)
    with writing_to(f"reports {folder.path}", None):
        trained = trainings(grid, artifacts)
        curves = training_drawing(trained, "training")
        folder.path.mkdir(parents=True, exist_ok=True)
        folder.frame("results", results(grid, scores))
        files = _Files(grid, scores, folder, artifacts)
        tables = [files.table(*named) for named in _stems(views(grid, scores))]
        sections = [section for section, _ in tables]
        verdicts = verdict_rows(grid, scores)
        answer, told, judged = files.verdicts(verdicts)
        readme = page(
            grid,
            scores,
            [(text, section.stem) for section, text in tables],
            provenance or {},
            files.cards(),
            answer,
            told,
            files.trainings(trained, curves),
        )
        folder.text("README.md", markdown(readme))
        found = galleries(artifacts) if artifacts is not None else []
        text = page_html(
            grid,
            scores,
            sections,
            found,
            verdicts,
            judged=judged,
            failures=_failures(grid, scores, artifacts),
            trainings=[training.words for training in trained],
            curves=None
            if curves is None
            else Plot(folder.read("training.svg"), curves.alt, curves.caption),
            provenance=provenance or {},
            again=again,
            links=links,
        )
        folder.text(PAGE, text)
        folder.clear([section.stem for section in sections])
    return folder.path / PAGE


@dataclass(frozen=True)
class _Files:
    """Writes the files of each part of a report; returns what its pages say of the part."""

    grid: Grid
    scores: Scores
    folder: _Folder
    artifacts: Artifacts | None

    def table(self, view: View, stem: str) -> tuple[Section, str]:
        """Write the files of a table; returns its section of the page, and its Markdown."""
        folder = self.folder
        folder.frame(stem, table_values(view))
        folder.text(f"{stem}.tex", table_latex(view))
        robustness = robustness_rows(view, self.grid, self.scores)
        figures = {
            stem: drawing(view, stem, self.grid, self.artifacts),
            f"{stem}-robustness": robustness_drawing(robustness, f"{stem}-robustness"),
            f"{stem}-epsilon": epsilon_drawing(view, f"{stem}-epsilon", self.grid, self.scores),
            f"{stem}-cost": cost_drawing(view, f"{stem}-cost", self.grid, self.scores),
        }
        drawn = {name: figure for name, figure in figures.items() if figure is not None}
        plots = [
            Plot(folder.figure(name, figure), figure.alt, figure.caption)
            for name, figure in drawn.items()
        ]
        if robustness:
            folder.frame(f"{stem}-robustness", robustness_values(robustness))
        tried = candidates_markdown(robustness, f"{stem}-candidates.csv")
        if tried:
            folder.frame(f"{stem}-candidates", candidate_values(robustness))
        said = [
            table_markdown(view),
            robustness_markdown(robustness, attack_notes(self.grid, view.attacks)),
            tried,
            beside_markdown(view),
            *(figure.markdown for figure in drawn.values()),
        ]
        text = markdown("\n".join(filter(None, said)))
        folder.text(f"{stem}.md", text)
        return Section(view, stem, plots, robustness), text

    def verdicts(self, verdicts: Sequence[VerdictRow]) -> tuple[str, str, Plot | None]:
        """Write the verdicts; returns the answer and the table in Markdown, and the figure."""
        answer = answer_markdown(verdicts, self.grid)
        told = verdicts_markdown(verdicts, "verdicts.csv")
        if verdicts:
            self.folder.frame("verdicts", verdict_values(verdicts))
            self.folder.text("verdicts.md", markdown(f"{answer}\n{told}"))
        if judgements := known(verdicts):
            self.folder.text("verdicts.tex", verdicts_latex(judgements))
        judged = verdict_drawing((row.facts() for row in verdicts), "verdicts")
        if judged is None:
            return answer, told, None
        plot = Plot(self.folder.figure("verdicts", judged), judged.alt, judged.caption)
        return f"{answer}\n{judged.markdown}", told, plot

    def cards(self) -> str:
        """Write the integrity cards; returns their section in Markdown."""
        if self.scores.cards:
            self.folder.frame("cards", card_values(self.scores.cards))
        return cards_markdown(self.scores.cards)

    def trainings(self, trained: Sequence[Training], curves: Drawing | None) -> str:
        """Write the curves of trainings; returns their section in Markdown."""
        if curves is None:
            return ""
        self.folder.figure("training", curves)
        self.folder.frame("training", training_values(trained))
        return trainings_markdown(trained, curves.markdown, "training.csv")


def _failures(grid: Grid, scores: Scores, artifacts: Artifacts | None) -> list[ModelFailures]:
    """Analysis of failures; empty if the required answers are not available."""
    if artifacts is None or scores.per_image is None:
        return []
    return failures_by_model(grid, scores.per_image, artifacts.store, artifacts.scores)


def _stems(found: Sequence[View]) -> list[tuple[View, str]]:
    """Tables with unique file names, also on file systems that ignore case."""
    taken = {"results", "readme", "index", "cards", "verdicts", "training"}
    parts = []
    for view in found:
        plain = re.sub(r"[^\w.-]+", "-", view.table.name, flags=re.ASCII).strip(".-") or "table"
        stem, count = plain, 1
        while {f"{stem}{part}".lower() for part in PARTS} & taken:
            count += 1
            stem = f"{plain}-{count}"
        taken |= {f"{stem}{part}".lower() for part in PARTS}
        parts.append((view, stem))
    return parts

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
from pipeline.problems import NO_ROOM, BadInput, reason_of, writing_to
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
        BadInput: If the folder cannot be written.
        Unwritable: If the disk is full.
    """
    folder = _Folder(reports / grid.name)
    try:
        with writing_to(f"reports {folder.path}", NO_ROOM):
            trained = trainings(grid, artifacts)
            curves = training_drawing(trained, "training")
            sections, verdicts, judged = _write_files(
                grid, scores, folder, provenance or {}, artifacts, trained, curves
            )
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
    except OSError as error:
        reason = reason_of(error)
        raise BadInput(f"reports {folder.path}: cannot be written: {reason}") from None
    return folder.path / PAGE


def _write_files(
    grid: Grid,
    scores: Scores,
    folder: _Folder,
    provenance: Mapping[str, object],
    artifacts: Artifacts | None,
    trained: Sequence[Training],
    curves: Drawing | None,
) -> tuple[list[Section], list[VerdictRow], Plot | None]:
    """Write all files but the page; returns tables, verdicts and verdict figure for the page."""
    folder.path.mkdir(parents=True, exist_ok=True)
    folder.frame("results", results(grid, scores))
    parts, sections = [], []
    for view, stem in _stems(views(grid, scores)):
        folder.frame(stem, table_values(view))
        folder.text(f"{stem}.tex", table_latex(view))
        robustness = robustness_rows(view, grid, scores)
        figures = {
            stem: drawing(view, stem, grid, artifacts),
            f"{stem}-robustness": robustness_drawing(robustness, f"{stem}-robustness"),
            f"{stem}-epsilon": epsilon_drawing(view, f"{stem}-epsilon", grid, scores),
            f"{stem}-cost": cost_drawing(view, f"{stem}-cost", grid, scores),
        }
        plots = [
            Plot(folder.figure(name, figure), figure.alt, figure.caption)
            for name, figure in figures.items()
            if figure is not None
        ]
        if robustness:
            folder.frame(f"{stem}-robustness", robustness_values(robustness))
        tried = candidates_markdown(robustness, f"{stem}-candidates.csv")
        if tried:
            folder.frame(f"{stem}-candidates", candidate_values(robustness))
        sections.append(Section(view, stem, plots, robustness))
        shown = [figure.markdown for figure in figures.values() if figure is not None]
        said = [
            table_markdown(view),
            robustness_markdown(robustness, attack_notes(grid, view.attacks)),
            tried,
            beside_markdown(view),
            *shown,
        ]
        parts.append((markdown("\n".join(filter(None, said))), stem))
        folder.text(f"{stem}.md", parts[-1][0])
    verdicts = verdict_rows(grid, scores)
    answer, told = answer_markdown(verdicts, grid), verdicts_markdown(verdicts, "verdicts.csv")
    if verdicts:
        folder.frame("verdicts", verdict_values(verdicts))
        folder.text("verdicts.md", markdown(f"{answer}\n{told}"))
    if judgements := known(verdicts):
        folder.text("verdicts.tex", verdicts_latex(judgements))
    judged = verdict_drawing((row.facts() for row in verdicts), "verdicts")
    plot = None
    if judged is not None:
        plot = Plot(folder.figure("verdicts", judged), judged.alt, judged.caption)
    if scores.cards:
        folder.frame("cards", card_values(scores.cards))
    if curves is not None:
        folder.figure("training", curves)
        folder.frame("training", training_values(trained))
    readme = page(
        grid,
        scores,
        parts,
        provenance,
        cards_markdown(scores.cards),
        answer if judged is None else f"{answer}\n{judged.markdown}",
        told,
        "" if curves is None else trainings_markdown(trained, curves.markdown, "training.csv"),
    )
    folder.text("README.md", markdown(readme))
    return sections, verdicts, plot


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

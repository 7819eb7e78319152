"""Writes the report of a grid: data files, tables, figures and a web page.

All files but the page depend only on the scores, so equal scores give identical files.
"""

from __future__ import annotations

import io
import re
from collections.abc import Mapping, Sequence
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
from pipeline.report.formats.latex import table_latex
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
from pipeline.report.views.table import View, views
from pipeline.report.views.training import Training, trainings
from pipeline.report.views.verdicts import VerdictRow, verdict_rows
from pipeline.report.words.adaptive import attack_notes
from pipeline.store.files import replace_bytes, replace_text

if TYPE_CHECKING:
    from polars import DataFrame

PARTS = ("", "-robustness", "-epsilon", "-cost", "-probabilities")
"""Suffixes of the names of a table's files."""


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

    Each file is replaced atomically.

    Args:
        provenance: How the results were computed, such as device and library versions.
        artifacts: Access to the images that figures show.
        again, links: See `page.parts.cell_summaries`. Unlike the rest of the report they do not
            follow from the scores, and are used in the page only.

    Raises:
        BadInput: If the folder cannot be written.
        Unwritable: If the disk is full.
    """
    folder = reports / grid.name
    try:
        with writing_to(f"reports {folder}", NO_ROOM):
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
                else Plot(_written(folder / "training.svg"), curves.alt, curves.caption),
                provenance=provenance or {},
                again=again,
                links=links,
            )
            _write_text(text, folder / PAGE)
    except OSError as error:
        reason = reason_of(error)
        raise BadInput(f"reports {folder}: cannot be written: {reason}") from None
    return folder / PAGE


def _write_files(
    grid: Grid,
    scores: Scores,
    folder: Path,
    provenance: Mapping[str, object],
    artifacts: Artifacts | None,
    trained: Sequence[Training],
    curves: Drawing | None,
) -> tuple[list[Section], list[VerdictRow], Plot | None]:
    """Write all files but the page; returns tables, verdicts and verdict figure for the page."""
    folder.mkdir(parents=True, exist_ok=True)
    _write_frame(results(grid, scores), folder / "results")
    parts, sections = [], []
    for view, stem in _stems(views(grid, scores)):
        _write_frame(table_values(view), folder / stem)
        _write_text(table_latex(view), folder / f"{stem}.tex")
        robustness = robustness_rows(view, grid, scores)
        figures = {
            stem: drawing(view, stem, grid, artifacts),
            f"{stem}-robustness": robustness_drawing(robustness, f"{stem}-robustness"),
            f"{stem}-epsilon": epsilon_drawing(view, f"{stem}-epsilon", grid, scores),
            f"{stem}-cost": cost_drawing(view, f"{stem}-cost", grid, scores),
        }
        plots = [
            Plot(_write_figure(figure, folder, name), figure.alt, figure.caption)
            for name, figure in figures.items()
            if figure is not None
        ]
        if robustness:
            _write_frame(robustness_values(robustness), folder / f"{stem}-robustness")
        tried = candidates_markdown(robustness, f"{stem}-candidates.csv")
        if tried:
            _write_frame(candidate_values(robustness), folder / f"{stem}-candidates")
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
        _write_text(parts[-1][0], folder / f"{stem}.md")
    verdicts = verdict_rows(grid, scores)
    answer, told = answer_markdown(verdicts, grid), verdicts_markdown(verdicts, "verdicts.csv")
    if verdicts:
        _write_frame(verdict_values(verdicts), folder / "verdicts")
        _write_text(markdown(f"{answer}\n{told}"), folder / "verdicts.md")
    judged = verdict_drawing((row.facts() for row in verdicts), "verdicts")
    plot = None
    if judged is not None:
        plot = Plot(_write_figure(judged, folder, "verdicts"), judged.alt, judged.caption)
    if scores.cards:
        _write_frame(card_values(scores.cards), folder / "cards")
    if curves is not None:
        _write_figure(curves, folder, "training")
        _write_frame(training_values(trained), folder / "training")
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
    _write_text(markdown(readme), folder / "README.md")
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


def _write_frame(frame: DataFrame, path: Path) -> None:
    # written by Python, whose exceptions keep the errno
    parquet = io.BytesIO()
    frame.write_parquet(parquet)
    _write_text(as_csv(frame), path.with_name(f"{path.name}.csv"))
    replace_bytes(path.with_name(f"{path.name}.parquet"), parquet.getvalue())


def _write_figure(figure: Drawing, folder: Path, stem: str) -> str:
    """Write a figure's files; returns the SVG source, empty if it has none."""
    for ending, file in figure.files.items():
        replace_bytes(folder / f"{stem}.{ending}", file.content())
    if figure.pictures:
        _write_frame(probabilities(figure.pictures), folder / f"{stem}-probabilities")
    return _written(folder / f"{stem}.svg") if "svg" in figure.files else ""


def _written(path: Path) -> str:
    return path.read_text(encoding="utf-8")


def _write_text(text: str, path: Path) -> None:
    replace_text(path, text)

"""Writing the report of a grid: files of numbers, tables, figures and a page.

Files hold nothing but what follows from the scores, so equal scores give equal bytes.
"""

from __future__ import annotations

import io
import re
import uuid
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline.grid import Grid
from pipeline.problems import NO_ROOM, BadInput, writing_to
from pipeline.report_adaptive import what_is_left
from pipeline.report_beside import beside_markdown
from pipeline.report_figures import Drawing, drawing
from pipeline.report_frames import left_values, probabilities, results, table_values
from pipeline.report_left import left_markdown
from pipeline.report_pictures import Artifacts
from pipeline.report_tables import views
from pipeline.report_text import page, table_markdown
from pipeline.report_view import Scores, View

if TYPE_CHECKING:
    from polars import DataFrame


def write_report(
    grid: Grid,
    scores: Scores,
    reports: Path,
    made: Mapping[str, object] | None = None,
    artifacts: Artifacts | None = None,
) -> Path:
    """Write `<reports>/<grid name>/`: all cells, every table, and README.md, which is returned.

    made: what to say of how it was computed, such as device and library versions; artifacts:
    where figures that show images find them. Each file is replaced whole. BadInput where the
    folder cannot be written, Unwritable where there is no room for it.
    """
    folder = reports / grid.name
    try:
        with writing_to(f"reports {folder}", NO_ROOM):
            _write_report(grid, scores, folder, made or {}, artifacts)
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        raise BadInput(f"reports {folder}: cannot be written: {reason}") from None
    return folder / "README.md"


def _write_report(
    grid: Grid,
    scores: Scores,
    folder: Path,
    made: Mapping[str, object],
    artifacts: Artifacts | None,
) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    _write_frame(results(grid, scores), folder / "results")
    parts = []
    for view, stem in _stems(views(grid, scores)):
        _write_frame(table_values(view), folder / stem)
        figure = drawing(view, stem, grid, artifacts)
        if figure is not None:
            _write_figure(figure, folder, stem)
        left = what_is_left(view, grid, scores)
        if left:
            _write_frame(left_values(left), folder / f"{stem}-left")
        said = [
            table_markdown(view),
            left_markdown(left),
            beside_markdown(view),
            figure.markdown if figure else "",
        ]
        parts.append(("\n".join(filter(None, said)), stem))
        _write_text(parts[-1][0], folder / f"{stem}.md")
    _write_text(page(grid, scores, parts, made), folder / "README.md")


def _stems(found: Sequence[View]) -> list[tuple[View, str]]:
    """Tables with names for their files: plain, and none twice where case does not count."""
    taken = {"results", "readme"}
    parts = []
    for view in found:
        plain = re.sub(r"[^\w.-]+", "-", view.table.name, flags=re.ASCII).strip(".-") or "table"
        stem, count = plain, 1
        while stem.lower() in taken:
            count += 1
            stem = f"{plain}-{count}"
        taken.add(stem.lower())
        parts.append((view, stem))
    return parts


def _write_frame(frame: DataFrame, path: Path) -> None:
    # through Python, whose errors keep the system's number
    parquet = io.BytesIO()
    frame.write_parquet(parquet)
    _write_text(frame.write_csv(), path.with_name(f"{path.name}.csv"))
    _replace(
        path.with_name(f"{path.name}.parquet"), lambda draft: draft.write_bytes(parquet.getvalue())
    )


def _write_figure(figure: Drawing, folder: Path, stem: str) -> None:
    for ending, draw in figure.files.items():
        _replace(folder / f"{stem}.{ending}", draw)
    if figure.pictures:
        _write_frame(probabilities(figure.pictures), folder / f"{stem}-probabilities")


def _write_text(text: str, path: Path) -> None:
    _replace(path, lambda draft: draft.write_text(text, encoding="utf-8"))


def _replace(path: Path, write: Callable[[Path], object]) -> None:
    """Write beside the place, then move: a reader sees the old file or the new one, whole."""
    draft = path.with_name(f".{path.name}-{uuid.uuid4().hex[:8]}")
    try:
        write(draft)
        draft.replace(path)
    finally:
        draft.unlink(missing_ok=True)

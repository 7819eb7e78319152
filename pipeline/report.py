"""The report of a grid: the only door to polars.

Files hold nothing but what follows from the scores, so equal scores give equal bytes.
"""

from __future__ import annotations

import json
import re
import uuid
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import polars as pl

from pipeline.grid import Cell, Grid
from pipeline.problems import BadInput
from pipeline.report_tables import Entry, Facts, Row, Scores, View, deterministic, interval, views
from pipeline.report_text import page, table_markdown

CELL_COLUMNS: dict[str, type[pl.DataType]] = {
    "dataset": pl.String,
    "model": pl.String,
    "attack": pl.String,
    "defense": pl.String,
    "seed": pl.Int64,
    "precision": pl.String,
    "deterministic": pl.Boolean,
    "images": pl.Int64,
    "redraws": pl.Int64,
    "accuracy": pl.Float64,
    "interval_low": pl.Float64,
    "interval_high": pl.Float64,
    "spread": pl.Float64,
    "worst": pl.Float64,
    "true_probability": pl.Float64,
}
"""Of `results`; other facts follow in alphabetical order, then `digest` and `missing`."""

ENTRY_COLUMNS: dict[str, type[pl.DataType]] = {
    "model": pl.String,
    "defense": pl.String,
    "attack": pl.String,
    "accuracy": pl.Float64,
    "interval_low": pl.Float64,
    "interval_high": pl.Float64,
    "spread": pl.Float64,
    "gain": pl.Float64,
    "images": pl.Int64,
    "redraws": pl.Int64,
    "seeds": pl.Int64,
    "seed_spread": pl.Float64,
    "deterministic": pl.Boolean,
    "note": pl.String,
}
"""Of a table's own file."""


def results(grid: Grid, scores: Scores) -> pl.DataFrame:
    """One row a cell, in the grid's order, with all its facts.

    A cell without a score keeps its row: facts are null and `missing` says why.
    """
    rows = [_cell_row(cell, scores) for cell in grid.cells]
    others = sorted({key for row in rows for key in row} - CELL_COLUMNS.keys())
    others = [key for key in others if key not in {"digest", "missing"}]
    return pl.DataFrame(
        {
            **{
                name: pl.Series([row.get(name) for row in rows], dtype=dtype, strict=False)
                for name, dtype in CELL_COLUMNS.items()
            },
            **{name: _guessed([row.get(name) for row in rows]) for name in others},
            **{
                name: pl.Series([row[name] for row in rows], dtype=pl.String)
                for name in ("digest", "missing")
            },
        }
    )


def table_values(view: View) -> pl.DataFrame:
    """One row for each place of a table, with unrounded numbers."""
    rows = [_entry_row(view, row, entry) for row in view.rows for entry in row.entries]
    return pl.DataFrame(rows, schema=ENTRY_COLUMNS)


def write_report(
    grid: Grid, scores: Scores, reports: Path, made: Mapping[str, object] | None = None
) -> Path:
    """Write `<reports>/<grid name>/`: all cells, every table, and README.md, which is returned.

    made: what to say of how it was computed, such as device and library versions. Each file
    is replaced whole. BadInput where the folder cannot be written.
    """
    folder = reports / grid.name
    try:
        folder.mkdir(parents=True, exist_ok=True)
        _write_frame(results(grid, scores), folder / "results")
        parts = _stems(views(grid, scores))
        for view, stem in parts:
            _write_frame(table_values(view), folder / stem)
            _write_text(table_markdown(view), folder / f"{stem}.md")
        _write_text(page(grid, scores, parts, made or {}), folder / "README.md")
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        raise BadInput(f"reports {folder}: cannot be written: {reason}") from None
    return folder / "README.md"


def _cell_row(cell: Cell, scores: Scores) -> dict[str, object]:
    names = {
        "dataset": cell.dataset,
        "model": cell.model,
        "attack": cell.attack,
        "defense": cell.defense,
        "seed": cell.seed,
        "precision": cell.precision,
        "deterministic": deterministic(cell),
        "digest": scores.digests.get(cell.name),
        "missing": scores.reason(cell.name) or None,
    }
    if names["missing"] is not None:
        return names
    facts = scores.facts[cell.name]
    return {**_flat(facts), **names}


def _flat(facts: Facts) -> dict[str, object]:
    flat: dict[str, object] = {}
    for key, value in facts.items():
        if key == "interval":
            flat["interval_low"], flat["interval_high"] = interval(facts) or (None, None)
        elif value is None or isinstance(value, str | bool | int | float):
            flat[key] = value
        else:
            flat[key] = json.dumps(value, sort_keys=True)
    return flat


def _guessed(values: Sequence[object]) -> pl.Series:
    """A column for facts of no known type; whole numbers and fractions together are fractions."""
    kinds = {type(value) for value in values if value is not None}
    if kinds <= {int, float}:
        dtype: type[pl.DataType] = pl.Int64 if kinds == {int} else pl.Float64
        return pl.Series(values, dtype=dtype, strict=False)
    if kinds == {bool}:
        return pl.Series(values, dtype=pl.Boolean)
    return pl.Series([None if value is None else str(value) for value in values], dtype=pl.String)


def _entry_row(view: View, row: Row, entry: Entry) -> dict[str, object]:
    low, high = entry.interval or (None, None)
    return {
        "model": row.model,
        "defense": row.defense,
        "attack": entry.attack,
        "accuracy": entry.accuracy,
        "interval_low": low,
        "interval_high": high,
        "spread": entry.spread,
        "gain": entry.gain,
        "images": entry.images,
        "redraws": entry.redraws,
        "seeds": entry.seeds,
        "seed_spread": entry.seed_spread,
        "deterministic": row.redraws == "deterministic",
        "note": None if entry.note is None else view.notes[entry.note - 1],
    }


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


def _write_frame(frame: pl.DataFrame, path: Path) -> None:
    _replace(path.with_name(f"{path.name}.csv"), frame.write_csv)
    _replace(path.with_name(f"{path.name}.parquet"), frame.write_parquet)


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

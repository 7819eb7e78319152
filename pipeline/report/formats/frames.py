"""A report's numbers as data frames. The only module that imports polars."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence

import polars as pl

from pipeline.grid.cells import Cell, Grid
from pipeline.problems.sanitize import csv_cell
from pipeline.report.cards import Card
from pipeline.report.facts import Facts, interval, number
from pipeline.report.paper import Reference
from pipeline.report.scores import Scores, deterministic
from pipeline.report.views.adaptive import Robustness
from pipeline.report.views.pictures import Picture, class_probabilities
from pipeline.report.views.table import Entry, Row, View
from pipeline.report.views.training import Training
from pipeline.report.views.verdict_row import VerdictRow
from tasks.integrity.findings import Finding

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
    "right_in_every_redraw": pl.Float64,
    "true_probability": pl.Float64,
    "published": pl.Float64,
    "published_is_bound": pl.Boolean,
    "difference": pl.Float64,
    "published_verdict": pl.String,
}
"""Columns of `results`; other facts follow in alphabetical order, then `digest` and `missing`."""

ENTRY_COLUMNS: dict[str, type[pl.DataType]] = {
    "model": pl.String,
    "defense": pl.String,
    "attack": pl.String,
    "accuracy": pl.Float64,
    "interval_low": pl.Float64,
    "interval_high": pl.Float64,
    "spread": pl.Float64,
    "gain": pl.Float64,
    "p_value": pl.Float64,
    "p_holm": pl.Float64,
    "significant": pl.Boolean,
    "card": pl.String,
    "images": pl.Int64,
    "redraws": pl.Int64,
    "seeds": pl.Int64,
    "seed_spread": pl.Float64,
    "deterministic": pl.Boolean,
    "published": pl.Float64,
    "published_is_bound": pl.Boolean,
    "difference": pl.Float64,
    "published_verdict": pl.String,
    "published_gain": pl.Float64,
    "note": pl.String,
}
"""Columns of a table's data file."""

TYPES: dict[str, type[pl.DataType]] = {
    **dict.fromkeys(
        (
            "model",
            "defense",
            "dataset",
            "attack",
            "adaptive_attack",
            "replayed_attack",
            "bare_attack",
            "norm",
            "verdict",
            "defense_verdict",
            "why",
            "device",
            "control",
            "claimed_attacked",
            "doubling_from",
            "doubling_to",
        ),
        pl.String,
    ),
    **dict.fromkeys(
        ("images", "candidates", "images_needed", "doubling_images", "epoch"), pl.Int64
    ),
    "hides_gradients": pl.Boolean,
}
"""Columns of the other files that do not hold floats, so that files with and without values in a
column have the same types."""

CARD_COLUMNS = ("examined", "attack", "cell", "check", "verdict", "words", "measured")
"""Columns of the file of integrity cards; `cell` is empty for findings about a model."""


def results(grid: Grid, scores: Scores) -> pl.DataFrame:
    """One row for each cell, in the grid's order, with all its facts.

    A cell without a score has null facts, and `missing` contains the reason.
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
            **{name: _guessed(name, [row.get(name) for row in rows]) for name in others},
            **{
                name: pl.Series([row[name] for row in rows], dtype=pl.String)
                for name in ("digest", "missing")
            },
        }
    )


def with_more(frame: pl.DataFrame, columns: Mapping[str, Sequence[object]]) -> pl.DataFrame:
    """Insert columns into a frame of results, before `digest`."""
    more = [_guessed(name, list(values)).alias(name) for name, values in columns.items()]
    place = frame.columns.index("digest")
    for offset, series in enumerate(more):
        frame.insert_column(place + offset, series)
    return frame


def as_csv(frame: pl.DataFrame) -> str:
    """A frame as CSV, with text protected from being read as formulas; see `csv_cell`."""
    texts = [name for name, dtype in frame.schema.items() if dtype == pl.String]
    columns = [
        pl.Series(name, [value and csv_cell(value) for value in frame[name]], dtype=pl.String)
        for name in texts
    ]
    return frame.with_columns(columns).rename({n: csv_cell(n) for n in frame.columns}).write_csv()


def table_values(view: View) -> pl.DataFrame:
    """One row for each entry of a table, with unrounded numbers."""
    rows = [_entry_row(view, row, entry) for row in view.rows for entry in row.entries]
    return pl.DataFrame(rows, schema=ENTRY_COLUMNS)


def training_values(trainings: Sequence[Training]) -> pl.DataFrame:
    """One row for each epoch of each training; accuracy in percent."""
    rows = [
        {
            "model": training.model,
            "epoch": place,
            "loss": epoch.loss,
            "accuracy": epoch.accuracy,
            "learning_rate": epoch.learning_rate,
            "seconds": epoch.seconds,
        }
        for training in trainings
        for place, epoch in enumerate(training.epochs, 1)
    ]
    return _typed(rows)


def laid_out(view: View, words: Callable[[Row, Entry], str]) -> pl.DataFrame:
    """A table in its visual layout: a row for each defense of a model, a column for each attack.

    The columns of attacks are named by their index.
    """
    columns = {
        "model": [row.model for row in view.rows],
        "defense": [row.defense for row in view.rows],
    }
    for place in range(len(view.attacks)):
        columns[str(place)] = [words(row, row.entries[place]) for row in view.rows]
    columns["redraws"] = [row.redraws for row in view.rows]
    return texts(columns)


def texts(columns: Mapping[str, Sequence[str]]) -> pl.DataFrame:
    """A frame of text columns."""
    return pl.DataFrame(columns, schema=dict.fromkeys(columns, pl.String))


def verdict_values(rows: Sequence[VerdictRow]) -> pl.DataFrame:
    """One row for each defense on each network, with unrounded numbers."""
    return _typed([row.facts() for row in rows])


def robustness_values(rows: Sequence[Robustness]) -> pl.DataFrame:
    """One row for each defended model and adaptive attack, with unrounded numbers."""
    return _typed([_robustness_row(row) for row in rows])


def _typed(rows: Sequence[Mapping[str, object]]) -> pl.DataFrame:
    names = rows[0] if rows else {}
    return pl.DataFrame(rows, schema={name: TYPES.get(name, pl.Float64) for name in names})


def _robustness_row(row: Robustness) -> dict[str, object]:
    values: dict[str, object] = {
        "model": row.model,
        "defense": row.defense,
        "adaptive_attack": row.adaptive_attack,
        "replayed_attack": row.replayed,
        "bare_attack": row.bare_attack,
        "images": row.images,
    }
    for name in ("clean", "bare", "oblivious", "adaptive", "all_attacks"):
        rate = getattr(row, name)
        low, high = (rate.interval if rate else None) or (None, None)
        values |= {name: rate and rate.accuracy, f"{name}_low": low, f"{name}_high": high}
    cost, doubling = row.cost, row.doubling
    return values | {
        "doubling_points": doubling and doubling.points,
        "doubling_images": doubling and doubling.images,
        "doubling_from": doubling and doubling.budget,
        "doubling_to": doubling and doubling.larger,
        "forwards": cost and cost.forwards,
        "backwards": cost and cost.backwards,
        "milliseconds": cost and cost.milliseconds,
        "times_bare": cost and cost.times_bare,
    }


def candidate_values(rows: Sequence[Robustness]) -> pl.DataFrame:
    """One row for each candidate of an adaptive attack on a defended model."""
    return pl.DataFrame(
        [
            {
                "model": row.model,
                "defense": row.defense,
                "adaptive_attack": row.adaptive_attack,
                **candidate.model_dump(),
            }
            for row in rows
            for candidate in row.candidates
        ],
        infer_schema_length=None,
    )


def card_values(cards: Mapping[str, Card]) -> pl.DataFrame:
    """One row for each finding about a model or about a cell's stored answers."""
    models = {(card.of, card.attack): card.model for card in cards.values()}
    rows: list[tuple[str, str | None, str | None, Finding]] = [
        (*key, None, finding) for key, found in models.items() for finding in found
    ]
    rows += [
        (card.of, card.attack, name, each) for name, card in cards.items() for each in card.stored
    ]
    return pl.DataFrame(
        [
            {
                "examined": of,
                "attack": attack,
                "cell": cell,
                "check": finding.check,
                "verdict": finding.verdict,
                "words": finding.words,
                "measured": json.dumps(dict(finding.measured), sort_keys=True),
            }
            for of, attack, cell, finding in rows
        ],
        schema=dict.fromkeys(CARD_COLUMNS, pl.String),
    )


def probabilities(found: Sequence[Picture]) -> pl.DataFrame:
    """Class probabilities of the pictured images: one row for each image, column and class."""
    rows = [
        {
            "model": picture.model,
            "attack": picture.attack,
            "image": picture.place,
            "seen": seen,
            "class": place,
            "is_true_class": place == picture.label,
            "probability": value,
        }
        for picture in found
        for seen, values in class_probabilities(picture)
        for place, value in enumerate(values)
    ]
    return pl.DataFrame(rows)


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
    if (card := scores.cards.get(cell.name)) is not None:
        names["card"] = card.verdict
    if (device := scores.devices.get(cell.name)) is not None:
        names["device"] = device
    facts = scores.facts[cell.name]
    return {**_flat(facts), **names, **_published(scores.published.get(cell.name), facts)}


def _published(reference: Reference | None, facts: Facts) -> dict[str, object]:
    measured = number(facts, "accuracy")
    if reference is None or measured is None:
        return {}
    return {
        "published": reference.published.value,
        "published_is_bound": reference.published.upper_bound,
        "difference": reference.difference(measured),
        "published_verdict": reference.verdict(interval(facts)),
    }


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


def _guessed(name: str, values: Sequence[object]) -> pl.Series:
    """A column with a type inferred from the values; integers mixed with floats become floats."""
    kinds = {type(value) for value in values if value is not None}
    if not kinds:
        return pl.Series(values, dtype=TYPES.get(name, pl.Float64))
    if kinds <= {int, float}:
        dtype: type[pl.DataType] = pl.Int64 if kinds == {int} else pl.Float64
        return pl.Series(values, dtype=dtype, strict=False)
    if kinds == {bool}:
        return pl.Series(values, dtype=pl.Boolean)
    return pl.Series([None if value is None else str(value) for value in values], dtype=pl.String)


def _entry_row(view: View, row: Row, entry: Entry) -> dict[str, object]:
    low, high = entry.interval or (None, None)
    said = entry.reference.published if entry.reference else None
    return {
        "model": row.model,
        "defense": row.defense,
        "attack": entry.attack,
        "accuracy": entry.accuracy,
        "interval_low": low,
        "interval_high": high,
        "spread": entry.spread,
        "gain": entry.gain,
        "p_value": entry.p_value,
        "p_holm": entry.p_holm,
        "significant": entry.significant,
        "card": entry.card,
        "images": entry.images,
        "redraws": entry.redraws,
        "seeds": entry.seeds,
        "seed_spread": entry.seed_spread,
        "deterministic": row.redraws == "deterministic",
        "published": said.value if said else None,
        "published_is_bound": said.upper_bound if said else None,
        "difference": entry.difference,
        "published_verdict": entry.verdict,
        "published_gain": entry.published_gain,
        "note": None if entry.note is None else view.notes[entry.note - 1],
    }

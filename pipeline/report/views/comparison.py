"""Comparison of two sets of scores: which cells changed, on how many images, and why.

A set is a run, a store, or the cells of one variant. Cells are paired by what they have in common.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Literal

import numpy as np

from pipeline.plan.why import Moves
from pipeline.report.answers import Answers, NotTested, answers_of
from pipeline.report.facts import number
from pipeline.report.views.table import LEVEL
from pipeline.store.ledger import CellEntry
from pipeline.store.store import Store
from tasks.evaluation.statistics import holm, sign_flip_test, summed_shares

Outcome = Literal["worse", "better", "moved", "same", "only before", "only after"]


@dataclass(frozen=True)
class Place:
    """Key by which cells of both sets are paired; a component in which they differ is empty.

    grid: only if several grids are compared.
    """

    model: str
    attack: str
    defense: str
    seed: int = 0
    grid: str = ""

    @property
    def cell(self) -> str:
        """Such as `demo-iat/untargeted-pgd10/guo`, followed by the seed if it is not 0."""
        named = "/".join(filter(None, (self.model, self.attack, self.defense)))
        return f"{named}/seed{self.seed}" if self.seed else named

    @property
    def words(self) -> str:
        """The cell, with its grid if several grids are compared."""
        return f"{self.grid + ': ' if self.grid else ''}{self.cell}"


@dataclass(frozen=True)
class Side:
    """One of the sets. name: for headings; cells: scores by their pairing key."""

    name: str
    store: Store
    cells: Mapping[Place, CellEntry]


@dataclass(frozen=True, kw_only=True)
class Compared:
    """One cell in both sets.

    Attributes:
        before, after: Accuracies in percent, on the images that both sets have; on all of a set's
            if their answers cannot be compared.
        images: Number of images that both have.
        lost, won: Number of images on which the model is right less often, or more often.
        p_value: P-value of the sign-flip test over images.
        p_holm: The same, corrected for all cells of the comparison.
        untested: Why there are no p-values.
        reasons: Why the cell changed.
    """

    place: Place
    before: float | None
    after: float | None
    images: int = 0
    lost: int = 0
    won: int = 0
    p_value: float | None = None
    p_holm: float | None = None
    untested: str = ""
    reasons: tuple[str, ...] = ()

    @property
    def change(self) -> float | None:
        """After minus before, in points."""
        if self.before is None or self.after is None:
            return None
        return self.after - self.before

    @property
    def outcome(self) -> Outcome:
        """Kind of change; `worse` and `better` only if it is significant."""
        if self.before is None or self.after is None:
            return "only after" if self.before is None else "only before"
        assert self.change is not None
        if self.p_holm is not None and self.p_holm <= LEVEL and self.change:
            return "worse" if self.change < 0 else "better"
        return "moved" if self.lost or self.won or self.change else "same"

    def facts(self) -> dict[str, object]:
        """The row as plain values."""
        return {
            "cell": self.place.cell,
            "model": self.place.model,
            "attack": self.place.attack,
            "defense": self.place.defense,
            "seed": self.place.seed,
            **({"grid": self.place.grid} if self.place.grid else {}),
            "outcome": self.outcome,
            "before": self.before,
            "after": self.after,
            "change": self.change,
            "images": self.images,
            "images_lost": self.lost,
            "images_won": self.won,
            "p_value": self.p_value,
            "p_holm": self.p_holm,
            "untested": self.untested or None,
            "reasons": list(self.reasons),
        }


@dataclass(frozen=True)
class Comparison:
    """Result of a comparison: all cells, those of the later set first.

    reasons: the number of cells by reason for the change.
    """

    before: str
    after: str
    rows: tuple[Compared, ...]
    reasons: Mapping[str, int] = field(default_factory=dict)

    def having(self, *outcomes: Outcome) -> list[Compared]:
        """The cells with one of these outcomes."""
        return [row for row in self.rows if row.outcome in outcomes]

    def facts(self) -> dict[str, object]:
        """The comparison as plain values."""
        return {
            "before": self.before,
            "after": self.after,
            "level": LEVEL,
            "cells": [row.facts() for row in self.rows],
            "reasons": dict(self.reasons),
        }


def compare(before: Side, after: Side) -> Comparison:
    """Compare two sets of scores cell by cell."""
    moves = Moves(before.store, after.store)
    places = dict.fromkeys([*after.cells, *before.cells])
    rows = [_compared(place, before, after, moves) for place in places]
    adjusted = iter(holm([row.p_value for row in rows if row.p_value is not None]))
    rows = [row if row.p_value is None else replace(row, p_holm=next(adjusted)) for row in rows]
    counted: dict[str, int] = {}
    for reason in (reason for row in rows for reason in row.reasons):
        counted[reason] = counted.get(reason, 0) + 1
    most_first = dict(sorted(counted.items(), key=lambda pair: -pair[1]))
    return Comparison(before.name, after.name, tuple(rows), most_first)


def _compared(place: Place, before: Side, after: Side, moves: Moves) -> Compared:
    old, new = before.cells.get(place), after.cells.get(place)
    row = Compared(place=place, before=_accuracy(old), after=_accuracy(new))
    if old is None or new is None or row.before is None or row.after is None:
        return row
    images = number(new.facts or {}, "images")
    row = replace(row, images=int(images or 0))
    if (old.score, old.content) == (new.score, new.content):
        return row
    try:
        first, second = _common(_answers(before.store, old), _answers(after.store, new))
    except NotTested as reason:
        row = replace(row, untested=str(reason))
    else:
        differences, _ = summed_shares([second.right], [first.right])
        if images != len(differences) or images != number(old.facts or {}, "images"):
            row = replace(row, before=_on(first), after=_on(second))
        row = replace(
            row,
            images=len(differences),
            lost=int((differences < 0).sum()),
            won=int((differences > 0).sum()),
            p_value=sign_flip_test(differences),
        )
    if row.outcome == "same" and not row.untested:
        return row
    return replace(row, reasons=moves.reasons(new.score, old.score))


def _accuracy(entry: CellEntry | None) -> float | None:
    return None if entry is None else number(entry.facts or {}, "accuracy")


def _on(answers: Answers) -> float:
    """Accuracy on the images of these answers, in percent."""
    return 100 * float(answers.right.mean())


def _answers(store: Store, entry: CellEntry) -> Answers:
    record = store.known("score", entry.score)
    if record is None:
        raise NotTested(f"score {entry.score[:12]}: the store no longer holds its answers")
    if record.content != entry.content:
        raise NotTested(f"score {entry.score[:12]}: its answers were computed again since")
    return answers_of(store, record)


def _common(first: Answers, second: Answers) -> tuple[Answers, Answers]:
    """The answers of both for the images that they have in common."""
    ids = np.intersect1d(first.ids, second.ids)
    pair = []
    for answers in (first, second):
        rows = np.searchsorted(answers.ids, ids)
        pair.append(Answers(ids, answers.labels[rows], answers.right[rows]))
    if not len(ids) or not np.array_equal(pair[0].labels, pair[1].labels):
        raise NotTested("they were asked about other images")
    return pair[0], pair[1]

"""Content of the figure of verdicts: worst case of each defense, with a panel for each network.

Marks are built from `VerdictRow.facts`, which are the lines of `verdicts.csv`. Rates are in
percent.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pipeline.grid.choices import BARE
from pipeline.report.views.adaptive import Rate
from tasks.evaluation.verdicts import Word


@dataclass(frozen=True)
class VerdictMark:
    """A defense; see `VerdictRow` for worst, without and replayed."""

    defense: str
    verdict: Word
    worst: Rate
    without: Rate | None
    replayed: Rate | None


@dataclass(frozen=True)
class VerdictPanel:
    """The defenses of one network in one ball, sorted by worst case, highest first.

    images: minimum and maximum number of images of these verdicts.
    """

    model: str
    norm: str
    epsilon: float
    images: tuple[int, int]
    marks: Sequence[VerdictMark]

    @property
    def tells(self) -> bool:
        """Whether there is a verdict on any of the defenses."""
        return any(mark.verdict != "cannot tell" for mark in self.marks)


def verdict_panels(facts: Iterable[Mapping[str, Any]]) -> list[VerdictPanel]:
    """A panel for each network and ball, in the order of the facts.

    Defenses that were not computed have no mark, and panels without marks are omitted. The bare
    network has no mark, since all marks are compared with it.
    """
    groups: dict[tuple[str, str, float], list[Mapping[str, Any]]] = {}
    for row in facts:
        if row["defense"] != BARE and row["worst"] is not None:
            groups.setdefault((row["model"], row["norm"], row["epsilon"]), []).append(row)
    return [
        VerdictPanel(
            *place,
            images=(min(row["images"] for row in rows), max(row["images"] for row in rows)),
            marks=tuple(_mark(row) for row in sorted(rows, key=lambda row: -row["worst"])),
        )
        for place, rows in groups.items()
    ]


def _mark(row: Mapping[str, Any]) -> VerdictMark:
    worst = _rate(row, "worst")
    assert worst is not None
    return VerdictMark(
        row["defense"], row["verdict"], worst, _rate(row, "without"), _rate(row, "replayed")
    )


def _rate(row: Mapping[str, Any], name: str) -> Rate | None:
    if row[name] is None:
        return None
    low, high = row[f"{name}_low"], row[f"{name}_high"]
    return Rate(row[name], None if low is None else (low, high))

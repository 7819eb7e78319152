"""The figure of verdicts as data: what each defense leaves in the worst case, a panel a network.

Each mark is of what `VerdictRow.facts` gives, which is a line of `verdicts.csv`; rates in percent.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pipeline.report.views.adaptive import Rate
from pipeline.report.views.verdicts import BARE
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
    """The defenses of one network in one ball, by their worst case, the highest first.

    images: how many a verdict of these is about, the fewest and the most.
    """

    model: str
    norm: str
    epsilon: float
    images: tuple[int, int]
    marks: Sequence[VerdictMark]


def verdict_panels(facts: Iterable[Mapping[str, Any]]) -> list[VerdictPanel]:
    """A panel for each network and ball, in the order of the facts.

    What was not computed has no mark, and a panel without a mark is none. The bare network is what
    each mark is compared with, and no mark itself.
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

"""All data for the tables of a grid's report.

Rates are in percent, gains and differences in points; nothing is rounded here.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from pipeline.grid.cells import Cell
from pipeline.problems.sanitize import clean
from pipeline.report.facts import Facts, number
from pipeline.report.paper import Reference

if TYPE_CHECKING:
    from pipeline.catalogue.claims import Claim
    from pipeline.report.answers import PerImage
    from pipeline.report.cards import Card
    from pipeline.report.sanity import Doubt

PAGE = "index.html"
"""File in a report's folder to open in a browser."""


NOT_COMPUTED = "not computed"
"""Reason for a missing score if nothing went wrong."""


@dataclass(frozen=True)
class Scores:
    """Data about a grid's cells, by cell name unless stated otherwise.

    Attributes:
        facts: Facts of the scores, see `tasks.evaluation.score`.
        missing: Why a cell has no score.
        digests: Digests of the score nodes.
        published: Published numbers of the cells that have one.
        by_class: Number of test images of each class, by data set.
        per_image: Per-image answers for testing gains; None to test none.
        cards: Integrity cards of the cells that have one.
        doubts: Sanity checks of models and attacks that did not pass.
        claims: Published claims, by defense.
        devices: Devices that the predictions were computed on, such as `x86_64 CPU`.
    """

    facts: Mapping[str, Facts]
    missing: Mapping[str, str] = field(default_factory=dict)
    digests: Mapping[str, str] = field(default_factory=dict)
    published: Mapping[str, Reference] = field(default_factory=dict)
    by_class: Mapping[str, Sequence[int]] = field(default_factory=dict)
    per_image: PerImage | None = None
    cards: Mapping[str, Card] = field(default_factory=dict)
    doubts: Sequence[Doubt] = ()
    claims: Mapping[str, Sequence[Claim]] = field(default_factory=dict)
    devices: Mapping[str, str] = field(default_factory=dict)

    def reason(self, name: str) -> str:
        """Why a cell has no score, in one line; empty if it has one."""
        if self.accuracy(name) is not None:
            return ""
        return clean(self.missing.get(name) or NOT_COMPUTED)

    def accuracy(self, name: str) -> float | None:
        """A cell's accuracy in percent."""
        return number(self.facts.get(name, {}), "accuracy")


def deterministic(cell: Cell) -> bool:
    """Whether nothing in a cell is random."""
    return cell.deterministic

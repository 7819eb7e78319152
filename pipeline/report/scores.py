"""What is known of a grid's cells, and the tables that are made of it.

Rates are in percent, gains and differences in points; nothing is rounded here.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from pipeline.grid.cells import Cell
from pipeline.problems.sanitize import clean
from pipeline.report.paper import Reference

if TYPE_CHECKING:
    from pipeline.catalogue.claims import Claim
    from pipeline.report.answers import PerImage
    from pipeline.report.cards import Card
    from pipeline.report.sanity import Doubt

Facts = Mapping[str, object]

PAGE = "index.html"
"""In the folder of a grid's report, what a browser opens."""


NOT_COMPUTED = "not computed"
"""Why a cell has no score, where nothing went wrong."""


@dataclass(frozen=True)
class Scores:
    """What is known of a grid's cells, by their names.

    facts: of their scores, see `tasks.evaluation.score`; missing: why a cell has none; digests: of
    the score nodes; published: what the paper says of those it says something of; by_class: how
    many test images a data set, by its name, has of each class; per_image: where gains are
    tested, None where they are not; cards: the integrity cards of those that have one; doubts:
    what makes no sense about the models and the attacks; claims: what has been published of a
    defense, by its name.
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

    def reason(self, name: str) -> str:
        """Why a cell has no score, in one line; empty where it has one."""
        if self.accuracy(name) is not None:
            return ""
        return clean(self.missing.get(name) or NOT_COMPUTED)

    def accuracy(self, name: str) -> float | None:
        """A cell's accuracy in percent."""
        return number(self.facts.get(name, {}), "accuracy")


def number(facts: Facts, key: str) -> float | None:
    """A numeric fact, or None."""
    value = facts.get(key)
    if isinstance(value, int | float) and not isinstance(value, bool):
        return float(value)
    return None


def interval(facts: Facts) -> tuple[float, float] | None:
    """The interval of a score, in percent, or None.

    Its ends are exact where no image or every image is right, which they are not in scores of
    earlier versions.
    """
    value = facts.get("interval")
    if isinstance(value, Sequence) and not isinstance(value, str) and len(value) == 2:
        accuracy = number(facts, "accuracy")
        low = 0.0 if accuracy == 0 else float(value[0])
        high = 100.0 if accuracy == 100 else float(value[1])
        return low, high
    return None


def deterministic(cell: Cell) -> bool:
    """Whether a cell has nothing to draw."""
    return cell.deterministic

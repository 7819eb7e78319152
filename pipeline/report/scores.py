"""What is known of a grid's cells, and the tables that are made of it.

Rates are in percent, gains and differences in points; nothing is rounded here.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from pipeline.grid.cells import Cell, Table
from pipeline.report.paper import Reference, Verdict

if TYPE_CHECKING:
    from pipeline.report.answers import PerImage
    from pipeline.report.cards import Card
    from tasks.integrity.findings import Verdict as CardVerdict

Facts = Mapping[str, object]

PAGE = "index.html"
"""In the folder of a grid's report, what a browser opens."""
LEVEL = 0.05
"""The chance that a table without any true gain calls one of its gains significant."""


@dataclass(frozen=True)
class Scores:
    """What is known of a grid's cells, by their names.

    facts: of their scores, see `tasks.evaluation.score`; missing: why a cell has none; digests: of
    the score nodes; published: what the paper says of those it says something of; by_class: how
    many test images a data set, by its name, has of each class; per_image: where gains are
    tested, None where they are not; cards: the integrity cards of those that have one.
    """

    facts: Mapping[str, Facts]
    missing: Mapping[str, str] = field(default_factory=dict)
    digests: Mapping[str, str] = field(default_factory=dict)
    published: Mapping[str, Reference] = field(default_factory=dict)
    by_class: Mapping[str, Sequence[int]] = field(default_factory=dict)
    per_image: PerImage | None = None
    cards: Mapping[str, Card] = field(default_factory=dict)

    def reason(self, name: str) -> str:
        """Why a cell has no score, in one line; empty where it has one."""
        if self.accuracy(name) is not None:
            return ""
        return one_line(self.missing.get(name) or "not computed")

    def accuracy(self, name: str) -> float | None:
        """A cell's accuracy in percent."""
        return number(self.facts.get(name, {}), "accuracy")


@dataclass(frozen=True, kw_only=True)
class Entry:
    """One place of a table. Rates in percent, gains in points.

    accuracy, gain: means over seeds, a gain only from seeds that have its baseline too.
    interval and spread (over redraws) belong to one set of weights, so they are None where
    several seeds are averaged; seed_spread is the standard deviation over those.
    seeds: how many were scored; note: number of a footnote of the view.
    reference: the published number; published_gain: from published accuracies, None where one
    of them is a bound.
    p_value: of the gain; p_holm: the same, corrected for all gains of the view that were tested;
    untested: why a gain has neither.
    card: the gravest verdict of the integrity cards; card_note: number of the footnote that says
    what a failed one found.
    """

    attack: str
    accuracy: float | None = None
    gain: float | None = None
    interval: tuple[float, float] | None = None
    spread: float | None = None
    seed_spread: float | None = None
    images: int | None = None
    redraws: int | None = None
    seeds: int = 0
    note: int | None = None
    reference: Reference | None = None
    published_gain: float | None = None
    p_value: float | None = None
    p_holm: float | None = None
    untested: str | None = None
    card: CardVerdict | None = None
    card_note: int | None = None

    @property
    def bold(self) -> bool:
        """Whether the gain is shown: it is significant, and no integrity card fails."""
        return self.significant is True and self.card != "fail"

    @property
    def significant(self) -> bool | None:
        """Whether the gain, or loss, is significant in its view; None where it is not tested."""
        return None if self.p_holm is None else self.p_holm <= LEVEL

    @property
    def difference(self) -> float | None:
        """Measured minus published, in points; see `Reference.difference`."""
        if self.reference is None or self.accuracy is None:
            return None
        return self.reference.difference(self.accuracy)

    @property
    def verdict(self) -> Verdict | None:
        """Whether the published number lies in the interval; None without one of both."""
        if self.reference is None or self.accuracy is None:
            return None
        return self.reference.verdict(self.interval)


@dataclass(frozen=True)
class Row:
    """One defense on one model, an entry for each attack of the view.

    redraws: how often whole predictions were drawn, or `deterministic`.
    """

    model: str
    defense: str
    redraws: str
    entries: tuple[Entry, ...]


@dataclass(frozen=True)
class View:
    """A table as it is shown; a note's number is its place, from 1."""

    table: Table
    attacks: tuple[str, ...]
    rows: tuple[Row, ...]
    notes: tuple[str, ...]

    @property
    def models(self) -> tuple[str, ...]:
        """The models of the rows, in their order."""
        return tuple(dict.fromkeys(row.model for row in self.rows))

    @property
    def widest_interval(self) -> float | None:
        """Half the length of the longest interval, in points."""
        intervals = [entry.interval for row in self.rows for entry in row.entries]
        return max(((high - low) / 2 for low, high in filter(None, intervals)), default=None)


def number(facts: Facts, key: str) -> float | None:
    """A numeric fact, or None."""
    value = facts.get(key)
    if isinstance(value, int | float) and not isinstance(value, bool):
        return float(value)
    return None


def interval(facts: Facts) -> tuple[float, float] | None:
    """The interval of a score, in percent, or None."""
    value = facts.get("interval")
    if isinstance(value, Sequence) and not isinstance(value, str) and len(value) == 2:
        return float(value[0]), float(value[1])
    return None


def one_line(text: str) -> str:
    """Text from elsewhere as one line, without characters that would steer a terminal."""
    return "".join(letter for letter in " ".join(text.split()) if letter.isprintable())


def deterministic(cell: Cell) -> bool:
    """Whether a cell's defense has nothing to draw."""
    return cell.defense_spec.deterministic(cell.dataset_spec.classes)

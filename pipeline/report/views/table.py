"""A table as it is shown: its rows, entries and footnotes, and selections of them."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from pipeline.grid.cells import Cell, Table
from pipeline.report.paper import Reference, Verdict

if TYPE_CHECKING:
    from tasks.integrity.findings import Verdict as CardVerdict

LEVEL = 0.05
"""Significance level: the probability that a table without any true gain reports one."""


@dataclass(frozen=True, kw_only=True)
class Entry:
    """One entry of a table. Rates are in percent, gains in points.

    Attributes:
        accuracy: Mean over seeds.
        gain: Mean over the seeds that have the baseline, too.
        interval, spread: Confidence interval, and standard deviation over redraws, of one set of
            weights; None if several seeds are averaged.
        seed_spread: Standard deviation over several seeds.
        seeds: Number of scored seeds.
        note: Number of a footnote.
        reference: The published number.
        published_gain: Gain by published accuracies; None if one of them is a bound.
        p_value: P-value of the gain.
        p_holm: The same, corrected for all tested gains of the table.
        untested: Why the gain has no p-values.
        card: Worst verdict of the integrity cards.
        card_note: Number of the footnote about a failed card.
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
        """Whether the gain is emphasised: it is significant, and no integrity card fails."""
        return self.significant is True and self.card != "fail"

    @property
    def significant(self) -> bool | None:
        """Whether the gain or loss is significant in its table; None if it was not tested."""
        return None if self.p_holm is None else self.p_holm <= LEVEL

    @property
    def difference(self) -> float | None:
        """Measured minus published accuracy, in points; see `Reference.difference`."""
        if self.reference is None or self.accuracy is None:
            return None
        return self.reference.difference(self.accuracy)

    @property
    def verdict(self) -> Verdict | None:
        """Whether the published number is in the interval; None if either is missing."""
        if self.reference is None or self.accuracy is None:
            return None
        return self.reference.verdict(self.interval)


@dataclass(frozen=True)
class Row:
    """One defense on one model, with an entry for each attack of the table.

    redraws: number of repeated predictions, or `deterministic`.
    """

    model: str
    defense: str
    redraws: str
    entries: tuple[Entry, ...]


@dataclass(frozen=True)
class View:
    """A table as it is shown; footnotes are numbered from 1.

    Attributes:
        doubts: Sanity checks of its models and attacks that did not pass, one line each.
        replayed: Its transferred attacks, made on the bare model, whose accuracy is only an upper
            bound for a defense.
    """

    table: Table
    attacks: tuple[str, ...]
    rows: tuple[Row, ...]
    notes: tuple[str, ...]
    doubts: tuple[str, ...] = ()
    replayed: frozenset[str] = frozenset()

    def gain_shows(self, entry: Entry) -> Literal["up", "down", ""]:
        """The direction of a gain that may be shown by a colour.

        Gains under transferred attacks are not shown as up, since they are only bounds. Values that
        round to 0 have no direction.
        """
        rounded = 0.0 if entry.gain is None else round(entry.gain, 1)
        if rounded > 0 and entry.attack not in self.replayed:
            return "up"
        return "down" if rounded < 0 else ""

    @property
    def models(self) -> tuple[str, ...]:
        """The models of the rows, in order."""
        return tuple(dict.fromkeys(row.model for row in self.rows))

    @property
    def widest_interval(self) -> float | None:
        """Half the length of the longest interval, in points."""
        intervals = [entry.interval for row in self.rows for entry in row.entries]
        return max(((high - low) / 2 for low, high in filter(None, intervals)), default=None)


def spans(attacks: Sequence[str]) -> list[tuple[str, int]]:
    """Headings that group columns: common first word (before a hyphen) and number of columns.

    The heading of a column that is not grouped is empty.
    """
    found: list[tuple[str, int]] = []
    for attack in attacks:
        first, sign, _ = attack.partition("-")
        first = first if sign else ""
        if found and first and found[-1][0] == first:
            found[-1] = (first, found[-1][1] + 1)
        else:
            found.append((first, 1))
    return [(first if count > 1 else "", count) for first, count in found]


def of_cells(view: View, cells: Sequence[Cell]) -> View | None:
    """The rows and columns of a table that contain any of these cells; None if there are none.

    Gains remain relative to rows that are left out.
    """
    rows_of = {(cell.model, cell.defense) for cell in cells}
    columns = {cell.attack for cell in cells}
    places = [place for place, attack in enumerate(view.attacks) if attack in columns]
    rows = [row for row in view.rows if (row.model, row.defense) in rows_of]
    return _renumbered(_part(view, rows, places)) if rows and places else None


def beside(view: View) -> View | None:
    """The rows and columns of a table that have a published number; None if there are none.

    Its footnotes are those of the whole table.
    """
    places = [
        place
        for place in range(len(view.attacks))
        if any(row.entries[place].reference for row in view.rows)
    ]
    rows = [row for row in view.rows if any(entry.reference for entry in row.entries)]
    return _part(view, rows, places) if rows else None


def _part(view: View, rows: Sequence[Row], places: Sequence[int]) -> View:
    """Some rows and columns of a table, with all its footnotes."""
    attacks = tuple(view.attacks[place] for place in places)
    return dataclasses.replace(
        view,
        attacks=attacks,
        replayed=view.replayed.intersection(attacks),
        rows=tuple(
            dataclasses.replace(row, entries=tuple(row.entries[place] for place in places))
            for row in rows
        ),
    )


def _renumbered(view: View) -> View:
    """A table with only the footnotes that its entries refer to."""
    entries = [entry for row in view.rows for entry in row.entries]
    used = {number for entry in entries for number in (entry.note, entry.card_note) if number}
    notes = {old: new for new, old in enumerate(sorted(used), 1)}
    rows = tuple(
        dataclasses.replace(
            row,
            entries=tuple(
                dataclasses.replace(
                    entry,
                    note=entry.note and notes[entry.note],
                    card_note=entry.card_note and notes[entry.card_note],
                )
                for entry in row.entries
            ),
        )
        for row in view.rows
    )
    return dataclasses.replace(view, rows=rows, notes=tuple(view.notes[old - 1] for old in notes))

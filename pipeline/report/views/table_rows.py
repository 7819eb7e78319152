"""Fills the tables of a grid from the facts of cells: means over seeds, gains and footnotes.

Everything is computed from unrounded accuracies; output formats round.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from statistics import fmean, stdev

from pipeline.grid.cells import Cell, Grid, Table
from pipeline.problems.sanitize import clean
from pipeline.report.answers import NotTested
from pipeline.report.facts import interval, number
from pipeline.report.paper import Reference
from pipeline.report.scores import Scores, deterministic
from pipeline.report.views.table import Entry, Row, View
from tasks.evaluation.statistics import holm
from tasks.integrity.findings import Verdict as CardVerdict
from tasks.integrity.findings import gravest


def views(grid: Grid, scores: Scores) -> list[View]:
    """The tables of a grid, without rows, columns and tables that have no cells."""
    cells: dict[tuple[str, str, str], list[Cell]] = {}
    for cell in grid.cells:
        cells.setdefault((cell.model, cell.defense, cell.attack), []).append(cell)
    found = (_Reader(table, cells, scores).view() for table in grid.tables)
    return [view for view in found if view.rows]


class _Reader:
    """Reads the cells of one table, numbering footnotes in order of appearance."""

    def __init__(
        self, table: Table, cells: Mapping[tuple[str, str, str], Sequence[Cell]], scores: Scores
    ) -> None:
        self._table = table
        self._cells = cells
        self._scores = scores
        self._notes: dict[str, int] = {}

    def view(self) -> View:
        table = self._table
        places = [(model, defense) for model in table.models for defense in table.defenses]
        attacks = tuple(
            attack
            for attack in table.attacks
            if any((*place, attack) in self._cells for place in places)
        )
        rows = tuple(
            self._row(model, defense, attacks)
            for model, defense in places
            if any((model, defense, attack) in self._cells for attack in attacks)
        )
        models, defenses = {row.model for row in rows}, {row.defense for row in rows}
        doubts = tuple(
            doubt.line
            for doubt in self._scores.doubts
            if doubt.model in models and doubt.attack in {None, *attacks}
            if doubt.defense in {None, *defenses}
        )
        replayed = frozenset(
            cell.attack
            for cells in self._cells.values()
            for cell in cells
            if cell.attack in attacks and cell.attack_spec.crafts and not cell.attack_spec.compound
        )
        return View(table, attacks, _corrected(rows), tuple(self._notes), doubts, replayed)

    def _row(self, model: str, defense: str, attacks: Sequence[str]) -> Row:
        cells = [
            cell for attack in attacks for cell in self._cells.get((model, defense, attack), ())
        ]
        counts = sorted({cell.redraws for cell in cells if not deterministic(cell)})
        redraws = " or ".join(map(str, counts)) if counts else "deterministic"
        entries = tuple(self._entry(model, defense, attack) for attack in attacks)
        return Row(model, defense, redraws, entries)

    def _entry(self, model: str, defense: str, attack: str) -> Entry:
        cells = self._cells.get((model, defense, attack), ())
        found = self._accuracies(cells)
        note = self._note(cells, len(found))
        reference = self._reference(model, defense, attack)
        published_gain = self._published_gain(model, defense, attack)
        empty = Entry(attack=attack, reference=reference, published_gain=published_gain, note=note)
        if not found:
            return empty
        facts = [self._scores.facts[cell.name] for cell in cells if cell.seed in found]
        verdict, card_note = self._card(cells)
        pairs = self._pairs(cells, self._baseline(model, defense, attack))
        gains = [self._gain(*pair) for pair in pairs]
        known = [gain for gain in gains if gain is not None]
        p_value, untested = self._test(pairs)
        single = len(found) == 1
        images, redraws = number(facts[0], "images"), number(facts[0], "redraws")
        return dataclasses.replace(
            empty,
            accuracy=fmean(found.values()),
            gain=fmean(known) if known else None,
            interval=interval(facts[0]) if single else None,
            spread=number(facts[0], "spread") if single else None,
            seed_spread=None if single else stdev(found.values()),
            images=None if images is None else int(images),
            redraws=None if redraws is None else int(redraws),
            seeds=len(found),
            p_value=p_value,
            untested=untested,
            card=verdict,
            card_note=card_note,
        )

    def _card(self, cells: Sequence[Cell]) -> tuple[CardVerdict | None, int | None]:
        """The worst verdict of the cards, and the footnote of the first one that failed."""
        cards = [self._scores.cards.get(cell.name) for cell in cells]
        known = [card for card in cards if card is not None]
        if not known:
            return None, None
        failed = [card for card in known if card.verdict == "fail"]
        note = self._numbered(failed[0].complaint()) if failed else None
        return gravest(card.verdict for card in known), note

    def _accuracies(self, cells: Sequence[Cell]) -> dict[int, float]:
        """Accuracies of the scored cells, by seed."""
        scored = ((cell.seed, self._scores.accuracy(cell.name)) for cell in cells)
        return {seed: accuracy for seed, accuracy in scored if accuracy is not None}

    def _pairs(self, cells: Sequence[Cell], baseline: Sequence[Cell]) -> list[tuple[str, str]]:
        """Names of the scored cells and of their scored baselines on the same data set."""
        bases = {
            base.seed: base for base in baseline if self._scores.accuracy(base.name) is not None
        }
        return [
            (cell.name, base.name)
            for cell in cells
            if self._scores.accuracy(cell.name) is not None
            and (base := bases.get(cell.seed)) is not None
            and base.dataset_spec == cell.dataset_spec
        ]

    def _gain(self, name: str, base: str) -> float | None:
        """A cell's accuracy minus its baseline's, on the cell's images; None if that is unknown."""
        after, before = self._scores.accuracy(name), self._scores.accuracy(base)
        assert after is not None
        assert before is not None
        images = [number(self._scores.facts[each], "images") for each in (name, base)]
        if images[0] == images[1]:
            return after - before
        if self._scores.per_image is None:
            return None
        try:
            _, other = self._scores.per_image.paired(name, base)
        except NotTested:
            return None
        return after - 100 * float(other.right.mean())

    def _test(self, pairs: Sequence[tuple[str, str]]) -> tuple[float | None, str | None]:
        """The p-value of a gain, or why it has none; both None if there is no gain."""
        if not pairs or self._scores.per_image is None:
            return None, "per-image answers were not looked at" if pairs else None
        try:
            return self._scores.per_image.p_value(pairs), None
        except NotTested as reason:
            return None, clean(str(reason))

    def _reference(self, model: str, defense: str, attack: str) -> Reference | None:
        cells = self._cells.get((model, defense, attack), ())
        return self._scores.published.get(cells[0].name) if cells else None

    def _published_gain(self, model: str, defense: str, attack: str) -> float | None:
        base = self._table.baseline(model, attack, defense)
        # a cell that differs from its baseline in something else, such as the recipe, has the same
        # published number as the baseline
        if base is None or base[2] == defense:
            return None
        pair = [self._reference(model, label, attack) for label in (defense, base[2])]
        numbers = [found.published for found in pair if found and not found.published.upper_bound]
        return numbers[0].value - numbers[1].value if len(numbers) == 2 else None

    def _baseline(self, model: str, defense: str, attack: str) -> Sequence[Cell]:
        base = self._table.baseline(model, attack, defense)
        if base is None:
            return ()
        model, attack, defense = base
        return self._cells.get((model, defense, attack), ())

    def _note(self, cells: Sequence[Cell], found: int) -> int | None:
        if cells and found == len(cells):
            return None
        reasons = {cell.seed: self._scores.reason(cell.name) for cell in cells}
        if not cells:
            text = "not among the cells asked for"
        elif not found and len(set(reasons.values())) == 1:
            text = next(iter(reasons.values()))
        else:
            absent = "; ".join(f"seed {seed}: {why}" for seed, why in reasons.items() if why)
            text = f"mean of {found} of {len(cells)} seeds; {absent}" if found else absent
        return self._numbered(text)

    def _numbered(self, text: str) -> int:
        return self._notes.setdefault(text, len(self._notes) + 1)


def _corrected(rows: Sequence[Row]) -> tuple[Row, ...]:
    """Add Holm-corrected p-values; the gains of all rows form one family."""
    p_values = (entry.p_value for row in rows for entry in row.entries)
    adjusted = iter(holm([p_value for p_value in p_values if p_value is not None]))
    return tuple(
        dataclasses.replace(
            row,
            entries=tuple(
                entry
                if entry.p_value is None
                else dataclasses.replace(entry, p_holm=next(adjusted))
                for entry in row.entries
            ),
        )
        for row in rows
    )

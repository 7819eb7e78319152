"""Verdicts: whether each defense holds on each network that was attacked adaptively.

A row is about the images of one adaptive attack, the one with the most candidates. Rates are in
percent, changes in points.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import astuple, dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Literal

import numpy as np

from pipeline.grid.cells import Cell, Grid
from pipeline.grid.choices import BARE
from pipeline.report.answers import STATISTICS
from pipeline.report.cache import kept_numbers
from pipeline.report.facts import number
from pipeline.report.scores import NOT_COMPUTED, Scores
from pipeline.report.views.adaptive import Rate, RobustnessReader
from pipeline.report.views.paired import Images, Paired, Right
from pipeline.report.views.verdict_row import VerdictRow
from tasks.attacks.base import CompoundAttack
from tasks.attacks.direct import Direct
from tasks.defenses.flip_crop import FlipCrop
from tasks.evaluation import verdicts
from tasks.evaluation.costs import prediction_passes
from tasks.evaluation.verdicts import Change, DefenseVerdict, Word, change, fallen, judged

Conclusion = Literal["holds", "does not hold", "cannot tell"]


def verdict_rows(grid: Grid, scores: Scores) -> list[VerdictRow]:
    """A row for each defense on each network, in the grid's order of networks.

    The rows of a network are sorted by worst case, highest first, including the bare network; those
    without a value come last.
    """
    reader = _Reader(Paired(grid, scores))
    rows = list(reader.rows())
    balls = Counter(model for model, _ in {(row.model, row.ball) for row in rows})
    rows = [replace(row, one_of_several=balls[row.model] > 1) for row in rows]
    order = {cell.model: place for place, cell in enumerate(reversed(grid.cells))}

    def key(row: VerdictRow) -> tuple[object, ...]:
        worst = -1.0 if row.worst is None else row.worst.accuracy
        return -order[row.model], row.norm, row.epsilon, -worst

    return sorted(rows, key=key)


def verdict_of(cell: Cell, rows: Sequence[VerdictRow]) -> Word | None:
    """The verdict to show beside a cell, of those on its model and defense.

    Of several, it is the one in the ball of the cell's attack; None without such a one.
    """
    if len(rows) > 1:
        rows = [row for row in rows if (row.norm, row.epsilon) == cell.ball]
    return rows[0].verdict.word if rows else None


def conclusion(rows: Sequence[VerdictRow]) -> Conclusion:
    """The overall answer for one defense, from its verdicts on several networks.

    It does not hold if it harms or gains nothing on any network. It holds if it does so on all
    networks that are informative; a network whose bare accuracy is near zero is not. Otherwise the
    answer is `cannot tell`.
    """
    words = {row.verdict.word for row in rows if not row.verdict.fallen}
    if words & {"harms", "no gain"}:
        return "does not hold"
    return "holds" if words == {"holds"} else "cannot tell"


@dataclass(frozen=True)
class _Reader:
    paired: Paired

    @cached_property
    def _attacks(self) -> dict[tuple[str, str, float], list[str]]:
        """The adaptive attacks on each network, by network, norm and epsilon."""
        found: dict[tuple[str, str, float], list[str]] = {}
        for cell in self.paired.grid.cells:
            spec = cell.attack_spec
            if isinstance(spec, CompoundAttack):
                names = found.setdefault((cell.model, spec.norm, spec.epsilon or 0.0), [])
                if cell.attack not in names:
                    names.append(cell.attack)
        return found

    @cached_property
    def _others(self) -> tuple[str, ...]:
        """All attacks of the grid, in order."""
        return tuple(dict.fromkeys(cell.attack for cell in self.paired.grid.cells))

    def rows(self) -> Iterator[VerdictRow]:
        for (model, _, _), attacks in self._attacks.items():
            defenses = dict.fromkeys(
                cell.defense
                for cell in self.paired.grid.cells
                if cell.model == model and cell.attack in attacks
            )
            for defense in defenses:
                attack = self._deciding(model, defense, attacks)
                if attack is not None:
                    row = self._row(self.paired.cells(model, defense, attack)[0], attacks)
                    yield row
                    if defense == BARE and row.worst and fallen(row.worst.accuracy):
                        yield from self._unattacked(row, defenses)

    def _unattacked(self, bare: VerdictRow, attacked: Collection[str]) -> Iterator[VerdictRow]:
        """The defenses without an adaptive cell on a network that is uninformative anyway.

        Those that the grid attacks on no network are left out, unless it attacks none at all.
        """
        somewhere = {
            cell.defense
            for cell in self.paired.grid.cells
            if isinstance(cell.attack_spec, CompoundAttack) and cell.defense != BARE
        }
        cells = (cell for cell in self.paired.grid.cells if cell.model == bare.model)
        under = self.paired.cells(bare.model, BARE, bare.attack)[0]
        of_bare = self.paired.images(bare.model, BARE, bare.attack)
        for defense, cell in {cell.defense: cell for cell in cells}.items():
            if defense not in attacked and (defense in somewhere or not somewhere):
                row = replace(self._begun(cell, under), verdict=bare.verdict, computed=True)
                yield self._without_gain(row, bare.worst, of_bare)

    def _deciding(self, model: str, defense: str, attacks: Sequence[str]) -> str | None:
        """The attack with the most candidates, preferring those that are scored.

        An attack with a single candidate is used only if there is no other.
        """
        found = [name for name in attacks if self.paired.cells(model, defense, name)]
        several = [name for name in found if self._candidates(model, defense, name) > 1]
        known = several or found
        scored = [
            name
            for name in known
            if self.paired.images(model, defense, name) and self.paired.images(model, BARE, name)
        ]
        # the last of equals, since grids list larger budgets after smaller ones
        chosen = reversed(scored or known)
        return max(chosen, key=lambda name: self._candidates(model, defense, name), default=None)

    def _candidates(self, model: str, defense: str, attack: str) -> int:
        return self.paired.cells(model, defense, attack)[0].candidates

    def _begun(self, cell: Cell, under: Cell) -> VerdictRow:
        """A row without numbers, about the defense of one cell under the attack of another."""
        model, defense, attack = cell.model, cell.defense, under.attack
        assert under.ball is not None
        norm, epsilon = under.ball
        return VerdictRow(
            model=model,
            defense=defense,
            dataset=cell.dataset,
            attack=attack,
            norm=norm,
            epsilon=epsilon,
            candidates=under.candidates,
            verdict=DefenseVerdict("cannot tell", self._absent(model, defense, attack)),
            claims=self.paired.scores.claims.get(defense, ()),
            is_control=isinstance(cell.defense_spec, FlipCrop),
            device=self._device(model, defense, attack),
            bare_device=self._device(model, BARE, attack),
            computed=self._computed(model, defense, attack),
        )

    def _row(self, cell: Cell, attacks: Sequence[str]) -> VerdictRow:
        model, defense, attack = cell.model, cell.defense, cell.attack
        row = self._begun(cell, cell)
        images = self.paired.images(model, defense, attack)
        of_bare = self.paired.images(model, BARE, attack)
        # a seed that the bare network lacks has no part in the gain
        images = {seed: images[seed] for seed in images if seed in of_bare} or images
        read = RobustnessReader(self._others, self.paired)
        left = read.row(model, defense, attack, images)
        bare = read.left(model, BARE, attack, images or of_bare)
        if left is not None:
            row = replace(
                row,
                images=left.images,
                worst=left.adaptive,
                clean=left.clean,
                clean_change=self._change(
                    (model, defense, left.clean_attack), (model, BARE, left.clean_attack), images
                ),
                replayed=left.oblivious,
                replayed_attack=left.replayed,
                acts_on=self._acts_on(model, defense, attack),
                acts_on_clean=self._acts_on(model, defense, left.clean_attack),
                cost=left.cost,
            )
        gain = self._change((model, defense, attack), (model, BARE, attack), images)
        if bare is None or gain is None:
            return row if row.computed else self._without_gain(row, bare, of_bare)
        control = self._control(cell)
        direct = self._direct(model, defense, attacks)
        return replace(
            row,
            without=bare,
            gain=gain,
            lower=self._lower(read, row, attacks, images),
            verdict=judged(
                gain,
                bare=bare.accuracy,
                candidates=row.candidates,
                **self._failed(model, defense, attack),
            ),
            control=control,
            over_control=None
            if control is None
            else self._change((model, defense, attack), (model, control, attack), images),
            hidden=None if direct is None else self._hidden(model, defense, attack, direct),
        )

    def _lower(
        self, read: RobustnessReader, row: VerdictRow, attacks: Sequence[str], images: Images
    ) -> tuple[str, Rate] | None:
        """See `VerdictRow.lower`; None unless the accuracy is lower by one image at least.

        Smaller differences are those of redraws.
        """
        left = {name: read.left(row.model, row.defense, name, images) for name in attacks}
        known = [(name, rate) for name, rate in left.items() if rate is not None]
        least = min(known, key=lambda each: each[1].accuracy, default=None)
        if least is None or row.worst is None:
            return None
        fewer = (row.worst.accuracy - least[1].accuracy) * row.images / 100
        return least if round(fewer, 6) >= 1 else None

    def _device(self, model: str, defense: str, attack: str) -> str | None:
        devices = self.paired.scores.devices
        names = (cell.name for cell in self.paired.cells(model, defense, attack))
        return ", ".join(sorted({devices[name] for name in names if name in devices})) or None

    def _without_gain(self, row: VerdictRow, bare: Rate | None, of_bare: Images) -> VerdictRow:
        """A row whose defense was not attacked; the bare network may be uninformative anyway."""
        found = None if bare is None else fallen(bare.accuracy)
        if found is None or self._failed(row.model, BARE, row.attack):
            return row
        model, defense = row.model, row.defense
        reader = RobustnessReader(self._others, self.paired)
        clean, replayed = reader.clean_and_replayed(model, defense, row.attack, of_bare)
        known = self.paired.cells(model, defense, clean or replayed or "")
        return replace(
            row,
            verdict=found,
            without=bare,
            images=len(next(iter(of_bare.values()))),
            clean=reader.left(model, defense, clean, of_bare) if clean else None,
            clean_change=self._change((model, defense, clean), (model, BARE, clean), of_bare),
            replayed=reader.left(model, defense, replayed, of_bare) if replayed else None,
            replayed_attack=replayed,
            acts_on_clean=self._acts_on(model, defense, clean),
            device=self._device(model, defense, clean or replayed or ""),
            cost=self.paired.costs.get(known[0].name) if known else None,
            computed=True,
        )

    def _acts_on(self, model: str, defense: str, attack: str | None) -> float | None:
        for cell in self.paired.cells(model, defense, attack or "")[:1]:
            return number(self.paired.scores.facts.get(cell.name, {}), "acts_on")
        return None

    def _absent(self, model: str, defense: str, attack: str) -> str:
        """Why there is no verdict, in one line."""
        for of in (defense, BARE):
            cells = self.paired.cells(model, of, attack)
            if not cells:
                return f"`{of}` is not among the cells of {attack}"
            for cell in cells:
                if reason := self.paired.scores.reason(cell.name):
                    return f"{cell.name}: {reason}"
        return "its answers image by image are not in the store"

    def _computed(self, model: str, defense: str, attack: str) -> bool:
        """Whether there is something to judge, or something failed."""
        cells = [cell for of in (defense, BARE) for cell in self.paired.cells(model, of, attack)]
        return all(self.paired.scores.reason(cell.name) != NOT_COMPUTED for cell in cells)

    def _failed(self, model: str, defense: str, attack: str) -> dict[str, str]:
        """The first complaints of failed cards, of the defended and of the bare model.

        They are arguments of `judged`. The bare network's accuracy is subtracted, so an upper bound
        on it is none on the gain.
        """
        found: dict[str, str] = {}
        for of in (defense, BARE):
            for cell in self.paired.cells(model, of, attack):
                card = self.paired.scores.cards.get(cell.name)
                if card is not None and card.verdict == "fail":
                    weak = card.bounds and of != BARE
                    found.setdefault("weak" if weak else "failed", card.complaint())
        return found

    def _change(
        self, more: tuple[str, str, str | None], less: tuple[str, str, str | None], images: Images
    ) -> Change | None:
        """Difference between two places, over the seeds that both have."""
        (model, defense, attack), (_, other, against) = more, less
        if attack is None or against is None:
            return None
        first = self.paired.right(model, defense, attack, images)
        second = self.paired.right(model, other, against, images)
        both = _joined(first, second)
        if both is None:
            return None
        if more == less:
            return Change(0.0, 0.0, 0.0, len(both[0]))  # the bare network beside itself
        return _change([both[0]], [both[1]])

    def _control(self, cell: Cell) -> str | None:
        """The flip-and-crop defense with as many passes as a prediction of the cell's defense."""
        if isinstance(cell.defense_spec, FlipCrop) or cell.defense == BARE:
            return None
        passes = prediction_passes(cell.defense_spec, cell.dataset_spec.classes).equivalents
        for other in self.paired.grid.cells:
            spec = other.defense_spec
            if (
                (other.model, other.attack) == (cell.model, cell.attack)
                and isinstance(spec, FlipCrop)
                and spec.draws == passes
            ):
                return other.defense
        return None

    def _direct(self, model: str, defense: str, attacks: Sequence[str]) -> str | None:
        """The direct attack, if it was made on both the defense and the bare network."""
        for name in attacks:
            places = [self.paired.cells(model, of, name) for of in (defense, BARE)]
            if all(cells and isinstance(cells[0].attack_spec, Direct) for cells in places):
                return name
        return None

    def _hidden(self, model: str, defense: str, attack: str, direct: str) -> Change | None:
        """The gain under the direct attack minus that in the worst case, on their common images."""
        places = [
            (model, defense, direct),
            (model, BARE, attack),
            (model, BARE, direct),
            (model, defense, attack),
        ]
        images = self.paired.common(places)
        parts = [self.paired.right(*place, images) for place in places]
        both = _joined(*parts)
        return None if both is None else _change(both[:2], both[2:])


def _change(more: Sequence[Right], less: Sequence[Right]) -> Change:
    """See `tasks.evaluation.verdicts.change`; cached, since its interval takes half a second."""
    code = [*STATISTICS, Path(verdicts.__file__)]
    numbers = kept_numbers(code, [more, less], lambda: astuple(change(more, less)))
    points, low, high, images = numbers
    return Change(points, low, high, int(images))


def _joined(*places: Mapping[int, Right]) -> list[Right] | None:
    """The answers of several places with their common seeds side by side; None without any.

    Answers of several trainings for one image are not independent evidence, so they become one
    mean.
    """
    seeds = sorted(set.intersection(*(set(place) for place in places)))
    if not any(len(places[0][seed]) for seed in seeds):
        return None
    # rows correspond, since all seeds share the order of the test set
    return [np.hstack([place[seed] for seed in seeds]) for place in places]

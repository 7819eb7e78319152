"""Does it hold? The verdict of each defense on each network that was attacked adaptively.

A row is about the images of one adaptive attack, that of a network's with the most candidates.
Rates are in percent, changes in points.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import astuple, dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Literal

import numpy as np

from pipeline.catalogue.claims import Claim
from pipeline.grid.cells import Cell, Grid
from pipeline.report.answers import STATISTICS
from pipeline.report.cache import kept_numbers
from pipeline.report.scores import NOT_COMPUTED, Scores, number
from pipeline.report.views.adaptive import Rate, RobustnessReader
from pipeline.report.views.costs import Cost
from pipeline.report.views.paired import Images, Paired, Right
from tasks.attacks.base import CompoundAttack
from tasks.attacks.direct import Direct
from tasks.defenses.flip_crop import FlipCrop
from tasks.evaluation import verdicts
from tasks.evaluation.costs import prediction_passes
from tasks.evaluation.verdicts import Change, DefenseVerdict, change, judged

BARE = "none"
Conclusion = Literal["holds", "does not hold", "cannot tell"]


@dataclass(frozen=True, kw_only=True)
class VerdictRow:
    """What one defense is worth on one network.

    attack: the adaptive attack, of so many `candidates`, in the ball of `norm` and `epsilon`;
    worst: what it leaves; without: what it leaves the bare network with the same budget; gain:
    their difference. clean, clean_change: without an attack, and that beside the bare network;
    replayed: under the oblivious attack `replayed_attack` that leaves the defense the least.
    control: the flips and crops that cost as much, over_control: how much more the defense is
    left with than they are. hidden: how far the gain under an attack straight from the image, with
    nothing else to choose from, exceeds the worst case's. acts_on, acts_on_clean: of the answers in
    the worst case, and about clean images, those that the bare network would not have given, of the
    first seed. is_control: whether the row is one of flips and crops itself. computed: False where
    nothing of it was, or of the bare network, and nothing failed.
    """

    model: str
    defense: str
    dataset: str
    attack: str
    norm: str
    epsilon: float
    candidates: int
    verdict: DefenseVerdict
    images: int = 0
    worst: Rate | None = None
    without: Rate | None = None
    gain: Change | None = None
    clean: Rate | None = None
    clean_change: Change | None = None
    replayed: Rate | None = None
    replayed_attack: str | None = None
    control: str | None = None
    over_control: Change | None = None
    hidden: Change | None = None
    acts_on: float | None = None
    acts_on_clean: float | None = None
    cost: Cost | None = None
    claims: Sequence[Claim] = ()
    is_control: bool = False
    computed: bool = True

    def facts(self) -> dict[str, object]:
        """All of it as plain values, unrounded, each number in a column of its own."""
        claim = self.claims[0] if self.claims else None
        found: dict[str, object] = {
            "model": self.model,
            "defense": self.defense,
            "dataset": self.dataset,
            "attack": self.attack,
            "norm": self.norm,
            "epsilon": self.epsilon,
            "images": self.images,
            "candidates": self.candidates,
            "verdict": self.verdict.word,
            "why": self.verdict.why or None,
            "images_needed": self.verdict.needed,
            "replayed_attack": self.replayed_attack,
            "control": self.control,
            "hides_gradients": None if self.hidden is None else self.hides_gradients,
        }
        for name in ("worst", "without", "clean", "replayed"):
            rate: Rate | None = getattr(self, name)
            low, high = (rate.interval if rate else None) or (None, None)
            found |= {name: rate and rate.accuracy, f"{name}_low": low, f"{name}_high": high}
        for name in ("gain", "clean_change", "over_control", "hidden"):
            each: Change | None = getattr(self, name)
            found |= {
                name: each and each.points,
                f"{name}_low": each and each.low,
                f"{name}_high": each and each.high,
            }
        return found | {
            "forwards": self.cost and self.cost.forwards,
            "backwards": self.cost and self.cost.backwards,
            "milliseconds": self.cost and self.cost.milliseconds,
            "acts_on": self.acts_on,
            "acts_on_clean": self.acts_on_clean,
            "claimed_before": claim and claim.before,
            "claimed_after": claim and claim.after,
            "claimed_attacked": claim and claim.attacked,
        }

    @property
    def hides_gradients(self) -> bool:
        """Whether a direct attack leaves a gain that the others take away, beyond chance."""
        return self.hidden is not None and self.hidden.rises

    @property
    def costs_accuracy(self) -> bool:
        """Whether fewer clean images are right than without it, beyond chance."""
        return self.clean_change is not None and self.clean_change.falls

    @property
    def beats_control(self) -> bool | None:
        """Whether it is left with more than flips and crops are; None without these."""
        return None if self.over_control is None else self.over_control.rises


def verdict_rows(grid: Grid, scores: Scores) -> list[VerdictRow]:
    """A row for each defense on each network; networks in the grid's order, by the worst case.

    Highest first, the bare network's among them; those that nothing is known of come last.
    """
    reader = _Reader(Paired(grid, scores))
    rows = list(reader.rows())
    order = {cell.model: place for place, cell in enumerate(reversed(grid.cells))}

    def key(row: VerdictRow) -> tuple[object, ...]:
        worst = -1.0 if row.worst is None else row.worst.accuracy
        return -order[row.model], row.epsilon, -worst

    return sorted(rows, key=key)


def conclusion(rows: Sequence[VerdictRow]) -> Conclusion:
    """The answer about one defense from its verdicts on several networks.

    It does not hold where it harms or gains nothing on any of them, and holds where it does on
    all that tell anything: a bare network that has fallen does not. All else cannot be told.
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
        """The adaptive attacks on each network by its name, the norm and the epsilon."""
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
        """Every attack of the grid, in its order."""
        return tuple(dict.fromkeys(cell.attack for cell in self.paired.grid.cells))

    def rows(self) -> Iterator[VerdictRow]:
        for (model, norm, epsilon), attacks in self._attacks.items():
            defenses = dict.fromkeys(
                cell.defense
                for cell in self.paired.grid.cells
                if cell.model == model and cell.attack in attacks
            )
            for defense in defenses:
                attack = self._deciding(model, defense, attacks)
                if attack is not None:
                    yield self._row(model, defense, attack, attacks, norm, epsilon)

    def _deciding(self, model: str, defense: str, attacks: Sequence[str]) -> str | None:
        """The attack with the most candidates, of those that are scored if any is.

        One that has nothing to choose from decides only where it is alone.
        """
        found = [name for name in attacks if self.paired.cells(model, defense, name)]
        several = [name for name in found if self._candidates(model, defense, name) > 1]
        known = several or found
        scored = [
            name
            for name in known
            if self.paired.images(model, defense, name) and self.paired.images(model, BARE, name)
        ]
        # of equals the last: grids name the larger budget after the smaller
        chosen = reversed(scored or known)
        return max(chosen, key=lambda name: self._candidates(model, defense, name), default=None)

    def _candidates(self, model: str, defense: str, attack: str) -> int:
        return candidates(self.paired.cells(model, defense, attack)[0])

    def _row(
        self,
        model: str,
        defense: str,
        attack: str,
        attacks: Sequence[str],
        norm: str,
        epsilon: float,
    ) -> VerdictRow:
        cell = self.paired.cells(model, defense, attack)[0]
        row = VerdictRow(
            model=model,
            defense=defense,
            dataset=cell.dataset,
            attack=attack,
            norm=norm,
            epsilon=epsilon,
            candidates=candidates(cell),
            verdict=DefenseVerdict("cannot tell", self._absent(model, defense, attack)),
            claims=self.paired.scores.claims.get(defense, ()),
            is_control=isinstance(cell.defense_spec, FlipCrop),
            computed=self._computed(model, defense, attack),
        )
        images = self.paired.images(model, defense, attack)
        read = RobustnessReader(self._others, self.paired)
        left, bare = read.row(model, defense, attack), read.left(model, BARE, attack, images)
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
            return row
        control = self._control(cell)
        direct = self._direct(model, defense, attacks)
        return replace(
            row,
            without=bare,
            gain=gain,
            verdict=judged(
                gain,
                bare=bare.accuracy,
                candidates=row.candidates,
                failed=self._failed(model, defense, attack),
            ),
            control=control,
            over_control=None
            if control is None
            else self._change((model, defense, attack), (model, control, attack), images),
            hidden=None if direct is None else self._hidden(model, defense, attack, direct),
        )

    def _acts_on(self, model: str, defense: str, attack: str | None) -> float | None:
        for cell in self.paired.cells(model, defense, attack or "")[:1]:
            return number(self.paired.scores.facts.get(cell.name, {}), "acts_on")
        return None

    def _absent(self, model: str, defense: str, attack: str) -> str:
        """Why there is nothing to judge, in one line."""
        for of in (defense, BARE):
            cells = self.paired.cells(model, of, attack)
            if not cells:
                return f"`{of}` is not among the cells of {attack}"
            for cell in cells:
                if reason := self.paired.scores.reason(cell.name):
                    return f"{cell.name}: {reason}"
        return "its answers image by image are not in the store"

    def _computed(self, model: str, defense: str, attack: str) -> bool:
        """Whether there is something to judge, or something went wrong."""
        cells = [cell for of in (defense, BARE) for cell in self.paired.cells(model, of, attack)]
        return all(self.paired.scores.reason(cell.name) != NOT_COMPUTED for cell in cells)

    def _failed(self, model: str, defense: str, attack: str) -> str | None:
        """What a failed card says, the defended model's or the bare one's."""
        for of in (defense, BARE):
            for cell in self.paired.cells(model, of, attack):
                card = self.paired.scores.cards.get(cell.name)
                if card is not None and card.verdict == "fail":
                    return card.complaint()
        return None

    def _change(
        self, more: tuple[str, str, str | None], less: tuple[str, str, str | None], images: Images
    ) -> Change | None:
        """Of two places, over the seeds that both have."""
        (model, defense, attack), (_, other, against) = more, less
        if attack is None or against is None:
            return None
        first = self.paired.right(model, defense, attack, images)
        second = self.paired.right(model, other, against, images)
        both = _joined(first, second)
        return None if both is None else _change([both[0]], [both[1]])

    def _control(self, cell: Cell) -> str | None:
        """The flips and crops that cost as many passes as a prediction of the cell's defense."""
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
        """The attack straight from the image, on the defense and on the bare network."""
        for name in attacks:
            places = [self.paired.cells(model, of, name) for of in (defense, BARE)]
            if all(cells and isinstance(cells[0].attack_spec, Direct) for cells in places):
                return name
        return None

    def _hidden(self, model: str, defense: str, attack: str, direct: str) -> Change | None:
        """The gain under the direct attack less that in the worst case, on the former's images."""
        images = self.paired.images(model, defense, direct)
        parts = [
            self.paired.right(model, of, name, images)
            for of, name in (
                (defense, direct),
                (BARE, attack),
                (BARE, direct),
                (defense, attack),
            )
        ]
        both = _joined(*parts)
        return None if both is None else _change(both[:2], both[2:])


def _change(more: Sequence[Right], less: Sequence[Right]) -> Change:
    """See `tasks.evaluation.verdicts.change`; its interval takes half a second."""
    code = [*STATISTICS, Path(verdicts.__file__)]
    numbers = kept_numbers(code, [more, less], lambda: astuple(change(more, less)))
    points, low, high, images = numbers
    return Change(points, low, high, int(images))


def candidates(cell: Cell) -> int:
    """From how many candidates a cell's attack chooses for an image."""
    spec = cell.attack_spec
    if not isinstance(spec, CompoundAttack):
        return 1
    return len(spec.transfers()) + len(spec.tries(cell.defense_spec))


def _joined(*places: Mapping[int, Right]) -> list[Right] | None:
    """The answers of each place, its seeds beside one another; None without a seed in common.

    An image's answers of several trainings are no independent evidence, so they are one mean.
    """
    seeds = sorted(set.intersection(*(set(place) for place in places)))
    if not seeds:
        return None
    # the n-th image of each seed is the same one: a test set has one order
    return [np.hstack([place[seed] for seed in seeds]) for place in places]

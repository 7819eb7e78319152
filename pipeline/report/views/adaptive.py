"""Robustness of a defense: its replayed, its adaptive and its worst accuracy, and its cost.

All of it is about the same images, those that the adaptive attack was made on, so that the
columns compare. Rates are in percent.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean

import numpy as np
from numpy.typing import NDArray

from pipeline.grid.cells import Cell, Grid
from pipeline.report.answers import Answers, NotTested
from pipeline.report.scores import Scores, number
from pipeline.report.views.table import View
from pipeline.store.candidates import Candidate, candidates_in
from tasks.evaluation.statistics import wilson_interval

Shares = NDArray[np.float64]


@dataclass(frozen=True)
class Rate:
    """An accuracy over images; its interval is None where several seeds are averaged."""

    accuracy: float
    interval: tuple[float, float] | None


@dataclass(frozen=True)
class Cost:
    """Of one prediction for one image: passes through the network, and milliseconds.

    times_bare: the milliseconds as a multiple of the bare model's in the same table; None
    without it.
    """

    forwards: float
    backwards: float
    milliseconds: float
    times_bare: float | None = None


@dataclass(frozen=True)
class Robustness:
    """Robustness of one defended model under one adaptive attack.

    clean: without an attack; bare: the undefended model under `bare_attack`, the replayed attack
    that leaves it the least, so the same for all defenses of a model; oblivious: the defended one
    under `replayed`, the replayed attack that leaves the defended one the least; worst: every
    image under whichever attack of the table breaks it most. Of a randomised defense that is
    chosen by the same redraws that are counted, so chance alone lowers it. candidates: what the
    adaptive attack tried, from cheap to dear, of the first seed.
    """

    model: str
    defense: str
    adaptive_attack: str
    images: int
    adaptive: Rate
    worst: Rate
    clean: Rate | None = None
    replayed: str | None = None
    oblivious: Rate | None = None
    bare: Rate | None = None
    bare_attack: str | None = None
    cost: Cost | None = None
    candidates: Sequence[Candidate] = ()


def robustness_rows(view: View, grid: Grid, scores: Scores) -> list[Robustness]:
    """A row for each defended model of a table, and for each adaptive attack on it."""
    cells: dict[tuple[str, str, str], list[Cell]] = {}
    for cell in grid.cells:
        cells.setdefault((cell.model, cell.defense, cell.attack), []).append(cell)
    compound = {cell.attack for cell in grid.cells if cell.attack_spec.compound}
    adaptive = [attack for attack in view.attacks if attack in compound]
    reader = _Reader(view, cells, scores)
    rows = (reader.row(row.model, row.defense, attack) for attack in adaptive for row in view.rows)
    return [row for row in rows if row is not None]


@dataclass(frozen=True)
class _Reader:
    view: View
    cells: Mapping[tuple[str, str, str], Sequence[Cell]]
    scores: Scores

    def row(self, model: str, defense: str, attack: str) -> Robustness | None:
        """A row; None where the adaptive cell has no answers."""
        known = self._answers(model, defense, attack)
        if not known:
            return None
        images = {seed: answers.ids for seed, answers in known.items()}
        shares = {other: self._shares(model, defense, other, images) for other in self.view.attacks}
        shares = {other: by_seed for other, by_seed in shares.items() if by_seed}
        replayed = self._replayed(model, defense, shares)
        count = len(next(iter(images.values())))
        clean = [other for other in shares if self._is_clean(model, defense, other)]
        undefended = {
            other: self._shares(model, "none", other, images) for other in self.view.attacks
        }
        undefended = {other: by_seed for other, by_seed in undefended.items() if by_seed}
        bare = self._replayed(model, "none", undefended)
        return Robustness(
            model=model,
            defense=defense,
            adaptive_attack=attack,
            images=count,
            adaptive=_rate(shares[attack]),
            worst=_rate(_lowest(list(shares.values()))),
            clean=_rate(shares[clean[0]]) if clean else None,
            replayed=replayed,
            oblivious=_rate(shares[replayed]) if replayed else None,
            bare=_rate(undefended[bare]) if bare else None,
            bare_attack=bare,
            cost=self._cost(model, defense, attack),
            candidates=self._candidates(model, defense, attack),
        )

    def _candidates(self, model: str, defense: str, attack: str) -> list[Candidate]:
        first = self.cells[model, defense, attack][0]
        return candidates_in(self.scores.facts.get(first.name, {}))

    def _replayed(
        self, model: str, defense: str, shares: Mapping[str, Mapping[int, Shares]]
    ) -> str | None:
        """The oblivious attack that leaves least."""
        candidates = [
            attack
            for attack in shares
            for cell in self.cells[model, defense, attack][:1]
            if cell.attack_spec.crafts and not cell.attack_spec.compound
        ]
        return min(candidates, key=lambda attack: _rate(shares[attack]).accuracy, default=None)

    def _is_clean(self, model: str, defense: str, attack: str) -> bool:
        return not self.cells[model, defense, attack][0].attack_spec.crafts

    def _answers(self, model: str, defense: str, attack: str) -> dict[int, Answers]:
        """By seed."""
        found: dict[int, Answers] = {}
        for cell in self.cells.get((model, defense, attack), ()):
            if self.scores.per_image is None or self.scores.accuracy(cell.name) is None:
                continue
            try:
                found[cell.seed] = self.scores.per_image.answers(cell.name)
            except NotTested:
                continue
        return found

    def _shares(
        self, model: str, defense: str, attack: str, images: Mapping[int, NDArray[np.int64]]
    ) -> dict[int, Shares]:
        """By seed, the shares of right redraws of these images; no seed that lacks one of them."""
        found = {}
        for seed, answers in self._answers(model, defense, attack).items():
            wanted = images.get(seed)
            if wanted is not None and np.isin(wanted, answers.ids).all():
                rows = np.searchsorted(answers.ids, wanted)
                found[seed] = answers.right[rows].mean(axis=1, dtype=np.float64)
        return found

    def _cost(self, model: str, defense: str, attack: str) -> Cost | None:
        own = self._spent(model, defense, attack)
        bare = self._spent(model, "none", attack)
        if own is None or bare is None or not bare.milliseconds:
            return own
        return Cost(
            own.forwards, own.backwards, own.milliseconds, own.milliseconds / bare.milliseconds
        )

    def _spent(self, model: str, defense: str, attack: str) -> Cost | None:
        for cell in self.cells.get((model, defense, attack), ())[:1]:
            facts = self.scores.facts.get(cell.name, {})
            found = [
                number(facts, f"{what}_per_prediction")
                for what in ("forwards", "backwards", "seconds")
            ]
            if None not in found:
                forwards, backwards, seconds = (float(value or 0.0) for value in found)
                return Cost(forwards, backwards, 1000 * seconds)
        return None


def _lowest(attacks: Sequence[Mapping[int, Shares]]) -> dict[int, Shares]:
    """By seed, each image's share under the attack that breaks it most."""
    seeds = set.intersection(*(set(by_seed) for by_seed in attacks))
    return {
        seed: np.minimum.reduce([by_seed[seed] for by_seed in attacks]) for seed in sorted(seeds)
    }


def _rate(by_seed: Mapping[int, Shares]) -> Rate:
    accuracies = [float(shares.mean()) for shares in by_seed.values()]
    interval = None
    if len(accuracies) == 1:
        (shares,) = by_seed.values()
        low, high = wilson_interval(float(shares.sum()), len(shares))
        interval = (100 * low, 100 * high)
    return Rate(100 * fmean(accuracies), interval)

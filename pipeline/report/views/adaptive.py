"""Robustness of defenses: accuracy under transferred, adaptive and all attacks, and cost.

All columns are about the same images, those of the adaptive attack, so that they are comparable.
Rates are in percent.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import reduce
from statistics import fmean

import numpy as np
from numpy.typing import NDArray

from pipeline.grid.cells import Ball, Cell, Grid
from pipeline.report.scores import Scores
from pipeline.report.views.costs import Cost
from pipeline.report.views.paired import Images, Paired
from pipeline.report.views.table import View
from pipeline.store.candidates import Candidate, candidates_in
from tasks.evaluation.statistics import wilson_interval

Shares = NDArray[np.float64]


@dataclass(frozen=True)
class Rate:
    """An accuracy; the interval is None if it is averaged over several seeds."""

    accuracy: float
    interval: tuple[float, float] | None


@dataclass(frozen=True)
class Doubling:
    """The effect of doubling a gradient ascent's steps and draws, measured by the integrity card.

    Attributes:
        points: How much lower the accuracy becomes.
        images: Number of images that it was measured on.
        budget, larger: Descriptions of the two budgets.
    """

    points: float
    images: int
    budget: str
    larger: str


@dataclass(frozen=True)
class Robustness:
    """Robustness of one defended model under one adaptive attack.

    Attributes:
        adaptive: Accuracy under the adaptive attack.
        all_attacks: Accuracy if each image meets the attack of the table that is most successful on
            it, of those whose examples lie in the ball of the adaptive attack, as for the
            transferred attacks below. For a randomised defense the attack is chosen by the same
            redraws that are counted, so chance alone lowers this value.
        clean: Accuracy without an attack, from the column `clean_attack`.
        replayed: The transferred attack that leaves the defended model the lowest accuracy.
        oblivious: The accuracy under `replayed`.
        bare: Accuracy of the undefended model under `bare_attack`, the transferred attack that is
            strongest against it; the same for all defenses of a model.
        candidates: Candidates of the adaptive attack, cheapest first, for the first seed.
        doubling: For the first seed; None if the card's budget did not allow it.
    """

    model: str
    defense: str
    adaptive_attack: str
    images: int
    adaptive: Rate
    all_attacks: Rate
    clean: Rate | None = None
    clean_attack: str | None = None
    replayed: str | None = None
    oblivious: Rate | None = None
    bare: Rate | None = None
    bare_attack: str | None = None
    cost: Cost | None = None
    candidates: Sequence[Candidate] = ()
    doubling: Doubling | None = None


def robustness_rows(view: View, grid: Grid, scores: Scores) -> list[Robustness]:
    """A row for each adaptive attack on each defended model of a table."""
    compound = {cell.attack for cell in grid.cells if cell.attack_spec.compound}
    adaptive = [attack for attack in view.attacks if attack in compound]
    reader = RobustnessReader(view.attacks, Paired(grid, scores))
    rows = (reader.row(row.model, row.defense, attack) for attack in adaptive for row in view.rows)
    return [row for row in rows if row is not None]


def under_all_attacks(grid: Grid, scores: Scores) -> dict[str, Rate]:
    """Accuracy of each cell's model and defense under all attacks of the cell's ball, by cell name.

    Each image counts under the attack that is most successful on it. Only images that all of these
    attacks were made on, and only models that were attacked, are included. A cell without an attack
    is included if all attacks on its model and defense are of one ball. For randomised defenses see
    the note in `Robustness`.
    """
    attacks = tuple(dict.fromkeys(cell.attack for cell in grid.cells))
    reader = RobustnessReader(attacks, Paired(grid, scores))
    rates: dict[tuple[str, str], dict[Ball | None, Rate | None]] = {}
    for cell in grid.cells:
        if cell.attack_spec.crafts:
            balls = rates.setdefault((cell.model, cell.defense), {})
            if cell.ball not in balls:
                balls[cell.ball] = reader.under_all(cell)
    found = {}
    for cell in grid.cells:
        balls = rates.get((cell.model, cell.defense), {})
        only = next(iter(balls.values())) if len(balls) == 1 else None
        found[cell.name] = balls.get(cell.ball) if cell.attack_spec.crafts else only
    return {name: rate for name, rate in found.items() if rate is not None}


@dataclass(frozen=True)
class RobustnessReader:
    """Computes the robustness of defended models under the given attacks."""

    attacks: Sequence[str]
    paired: Paired

    def row(
        self, model: str, defense: str, attack: str, images: Images | None = None
    ) -> Robustness | None:
        """A row; None if there are no answers of the adaptive cell.

        images: those of the seeds to include; all of the adaptive cell's by default.
        """
        if images is None:
            images = self.paired.images(model, defense, attack)
        if not images:
            return None
        shares = self._in_the_ball(model, defense, attack, images)
        replayed = self._replayed(model, defense, shares)
        count = len(next(iter(images.values())))
        clean = [other for other in shares if self._is_clean(model, defense, other)]
        undefended = self._in_the_ball(model, "none", attack, images, of=defense)
        bare = self._replayed(model, "none", undefended)
        return Robustness(
            model=model,
            defense=defense,
            adaptive_attack=attack,
            images=count,
            adaptive=rate(shares[attack]),
            all_attacks=rate(_lowest(list(shares.values()))),
            clean=rate(shares[clean[0]]) if clean else None,
            clean_attack=clean[0] if clean else None,
            replayed=replayed,
            oblivious=rate(shares[replayed]) if replayed else None,
            bare=rate(undefended[bare]) if bare else None,
            bare_attack=bare,
            cost=self.paired.costs.get(self.paired.cells(model, defense, attack)[0].name),
            candidates=self._candidates(model, defense, attack),
            doubling=self._doubling(model, defense, attack),
        )

    def clean_and_replayed(
        self, model: str, defense: str, attack: str, images: Images
    ) -> tuple[str | None, str | None]:
        """The clean column, and the strongest transferred attack in the ball of `attack`.

        For a defense without an adaptive cell; the cell of the bare network states the ball.
        """
        shares = self._in_the_ball(model, defense, attack, images, of="none")
        clean = [other for other in shares if self._is_clean(model, defense, other)]
        return (clean[0] if clean else None), self._replayed(model, defense, shares)

    def _in_the_ball(
        self, model: str, defense: str, attack: str, images: Images, *, of: str | None = None
    ) -> dict[str, dict[int, Shares]]:
        """Shares under each attack whose examples lie in the ball of `attack`.

        of: the defense whose cell states the ball, `defense` by default.
        """
        ball = self.paired.cells(model, of or defense, attack)[0]
        found = {}
        for other in self.attacks:
            cells = self.paired.cells(model, defense, other)
            if cells and cells[0].in_ball_of(ball):
                found[other] = self._shares(model, defense, other, images)
        return {other: by_seed for other, by_seed in found.items() if by_seed}

    def under_all(self, cell: Cell) -> Rate | None:
        """See `under_all_attacks`; None if no attack in the cell's ball is scored."""
        model, defense = cell.model, cell.defense
        asked = {
            attack: self.paired.images(model, defense, attack)
            for attack in self.attacks
            for other in self.paired.cells(model, defense, attack)[:1]
            if other.in_ball_of(cell)
        }
        asked = {attack: images for attack, images in asked.items() if images}
        if all(self._is_clean(model, defense, attack) for attack in asked):
            return None
        seeds = set.intersection(*(set(images) for images in asked.values()))
        common = {
            seed: reduce(np.intersect1d, [images[seed] for images in asked.values()])
            for seed in sorted(seeds)
        }
        shares = [self._shares(model, defense, attack, common) for attack in asked]
        lowest = _lowest(shares)
        return rate(lowest) if lowest and all(map(len, lowest.values())) else None

    def _candidates(self, model: str, defense: str, attack: str) -> list[Candidate]:
        first = self.paired.cells(model, defense, attack)[0]
        return candidates_in(self.paired.scores.facts.get(first.name, {}))

    def _doubling(self, model: str, defense: str, attack: str) -> Doubling | None:
        first = self.paired.cells(model, defense, attack)[0]
        card = self.paired.scores.cards.get(first.name)
        if card is None or card.attack is None:
            return None
        for finding in card.model:
            if finding.check == "convergence" and len(finding.measured) == 2:
                (budget, before), (larger, after) = finding.measured.items()
                return Doubling(before - after, card.images, budget, larger)
        return None

    def _replayed(
        self, model: str, defense: str, shares: Mapping[str, Mapping[int, Shares]]
    ) -> str | None:
        """The transferred attack with the lowest accuracy."""
        candidates = [
            attack
            for attack in shares
            for cell in self.paired.cells(model, defense, attack)[:1]
            if cell.attack_spec.crafts and not cell.attack_spec.compound
        ]
        return min(candidates, key=lambda attack: rate(shares[attack]).accuracy, default=None)

    def _is_clean(self, model: str, defense: str, attack: str) -> bool:
        return not self.paired.cells(model, defense, attack)[0].attack_spec.crafts

    def left(self, model: str, defense: str, attack: str, images: Images) -> Rate | None:
        """Accuracy under an attack on the given images; None if there are no answers about them."""
        shares = self._shares(model, defense, attack, images)
        return rate(shares) if shares else None

    def _shares(self, model: str, defense: str, attack: str, images: Images) -> dict[int, Shares]:
        """Share of right redraws of each image, by seed; without seeds that lack an image."""
        right = self.paired.right(model, defense, attack, images)
        return {seed: each.mean(axis=1, dtype=np.float64) for seed, each in right.items()}


def _lowest(attacks: Sequence[Mapping[int, Shares]]) -> dict[int, Shares]:
    """Share of each image under the attack that is most successful on it, by seed."""
    seeds = set.intersection(*(set(by_seed) for by_seed in attacks))
    return {
        seed: np.minimum.reduce([by_seed[seed] for by_seed in attacks]) for seed in sorted(seeds)
    }


def rate(by_seed: Mapping[int, Shares]) -> Rate:
    """Mean accuracy from the images' shares of right redraws, by seed."""
    accuracies = [float(shares.mean()) for shares in by_seed.values()]
    interval = None
    if len(accuracies) == 1:
        (shares,) = by_seed.values()
        low, high = wilson_interval(float(shares.sum()), len(shares))
        interval = (100 * low, 100 * high)
    return Rate(100 * fmean(accuracies), interval)

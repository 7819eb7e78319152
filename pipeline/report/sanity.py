"""Sanity checks: models and attacks in a grid whose results are implausible or inconsistent.

Based on scores and on what was observed during attacks and predictions (`tasks.evaluation.seen`);
nothing is computed for them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np

from pipeline.grid.cells import Cell
from pipeline.grid.graph import Node
from pipeline.report.answers import Answers, NotTested, PerImage
from pipeline.report.facts import Facts, number
from tasks.defenses.none import NoDefense
from tasks.evaluation.verdicts import FEWEST_CANDIDATES
from tasks.integrity import sanity
from tasks.integrity.findings import Finding
from tasks.integrity.stored import adaptive_not_above

Key = tuple[str, int]
"""Model and seed."""


@dataclass(frozen=True)
class Doubt:
    """A finding that did not pass, about a model or, if named, an attack on it or on a defense."""

    model: str
    seed: int
    attack: str | None
    finding: Finding
    defense: str | None = None

    @property
    def line(self) -> str:
        """`model/attack/defense: check: finding`, in one line."""
        parts = [self.model, self.attack, self.defense, f"seed{self.seed}" if self.seed else None]
        return f"{'/'.join(filter(None, parts))}: {self.finding.line}"


@dataclass
class Sanity:
    """Findings about the models and attacks of some cells; each is computed once.

    Attributes:
        facts: Facts of the scores, by cell name.
        scores: Score nodes, by cell name.
        facts_of: Facts of a training; empty if it is not in the store.
        answers: Per-image answers, if available.
    """

    cells: Sequence[Cell]
    facts: Mapping[str, Facts]
    scores: Mapping[str, Node]
    facts_of: Callable[[Node], Facts]
    answers: PerImage | None = None
    _models: dict[Key, tuple[Finding, ...]] = field(default_factory=dict)
    _attacks: dict[tuple[Key, str], tuple[Finding, ...]] = field(default_factory=dict)

    def of(self, cell: Cell) -> tuple[Finding, ...]:
        """Findings about a cell's model and, if it has one, its attack."""
        about = self._about_model((cell.model, cell.seed))
        if not cell.attack_spec.crafts:
            return about
        attacked = self._about_attack((cell.model, cell.seed), cell.attack)
        return (*about, *attacked, *self._beside_others(cell))

    def doubts(self) -> tuple[Doubt, ...]:
        """Findings that did not pass: of each model, followed by those of the attacks on it.

        Last come its defenses that another attack breaks more often than the adaptive one.
        """
        found: list[Doubt] = []
        for key, cells in self._by_model.items():
            found += [Doubt(*key, None, finding) for finding in self._about_model(key)]
            attacks = dict.fromkeys(cell.attack for cell in cells if cell.attack_spec.crafts)
            found += [
                Doubt(*key, attack, finding)
                for attack in attacks
                for finding in self._about_attack(key, attack)
            ]
            found += [
                Doubt(*key, cell.attack, finding, cell.defense)
                for cell in cells
                for finding in self._beside_others(cell)
            ]
        return tuple(doubt for doubt in found if doubt.finding.verdict in {"warn", "fail"})

    @cached_property
    def _by_model(self) -> dict[Key, list[Cell]]:
        cells: dict[Key, list[Cell]] = {}
        for cell in self.cells:
            cells.setdefault((cell.model, cell.seed), []).append(cell)
        return cells

    def _about_model(self, key: Key) -> tuple[Finding, ...]:
        if key not in self._models:
            found = [*self._clean(key), self._outputs(key)]
            self._models[key] = tuple(each for each in found if each.verdict != "skipped")
        return self._models[key]

    def _about_attack(self, key: Key, attack: str) -> tuple[Finding, ...]:
        if (key, attack) not in self._attacks:
            found = [self._gradients(key, attack), *self._breaks(key, attack)]
            known = tuple(each for each in found if each.verdict != "skipped")
            self._attacks[key, attack] = known
        return self._attacks[key, attack]

    def _beside_others(self, cell: Cell) -> Iterator[Finding]:
        """The most severe comparison of an adaptive cell with another attack, on common images.

        An attack with a single candidate is only compared with, as no verdict is based on it.
        """
        own = self._answers(cell)
        if own is None or cell.candidates < FEWEST_CANDIDATES:
            return
        found = []
        for other in self._by_model[cell.model, cell.seed]:
            theirs = self._answers(other) if _comparable(cell, other) else None
            if theirs is not None:
                common, places, others = np.intersect1d(own.ids, theirs.ids, return_indices=True)
                if len(common):
                    right = own.right[places], theirs.right[others]
                    found.append(adaptive_not_above(*right, other.attack))
        if found:
            yield max(found, key=_severity)

    def _answers(self, cell: Cell) -> Answers | None:
        if self.answers is None or cell.name not in self.facts:
            return None
        try:
            return self.answers.answers(cell.name)
        except NotTested:
            return None

    def _clean(self, key: Key) -> Iterator[Finding]:
        """Clean accuracy of the undefended model, or else of the defense with the highest one."""
        cell = self._clean_cell(key)
        if cell is None:
            return
        facts = self.facts[cell.name]
        images = int(number(facts, "images") or cell.images)
        right = (number(facts, "accuracy") or 0.0) * images / 100
        published = trained = None
        if isinstance(cell.defense_spec, NoDefense):
            right = round(right)
            published, trained = cell.published_accuracy, self._trained(cell)
        yield sanity.clean_accuracy(
            right,
            images,
            chance=self._chance(cell),
            published=published,
            trained=trained,
        )

    def _clean_cell(self, key: Key) -> Cell | None:
        clean = [
            cell
            for cell in self._by_model[key]
            if not cell.attack_spec.crafts
            and number(self.facts.get(cell.name, {}), "accuracy") is not None
        ]
        bare = [cell for cell in clean if isinstance(cell.defense_spec, NoDefense)]
        return max(
            bare or clean,
            key=lambda cell: number(self.facts[cell.name], "accuracy") or 0.0,
            default=None,
        )

    def _chance(self, cell: Cell) -> float:
        """The share of the most frequent class among the cell's images, in percent."""
        chance = 1 / cell.dataset_spec.classes
        answers = self._answers(cell)
        if answers is not None:
            chance = max(chance, float(np.bincount(answers.labels).max()) / len(answers.labels))
        return 100 * chance

    def _trained(self, cell: Cell) -> float | None:
        """Accuracy at the end of the training, in percent; None for a checkpoint."""
        model = self.scores[cell.name].parent("shard0").parent("model")
        if model.kind != "train":
            return None
        share = number(self.facts_of(model), "accuracy")
        return None if share is None else 100 * share

    def _outputs(self, key: Key) -> Finding:
        """Finding from the first cell whose outputs were observed, preferring undefended ones."""
        cells = [cell for cell in self._by_model[key] if cell.name in self.facts]
        cells.sort(key=lambda cell: not isinstance(cell.defense_spec, NoDefense))
        for cell in cells:
            seen = sanity.counted(self.facts[cell.name])
            if seen.get("answers"):
                return sanity.outputs(seen)
        return sanity.outputs({})

    def _gradients(self, key: Key, attack: str) -> Finding:
        """Finding about the gradients of the attack on the bare model."""
        for cell in self._by_model[key]:
            if cell.attack != attack or cell.attack_spec.compound or cell.name not in self.facts:
                continue
            seen = sanity.counted(self.facts[cell.name])
            if seen.get("gradients"):
                return sanity.gradients(seen)
        return sanity.gradients({})

    def _breaks(self, key: Key, attack: str) -> Iterator[Finding]:
        clean = self._clean_cell(key)
        if clean is None or not isinstance(clean.defense_spec, NoDefense):
            return
        before = number(self.facts[clean.name], "accuracy")
        for cell in self._by_model[key]:
            left = number(self.facts.get(cell.name, {}), "accuracy")
            bare = cell.attack == attack and isinstance(cell.defense_spec, NoDefense)
            if bare and left is not None and before:
                targeted = bool(getattr(cell.attack_spec, "targeted", False))
                yield sanity.breaks(left, before, targeted=targeted)
                return


def _severity(finding: Finding) -> tuple[int, float]:
    """Order of comparisons: a failure on many images before a larger difference on few."""
    rank = {"fail": 2, "warn": 1}.get(finding.verdict, 0)
    return rank, finding.measured["adaptive"] - finding.measured["other"]


def _comparable(cell: Cell, other: Cell) -> bool:
    """Whether an adaptive cell should leave no more than another cell of its defended model.

    Of adaptive attacks of the same kind, one with at least as many candidates may leave less.
    """
    own, theirs = cell.attack_spec, other.attack_spec
    if not (other.defense == cell.defense and theirs.crafts and other.in_ball_of(cell)):
        return False
    if not theirs.compound:
        return True
    return other.candidates < cell.candidates or type(own) is not type(theirs)

"""Integrity cards of cells: findings about the model, and about the cell's stored answers.

An adaptive cell has a card of its own defended model. Any other cell inherits the card of the bare
model, on which its examples were made.
"""

from __future__ import annotations

from collections.abc import Collection, Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from pipeline.grid.cells import Cell, Grid
from pipeline.grid.graph import Graph, Node
from pipeline.plan.snapshot import Snapshot
from pipeline.report.answers import Answers, NotTested, PerImage
from pipeline.report.sanity import Sanity
from pipeline.store.candidates import candidates_in
from pipeline.store.store import Store
from tasks.evaluation.specs import CardSpec
from tasks.integrity.costs import answer_draws, own_draws
from tasks.integrity.findings import OF_STRENGTH, Finding, Verdict, overall
from tasks.integrity.stored import fallen_stay_wrong, oblivious_steps, scored_again


@dataclass(frozen=True)
class Card:
    """Whether a cell's result can be trusted.

    Attributes:
        of: The examined model, such as `model/defense`.
        images: Number of images that the model was queried about.
        attack: The adaptive attack whose own card this is; None if it is inherited.
        draws: Number of draws that an answer of the card averages.
        own_draws: Number of draws that the defense itself averages.
        model: Findings about the model; empty until they are computed.
        stored: Findings about the cell's stored answers.
    """

    of: str
    images: int
    attack: str | None = None
    draws: int = 1
    own_draws: int = 1
    model: tuple[Finding, ...] = ()
    stored: tuple[Finding, ...] = ()

    @property
    def findings(self) -> tuple[Finding, ...]:
        """All findings."""
        return (*self.model, *self.stored)

    @property
    def draws_words(self) -> str:
        """`5 of 50`, or `50` if the card uses all draws."""
        return f"{self.draws} of {self.own_draws}" if self.few_draws else str(self.own_draws)

    @property
    def few_draws(self) -> bool:
        """Whether the card averages fewer draws than the table, so that its accuracies differ."""
        return self.draws < self.own_draws

    @property
    def examined(self) -> Verdict:
        """The worst verdict of the findings about the model."""
        return overall(self.model)

    @property
    def verdict(self) -> Verdict:
        """The worst verdict of all findings.

        It is `skipped` if the model was not examined and no finding fails.
        """
        found = overall(self.findings)
        return found if self.model or found == "fail" else "skipped"

    @property
    def bounds(self) -> bool:
        """Whether nothing failed but checks of the attack's strength, if anything did.

        The accuracy is then at least an upper bound.
        """
        failed = {finding.check for finding in self.findings if finding.verdict == "fail"}
        return failed <= OF_STRENGTH

    def complaint(self) -> str:
        """The first failure, else the first warning, in one line; empty if there is none."""
        complaints = list(self.not_passed())
        if not complaints:
            return ""
        others = f" (and {len(complaints) - 1} more)" if len(complaints) > 1 else ""
        return f"integrity card of {self.of}: {complaints[0].line}{others}"

    def not_passed(self) -> Iterator[Finding]:
        """The findings that fail, then those that warn."""
        for verdict in ("fail", "warn"):
            yield from (finding for finding in self.findings if finding.verdict == verdict)


@dataclass
class Cards:
    """The integrity cards of a grid, as found in a store; each is assembled once.

    Attributes:
        nodes: Card node of each cell, by cell name.
        facts: Facts of the scores, by cell name.
        sanity: Sanity checks of models and attacks, which are included in each cell's card.
        without: Digests of card nodes whose findings are left out.
    """

    grid: Grid
    nodes: Mapping[str, Node]
    store: Store
    facts: Mapping[str, Mapping[str, object]]
    per_image: PerImage
    sanity: Sanity | None = None
    without: Collection[str] = ()
    _made: dict[str, Card | None] = field(default_factory=dict)
    _found: dict[str, tuple[Finding, ...]] = field(default_factory=dict)
    _stepped: dict[Hashable, Finding | None] = field(default_factory=dict)

    def all(self) -> dict[str, Card]:
        """All cards by cell name."""
        found = {cell.name: self.of(cell.name) for cell in self.grid.cells}
        return {name: card for name, card in found.items() if card is not None}

    def of(self, name: str) -> Card | None:
        """A cell's card; None if its model has none, or the cell has no score."""
        if name not in self._made:
            known = name in self.nodes and name in self.facts
            self._made[name] = self._card(self.grid.cell(name)) if known else None
        return self._made[name]

    def _card(self, cell: Cell) -> Card:
        node = self.nodes[cell.name]
        own = cell.attack_spec.compound
        of = f"{cell.model}/{cell.defense if own else 'none'}"
        of += f"/seed{cell.seed}" if cell.seed else ""
        if node.digest not in self._found:
            out = node.digest in self.without
            self._found[node.digest] = () if out else tuple(findings_of(node, self.store))
        spec = node.spec
        assert isinstance(spec, CardSpec)
        classes = cell.dataset_spec.classes
        return Card(
            of,
            spec.images,
            attack=cell.attack if own else None,
            draws=answer_draws(spec, classes),
            own_draws=own_draws(spec, classes),
            model=self._found[node.digest],
            stored=tuple(self._stored(cell)),
        )

    def _stored(self, cell: Cell) -> Iterator[Finding]:
        if self.sanity is not None:
            yield from self.sanity.of(cell)
        answers = self._answers(cell.name)
        if answers is None:
            return
        yield scored_again(answers.right, self.facts[cell.name])
        if cell.attack_spec.compound:
            yield from self._fallen(cell, answers)
        elif cell.attack_spec.crafts:
            yield from self._by_steps(cell, answers)

    def _fallen(self, cell: Cell, answers: Answers) -> Iterator[Finding]:
        """Comparison of a deterministic model's score with what the attacker saw of it."""
        tried = candidates_in(self.facts[cell.name])
        if cell.deterministic and tried:
            yield fallen_stay_wrong(answers.right, sum(each.broken for each in tried))

    def _by_steps(self, cell: Cell, answers: Answers) -> Iterator[Finding]:
        """Comparison with attacks that differ from the cell's only in the number of steps."""
        if getattr(cell.attack_spec, "steps", None) is None:
            return
        key = (_but_for_steps(cell), answers.ids.tobytes(), answers.labels.tobytes())
        if key not in self._stepped:
            by_steps: dict[int, NDArray[np.bool_]] = {}
            for other in self._variants[_but_for_steps(cell)]:
                steps: int = getattr(other.attack_spec, "steps", 0)
                found = None if steps in by_steps else self._answers(other.name)
                if found is not None and found.same_images(answers):
                    by_steps[steps] = found.right
            self._stepped[key] = oblivious_steps(by_steps) if len(by_steps) > 1 else None
        finding = self._stepped[key]
        if finding is not None:
            yield finding

    @cached_property
    def _variants(self) -> dict[Hashable, list[Cell]]:
        """Cells that differ only in the number of steps of the attack."""
        found: dict[Hashable, list[Cell]] = {}
        for cell in self.grid.cells:
            if getattr(cell.attack_spec, "steps", None) is not None:
                found.setdefault(_but_for_steps(cell), []).append(cell)
        return found

    def _answers(self, name: str) -> Answers | None:
        if name not in self.facts:
            return None
        try:
            return self.per_image.answers(name)
        except NotTested:
            return None


def _but_for_steps(cell: Cell) -> Hashable:
    """Key shared by cells that differ only in the number of steps of the attack."""
    spec = cell.attack_spec.model_copy(update={"steps": 0})
    return cell.model, cell.defense, cell.seed, spec


def findings_of(node: Node, store: Store) -> list[Finding]:
    """Findings of a card node; empty if its artifact is not valid."""
    record = Snapshot(store).standing(node, Graph([node]))
    found = record.facts.get("findings") if record is not None else None
    if not isinstance(found, Sequence):
        return []
    return [Finding.model_validate(each) for each in found]

"""Which results a grid has, and which of them a tracking server was not told of yet."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

from pipeline.grid.cells import Cell, Grid
from pipeline.grid.graph import Graph, Node
from pipeline.grid.nodes import models_behind
from pipeline.observers.tracking.runs import (
    ChildRun,
    Metric,
    score_key,
    score_run,
    train_key,
    train_run,
)
from pipeline.observers.tracking.server import is_web
from pipeline.plan.snapshot import Snapshot
from pipeline.problems.sanitize import page
from pipeline.store.ledger import Ledger
from pipeline.store.store import Record, Store

if TYPE_CHECKING:
    from pipeline.report.cards import Card

WEIGHTS = "weights.safetensors"


@dataclass(frozen=True)
class Trained:
    """A network that a server is to have: a cell that uses it, and the run of its training."""

    cell: Cell
    node: Node
    record: Record
    run_id: str


@dataclass(frozen=True)
class Tagged:
    """What an integrity card says of the cell of a run. `key` names that on any server.

    points: the accuracies that the cell's own card measured, in percent, by epsilon.
    """

    key: str
    run_id: str
    verdict: str
    points: tuple[Metric, ...] = ()


@dataclass(frozen=True)
class Untold:
    """The worst case of a cell's model and defense, in percent; `key` as in `Tagged`."""

    key: str
    run_id: str
    worst: float


@dataclass(frozen=True)
class Results:
    """The scores and trainings of a grid, as the store holds them.

    server: the address that the ledger knows it by. scores: the score node of every cell;
    cards: gives the integrity cards of cells whose models were examined, by the cells' names;
    snapshot: gives one of the store, a new one by default; again: see `score_run`.
    """

    grid: Grid
    scores: Mapping[str, Node]
    store: Store
    ledger: Ledger
    server: str
    cards: Callable[[], Mapping[str, Card]] = dict
    snapshot: Callable[[], Snapshot] | None = None
    again: Sequence[str] = ()

    @cached_property
    def _graph(self) -> Graph:
        return Graph(self.scores.values())

    @cached_property
    def _cells(self) -> dict[str, Cell]:
        return {cell.name: cell for cell in self.grid.cells}

    @cached_property
    def _trained(self) -> dict[str, Cell]:
        """Digest of a training → the first cell whose model it is."""
        cells: dict[str, Cell] = {}
        for cell in self.grid.cells:
            for own, node in self._trainings(cell):
                cells.setdefault(node.digest, own)
        return cells

    def _trainings(self, cell: Cell) -> list[tuple[Cell, Node]]:
        """The trained models behind a cell: its own or, of an ensemble, those of its members."""
        if cell.name not in self.scores:
            return []
        model = self.scores[cell.name].parents[0][1].parent("model")
        return [(own, node) for own, node in models_behind(cell, model) if node.info.trains]

    def standing(self) -> dict[str, Record]:
        """Cell's name → the record of its score, where that counts as there."""
        snapshot = self.snapshot() if self.snapshot is not None else Snapshot(self.store)
        records = {name: snapshot.standing(node, self._graph) for name, node in self.scores.items()}
        return {name: record for name, record in records.items() if record is not None}

    def worst_cases(self, scored: Mapping[str, Record]) -> dict[tuple[str, str], float]:
        """The worst case by model and defense over the grid's attacks, in percent."""
        from pipeline.report.answers import stored_answers
        from pipeline.report.scores import Scores
        from pipeline.report.views.adaptive import worst_cases

        scores = Scores(
            {name: record.facts for name, record in scored.items()},
            per_image=stored_answers(self.store, self.scores),
        )
        return {place: rate.accuracy for place, rate in worst_cases(self.grid, scores).items()}

    def untold(
        self, scored: Mapping[str, Record], worst: Mapping[tuple[str, str], float]
    ) -> Iterator[Untold]:
        """Worst cases that the runs of their cells were not told of, or of which they know others.

        They change with the attacks of a grid, when a cell's own score does not.
        """
        label = hashlib.sha256(self.grid.name.encode()).hexdigest()[:8]
        for name, record in scored.items():
            cell = self._cells[name]
            value = worst.get((cell.model, cell.defense))
            key = score_key(cell, record)
            run_id = self.ledger.logged_as(self.server, key)
            if value is None or run_id is None:
                continue
            untold = Untold(f"{key}-worst-{label}", run_id, value)
            if self.ledger.logged_as(self.server, untold.key) != repr(value):
                yield untold

    def mark_told(self, untold: Untold) -> None:
        """Remember that the server was told of a worst case."""
        self.ledger.mark_logged(self.server, untold.key, repr(untold.worst))

    def owed(self) -> list[Node | Cell]:
        """Trainings, then cells, that stand and that the server was not told of."""
        logged = self.ledger.logged(self.server)
        trainings: dict[str, Node | Cell] = {}
        cells: dict[str, Node | Cell] = {}
        standing = self.standing()
        for cell in self.grid.cells:
            if cell.name not in standing:
                continue
            cells[score_key(cell, standing[cell.name])] = cell
            for _, model in self._trainings(cell):
                if (record := self._record(model)) is not None:
                    trainings[train_key(record)] = model
        return [result for key, result in (trainings | cells).items() if key not in logged]

    def unregistered(self) -> list[Trained]:
        """Trainings that stand, whose run the server has and whose network it has not."""
        found = []
        logged = self.ledger.logged(self.server)
        standing = self.standing()
        trained = [node for name in standing for _, node in self._trainings(self._cells[name])]
        for node in dict.fromkeys(trained):
            record = self._record(node)
            if record is None or WEIGHTS not in record.files:
                continue
            key = train_key(record)
            run_id = self.ledger.logged_as(self.server, key)
            if run_id is not None and f"{key}-model" not in logged:
                found.append(Trained(self._trained[node.digest], node, record, run_id))
        return found

    def mark_registered(self, trained: Trained) -> None:
        """Remember that the server has a network, or that it cannot have it."""
        key = f"{train_key(trained.record)}-model"
        self.ledger.mark_logged(self.server, key, trained.run_id)

    def untagged(self) -> list[Tagged]:
        """What the cards of cells say, where the server has the cell's run and not that."""
        cards = self.cards()
        if not cards:
            return []
        logged = self.ledger.logged(self.server)
        found = []
        for name, record in self.standing().items():
            key = score_key(self._cells[name], record)
            run_id = self.ledger.logged_as(self.server, key)
            if run_id is None or name not in cards:
                continue
            card = cards[name]
            points = tuple(_by_epsilon(card))
            tagged = Tagged(f"{key}-card", run_id, card.verdict, points)
            last = self.ledger.logged_as(self.server, tagged.key) if tagged.key in logged else None
            if last != card.verdict:
                found.append(tagged)
        return found

    def mark_tagged(self, tagged: Tagged) -> None:
        """Remember that the server was told what a card says."""
        self.ledger.mark_logged(self.server, tagged.key, tagged.verdict)

    def links(self, uri: str) -> dict[str, str]:
        """Cell's name → the page of its run, of the cells that a web server was told of."""
        if not is_web(uri):
            return {}
        found = {}
        for name, record in self.standing().items():
            run_id = self.ledger.logged_as(self.server, score_key(self._cells[name], record))
            if run_id is not None:
                found[name] = f"{page(uri)}/#/runs/{run_id}"
        return found

    def child(self, result: Node | Cell) -> ChildRun | None:
        """The run of a training or a cell; None if it is no longer there, or already logged."""
        if isinstance(result, Cell):
            node = self.scores[result.name]
            record = self._record(node)
            if record is None or self._is_logged(score_key(result, record)):
                return None
            return score_run(
                result, node, record, store=self.store, grid=self.grid, again=self.again
            )
        record = self._record(result)
        if record is None or self._is_logged(train_key(record)):
            return None
        cell = self._trained[result.digest]
        return train_run(cell, result, record, store=self.store, grid=self.grid)

    def mark(self, child: ChildRun, run_id: str) -> None:
        """Remember that the server was told."""
        self.ledger.mark_logged(self.server, child.key, run_id)

    def _is_logged(self, key: str) -> bool:
        return self.ledger.logged_as(self.server, key) is not None

    def _record(self, node: Node) -> Record | None:
        return self.store.state(node.kind, node.digest).record


def _by_epsilon(card: Card) -> Iterator[Metric]:
    """Of an adaptive cell's own card; steps are whole, and so are the epsilons that are told."""
    from pipeline.report.views.epsilons import by_epsilon

    for left in by_epsilon(card) if card.attack is not None else ():
        if left.epsilon.is_integer():
            yield Metric("epsilon/accuracy", left.accuracy, int(left.epsilon))

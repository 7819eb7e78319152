"""Results of a grid in the store, and which of them have not been logged to a tracking server."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

from pipeline.grid.cells import Ball, Cell, Grid
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
    """A network to register: a cell that uses it, and the run of its training."""

    cell: Cell
    node: Node
    record: Record
    run_id: str


@dataclass(frozen=True)
class Tagged:
    """The verdict of an integrity card, for the run of a cell.

    Attributes:
        key: Identifies it on any server.
        points: Accuracies that the cell's own card measured, in percent, by epsilon.
    """

    key: str
    run_id: str
    verdict: str
    points: tuple[Metric, ...] = ()


@dataclass(frozen=True)
class Untold:
    """Accuracy of a cell's model and defense under all attacks, in percent; `key` as in `Tagged`.

    See `pipeline.report.views.adaptive.under_all_attacks`.
    """

    key: str
    run_id: str
    accuracy: float


@dataclass(frozen=True)
class Results:
    """Scores and trainings of a grid, as found in the store.

    Attributes:
        scores: Score node of every cell, by cell name.
        server: Name of the server in the ledger.
        cards: Returns the integrity cards by cell name, for cells whose model was examined.
        snapshot: Returns a snapshot of the store; a new one by default.
        again: See `score_run`.
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
        """The first cell that uses a trained model, by digest of the training."""
        cells: dict[str, Cell] = {}
        for cell in self.grid.cells:
            for own, node in self._trainings(cell):
                cells.setdefault(node.digest, own)
        return cells

    def _trainings(self, cell: Cell) -> list[tuple[Cell, Node]]:
        """The trained models of a cell: its own, or those of an ensemble's members."""
        if cell.name not in self.scores:
            return []
        model = self.scores[cell.name].parents[0][1].parent("model")
        return [(own, node) for own, node in models_behind(cell, model) if node.info.trains]

    def standing(self) -> dict[str, Record]:
        """Records of the valid scores, by cell name."""
        snapshot = self.snapshot() if self.snapshot is not None else Snapshot(self.store)
        records = {name: snapshot.standing(node, self._graph) for name, node in self.scores.items()}
        return {name: record for name, record in records.items() if record is not None}

    def under_all_attacks(self, scored: Mapping[str, Record]) -> dict[str, float]:
        """Accuracy under all attacks of a cell's ball in the grid, in percent, by cell name."""
        from pipeline.report.answers import stored_answers
        from pipeline.report.scores import Scores
        from pipeline.report.views.adaptive import under_all_attacks

        scores = Scores(
            {name: record.facts for name, record in scored.items()},
            per_image=stored_answers(self.store, {name: self.scores[name] for name in scored}),
        )
        found = under_all_attacks(self.grid, scores)
        return {name: rate.accuracy for name, rate in found.items()}

    def by_place(self, under_all: Mapping[str, float]) -> dict[str, float]:
        """The values of `under_all_attacks` by `model/defense`, with the ball if it has several."""
        balls: dict[tuple[str, str], set[Ball]] = {}
        for cell in self.grid.cells:
            if cell.ball is not None:
                balls.setdefault((cell.model, cell.defense), set()).add(cell.ball)
        found = {}
        for name, value in under_all.items():
            cell = self._cells[name]
            several = len(balls.get((cell.model, cell.defense), ())) > 1
            ball = "/{} {:g}".format(*cell.ball) if several and cell.ball is not None else ""
            found[f"{cell.model}/{cell.defense}{ball}"] = value
        return found

    def untold(
        self, scored: Mapping[str, Record], under_all: Mapping[str, float]
    ) -> Iterator[Untold]:
        """Values of `under_all_attacks` that are not logged to their cells' runs, or have changed.

        They depend on the attacks in a grid, so one may change while the cell's score does not.
        """
        label = hashlib.sha256(self.grid.name.encode()).hexdigest()[:8]
        for name, record in scored.items():
            value = under_all.get(name)
            key = score_key(self._cells[name], record)
            run_id = self.ledger.logged_as(self.server, key)
            if value is None or run_id is None:
                continue
            untold = Untold(f"{key}-all-attacks-{label}", run_id, value)
            if self.ledger.logged_as(self.server, untold.key) != repr(value):
                yield untold

    def mark_told(self, untold: Untold) -> None:
        """Record that an accuracy under all attacks was logged."""
        self.ledger.mark_logged(self.server, untold.key, repr(untold.accuracy))

    def owed(self) -> list[Node | Cell]:
        """Valid trainings and cells, in this order, that have not been logged."""
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
        """Valid trainings whose run was logged but whose network was not registered."""
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
        """Record that a network was registered, or cannot be."""
        key = f"{train_key(trained.record)}-model"
        self.ledger.mark_logged(self.server, key, trained.run_id)

    def untagged(self) -> list[Tagged]:
        """Verdicts of integrity cards that are missing in the logged runs of their cells."""
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
        """Record that the verdict of a card was logged."""
        self.ledger.mark_logged(self.server, tagged.key, tagged.verdict)

    def links(self, uri: str) -> dict[str, str]:
        """Page of each logged cell on a web server, by cell name."""
        if not is_web(uri):
            return {}
        found = {}
        for name, record in self.standing().items():
            run_id = self.ledger.logged_as(self.server, score_key(self._cells[name], record))
            if run_id is not None:
                found[name] = f"{page(uri)}/#/runs/{run_id}"
        return found

    def child(self, result: Node | Cell) -> ChildRun | None:
        """The run for a training or cell; None if it no longer exists or is already logged."""
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
        """Record that a run was logged."""
        self.ledger.mark_logged(self.server, child.key, run_id)

    def _is_logged(self, key: str) -> bool:
        return self.ledger.logged_as(self.server, key) is not None

    def _record(self, node: Node) -> Record | None:
        return self.store.state(node.kind, node.digest).record


def _by_epsilon(card: Card) -> Iterator[Metric]:
    """Accuracies by epsilon from an adaptive cell's own card.

    Only whole epsilons are logged, since steps of metrics are integers.
    """
    from pipeline.report.views.epsilons import by_epsilon

    for left in by_epsilon(card) if card.attack is not None else ():
        if left.epsilon.is_integer():
            yield Metric("epsilon/accuracy", left.accuracy, int(left.epsilon))

"""Analysis of failures of a defense: by class, by confusion, and by image.

Based on stored answers. `before` refers to the same model under the same attack without a defense.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache, reduce

import numpy as np
from numpy.typing import NDArray

from pipeline.grid.cells import Cell, Grid
from pipeline.grid.graph import Node
from pipeline.problems import BadInput
from pipeline.report.answers import Answers, NotTested, PerImage
from pipeline.store import arrow
from pipeline.store.store import Damaged, Store

Confusion = NDArray[np.int64]
"""Confusion matrix [true class, predicted class]: number of answers over all redraws.

With abstentions it has one column more than rows, for these."""
ABSTAINS = "abstains"


@dataclass(frozen=True)
class ClassRate:
    """One class. before, after: percentage of right answers; before is None without a bare cell."""

    label: int
    name: str
    images: int
    before: float | None
    after: float


@dataclass(frozen=True)
class Predicted:
    """Predicted classes, sorted by image id. ids, labels: int64 [N]; classes: int64 [N, R].

    An abstention has the number of classes in place of a class.
    """

    ids: NDArray[np.int64]
    labels: NDArray[np.int64]
    classes: NDArray[np.int64]

    def confusion(self, count: int) -> Confusion:
        """The confusion matrix of `count` classes."""
        abstains = bool((self.classes == count).any())
        found = np.zeros((count, count + abstains), dtype=np.int64)
        for column in self.classes.T:
            np.add.at(found, (self.labels, column), 1)
        return found

    def mostly(self) -> dict[int, int]:
        """The most frequent class over redraws by image; the lowest one if several are equal."""
        winners = [int(np.bincount(row).argmax()) for row in self.classes]
        return dict(zip(self.ids.tolist(), winners, strict=True))


@dataclass(frozen=True)
class Moved:
    """An image on which the defended model is right more often, or less often, than the bare one.

    before, after: the most frequent predicted class; None without stored predictions.
    """

    image: int
    label: int
    before: int | None
    after: int | None


@dataclass(frozen=True)
class Failures:
    """Where a cell's defense fails.

    Attributes:
        before, after: Confusion matrices without and with the defense.
        won, lost: Images on which the model is right more often, or less often, with the defense.
        always, never: Images on which the model is wrong, or right, in every redraw of every
            attacked cell of the model, out of the `common` images that all these `cells` have.
    """

    classes: Sequence[ClassRate]
    before: Confusion | None = None
    after: Confusion | None = None
    won: Sequence[Moved] = ()
    lost: Sequence[Moved] = ()
    always: Sequence[int] = ()
    never: Sequence[int] = ()
    common: int = 0
    cells: Sequence[str] = field(default_factory=tuple)

    @property
    def names(self) -> dict[int, str]:
        """Names of the classes and of an abstention, by their number in `pairs`."""
        found = {each.label: each.name for each in self.classes}
        return found if self.after is None else {len(self.after): ABSTAINS, **found}

    def pairs(self) -> list[tuple[int, int, int]]:
        """Confusions as (true class, predicted class, count), most frequent first."""
        if self.after is None:
            return []
        wrong = self.after.copy()
        np.fill_diagonal(wrong, 0)  # abstentions are in a column beyond the diagonal
        found = [(int(t), int(p), int(wrong[t, p])) for t, p in np.argwhere(wrong)]
        return sorted(found, key=lambda each: (-each[2], each[:2]))


@dataclass(frozen=True)
class ModelFailures:
    """Failures of all defenses of one model under one attack, by cell.

    The bare model's cell comes first, if there is one.
    """

    model: str
    attack: str
    cells: Sequence[tuple[Cell, Failures]]

    @property
    def any(self) -> Failures:
        """Any of them, for values that are the same for all."""
        return self.cells[0][1]


def failures(
    cell: Cell, grid: Grid, per_image: PerImage, store: Store, scores: Mapping[str, Node]
) -> Failures:
    """Where a scored cell's defense fails; NotTested if the store does not have its answers."""
    attacked = _attacked(cell, grid, per_image)
    read = _reader(store, scores, grid)
    return _failures(cell, grid, per_image, read, attacked, _extremes(attacked))


def failures_by_model(
    grid: Grid, per_image: PerImage, store: Store, scores: Mapping[str, Node]
) -> list[ModelFailures]:
    """The failures of each model under its adaptive attack, or else a transferred one.

    If there are several, it is one of several candidates, on most defenses, and among equals the
    last one of the grid. Models without answers are omitted, and only the first seed is included.
    """
    first = {cell.model: cell.seed for cell in reversed(grid.cells)}
    read = _reader(store, scores, grid)
    found = []
    for model in dict.fromkeys(cell.model for cell in grid.cells):
        by_attack: dict[str, list[Cell]] = {}
        for cell in grid.cells:
            own = (cell.model, cell.seed) == (model, first[model]) and cell.attack_spec.crafts
            if own and _answers(cell, per_image) is not None:
                by_attack.setdefault(cell.attack, []).append(cell)
        if not by_attack:
            continue
        # reversed, so that the last of equals is chosen
        cells = max(
            reversed(by_attack.values()),
            key=lambda each: (
                each[0].attack_spec.compound,
                each[0].candidates > 1,
                len({cell.defense for cell in each}),
            ),
        )
        attacked = _attacked(cells[0], grid, per_image)
        extremes = _extremes(attacked)
        told = [
            (cell, _failures(cell, grid, per_image, read, attacked, extremes))
            for cell in sorted(cells, key=lambda each: each.defense_spec.kind != "none")
        ]
        found.append(ModelFailures(model, cells[0].attack, told))
    return found


def _failures(
    cell: Cell,
    grid: Grid,
    per_image: PerImage,
    read: Callable[[str], Predicted | None],
    attacked: Mapping[str, Answers],
    extremes: tuple[Sequence[int], Sequence[int], int],
) -> Failures:
    """See `failures`.

    Args:
        read: Returns a cell's predictions.
        attacked, extremes: Those of the cell's model.
    """
    answers = per_image.answers(cell.name)
    bare = _bare(cell, grid)
    known = None if bare is None else _answers(bare, per_image)
    predicted = read(cell.name)
    before = None if bare is None or known is None else read(bare.name)
    won, lost = _moved(known, answers, before, predicted) if known is not None else ([], [])
    always, never, common = extremes
    count = cell.dataset_spec.classes
    return Failures(
        classes=_by_class(cell, answers, known),
        before=None if before is None else before.confusion(count),
        after=None if predicted is None else predicted.confusion(count),
        won=won,
        lost=lost,
        always=always,
        never=never,
        common=common,
        cells=tuple(attacked),
    )


def _bare(cell: Cell, grid: Grid) -> Cell | None:
    """The corresponding cell without a defense."""
    for other in grid.cells:
        place = (other.model, other.attack, other.seed)
        if place == (cell.model, cell.attack, cell.seed) and other.defense_spec.kind == "none":
            return None if other is cell else other
    return None


def _answers(cell: Cell, per_image: PerImage) -> Answers | None:
    try:
        return per_image.answers(cell.name)
    except NotTested:
        return None


def _by_class(cell: Cell, after: Answers, before: Answers | None) -> list[ClassRate]:
    names = cell.class_names
    rates = []
    for label in range(cell.dataset_spec.classes):
        own = after.labels == label
        if own.any():
            known = None if before is None else before.right[before.labels == label]
            rates.append(
                ClassRate(
                    label,
                    names[label] if names else str(label),
                    int(own.sum()),
                    None if known is None or not len(known) else 100 * float(known.mean()),
                    100 * float(after.right[own].mean()),
                )
            )
    return rates


def _reader(
    store: Store, scores: Mapping[str, Node], grid: Grid
) -> Callable[[str], Predicted | None]:
    """A function that returns a cell's predictions, and caches them."""
    counts = {cell.name: cell.dataset_spec.classes for cell in grid.cells}
    return cache(lambda name: _predicted(store, scores[name], counts[name]))


def _predicted(store: Store, score: Node, count: int) -> Predicted | None:
    """The predicted classes of a score, out of `count`; None if the store does not have them."""
    record = store.known(score.kind, score.digest)
    if record is None:
        return None
    try:
        path = store.path(record, "per_image.arrow")
        found = arrow.read_arrays(path, {"ids": 1, "labels": 1, "predicted": 2})
    except (Damaged, BadInput, arrow.BadArrow):
        return None
    labels, classes = found["labels"], found["predicted"]
    if any(((each < 0) | (each >= count)).any() for each in (labels, classes)):
        return None
    if (abstained := found.get("abstained")) is not None:
        classes = np.where(abstained != 0, count, classes)
    order = np.argsort(found["ids"])
    return Predicted(found["ids"][order], labels[order], classes[order])


def _moved(
    before: Answers, after: Answers, old: Predicted | None, new: Predicted | None
) -> tuple[list[Moved], list[Moved]]:
    """The images that were won, and those that were lost."""
    ids, first, second = np.intersect1d(before.ids, after.ids, return_indices=True)
    change = after.right[second].mean(axis=1) - before.right[first].mean(axis=1)
    labels = after.labels[second]
    old_names, new_names = ({} if each is None else each.mostly() for each in (old, new))

    def listed(rows: NDArray[np.bool_]) -> list[Moved]:
        return [
            Moved(image, label, old_names.get(image), new_names.get(image))
            for image, label in zip(ids[rows].tolist(), labels[rows].tolist(), strict=True)
        ]

    return listed(change > 0), listed(change < 0)


def _attacked(cell: Cell, grid: Grid, per_image: PerImage) -> dict[str, Answers]:
    """Answers of the attacked cells of a cell's model and seed, by cell name."""
    cells = [
        other
        for other in grid.cells
        if (other.model, other.seed) == (cell.model, cell.seed) and other.attack_spec.crafts
    ]
    found = {other.name: _answers(other, per_image) for other in cells}
    return {name: answers for name, answers in found.items() if answers is not None}


def _extremes(attacked: Mapping[str, Answers]) -> tuple[list[int], list[int], int]:
    """Images that are always wrong, images that never are, and the number of common images."""
    if not attacked:
        return [], [], 0
    ids = reduce(np.intersect1d, (answers.ids for answers in attacked.values()))
    right = [answers.right[np.searchsorted(answers.ids, ids)] for answers in attacked.values()]
    never_right = ~np.logical_or.reduce([each.any(axis=1) for each in right])
    always_right = np.logical_and.reduce([each.all(axis=1) for each in right])
    return ids[never_right].tolist(), ids[always_right].tolist(), len(ids)

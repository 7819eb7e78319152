"""An example image before and after an attack, with the predicted probabilities.

It is selected by a rule: the first image of the test set that the bare model classifies correctly
when clean and wrongly under the attack.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.grid.cells import Cell, Grid
from pipeline.grid.exhibits import ExhibitNode
from pipeline.grid.graph import Node
from pipeline.problems import BadInput
from pipeline.report.views.exhibits import Change, change_between
from pipeline.report.views.table import View
from pipeline.store import arrow
from pipeline.store.store import Damaged, Store


class NoPicture(Exception):
    """Why there is nothing to show, in one line."""


@dataclass(frozen=True)
class Artifacts:
    """Access to results: the store, the score node of each cell by name, and the exhibits."""

    store: Store
    scores: Mapping[str, Node]
    exhibits: Sequence[ExhibitNode] = ()


@dataclass(frozen=True)
class Picture:
    """An example image.

    Attributes:
        place: Index in the test set, from 0.
        clean, adversarial: float32 [H, W, C] in [0, 1].
        clean_answer: Probabilities, float32 [classes]; None if the grid has no clean cell.
        answers: Probabilities by defense; the undefended model comes first.
    """

    model: str
    attack: str
    place: int
    label: int
    clean: NDArray[np.float32]
    adversarial: NDArray[np.float32]
    clean_answer: NDArray[np.float32] | None
    answers: Mapping[str, NDArray[np.float32]]

    @property
    def largest_change(self) -> float:
        """Largest change of a pixel, in the range [0, 1]."""
        return float(np.abs(self.adversarial - self.clean).max())

    @property
    def perturbation(self) -> Change:
        """The change made by the attack, magnified."""
        return change_between(self.clean, self.adversarial)


def pictures(view: View, grid: Grid, artifacts: Artifacts) -> list[Picture]:
    """A picture for each model and attack of a table; NoPicture if one cannot be made."""
    cells: dict[tuple[str, str, str], Cell] = {}
    for cell in grid.cells:
        cells.setdefault((cell.model, cell.attack, cell.defense), cell)
    shown = [cell for cell in grid.cells if cells[cell.model, cell.attack, cell.defense] is cell]
    bare = [cell for cell in shown if cell.defense_spec.kind == "none"]
    clean = {cell.model: cell for cell in bare if not cell.attack_spec.crafts}
    found = []
    for cell in bare:
        if not cell.attack_spec.crafts or not _in_table(cell, view):
            continue
        defended = {
            defense: cells[cell.model, cell.attack, defense]
            for defense in view.table.defenses
            if (cell.model, cell.attack, defense) in cells and defense != cell.defense
        }
        try:
            found.append(_picture(cell, clean.get(cell.model), defended, artifacts))
        except (Damaged, BadInput, arrow.BadArrow) as error:
            raise NoPicture(str(error)) from None
    if not found:
        raise NoPicture("no cell of an attack without a defense in this table")
    return found


def _in_table(cell: Cell, view: View) -> bool:
    table = view.table
    names = (table.models, table.attacks, table.defenses)
    return all(
        name in known
        for name, known in zip((cell.model, cell.attack, cell.defense), names, strict=True)
    )


def _picture(
    cell: Cell, clean: Cell | None, defended: Mapping[str, Cell], artifacts: Artifacts
) -> Picture:
    for role, _ in artifacts.scores[cell.name].parents:
        attacked = _Shard(artifacts, cell, role)
        wrong = attacked.answers.argmax(axis=1) != attacked.labels
        before = None if clean is None else _Shard(artifacts, clean, role).answers
        if before is not None:
            wrong &= before.argmax(axis=1) == attacked.labels
        rows = np.flatnonzero(wrong)
        if not len(rows):
            continue
        row = int(rows[0])
        place = int(attacked.ids[row])
        answers = {cell.defense: attacked.answers[row]}
        for label, other in defended.items():
            answers[label] = _Shard(artifacts, other, role).answers[row]
        return Picture(
            model=cell.model,
            attack=cell.attack,
            place=place,
            label=int(attacked.labels[row]),
            clean=_channels_last(attacked.clean_pixels(place) / np.float32(255)),
            adversarial=_channels_last(attacked.adversarial(row)),
            clean_answer=None if before is None else before[row],
            answers=answers,
        )
    raise NoPicture(f"{cell.name}: no image that the attack turned")


class _Shard:
    """A cell's results on one shard."""

    def __init__(self, artifacts: Artifacts, cell: Cell, role: str) -> None:
        self._store = artifacts.store
        self._node = artifacts.scores[cell.name].parent(role)
        columns = arrow.read_arrays(
            self._path(self._node, "outcomes.arrow"), {"labels": 1, "ids": 1, "probabilities": 3}
        )
        self.labels: NDArray[np.int64] = columns["labels"]
        self.ids: NDArray[np.int64] = columns["ids"]
        self.answers: NDArray[np.float32] = columns["probabilities"].mean(axis=1)

    def adversarial(self, row: int) -> NDArray[np.float32]:
        """The adversarial image of a row, [C, H, W]."""
        examples = self._node.parent("examples")
        return self._pixels(examples, "examples.arrow", row)

    def clean_pixels(self, place: int) -> NDArray[np.uint8]:
        """The image at an index of the test set, [C, H, W]."""
        dataset = self._node.parent("examples").parent("dataset")
        return self._pixels(dataset, "test.arrow", place)

    def _pixels(self, node: Node, name: str, row: int) -> NDArray[Any]:
        pixels = arrow.read_arrays(self._path(node, name), {"pixels": 4})["pixels"]
        if not 0 <= row < len(pixels):
            raise Damaged(node.kind, node.digest, f"{name} has no row {row}")
        found: NDArray[Any] = pixels[row]
        return found

    def _path(self, node: Node, name: str) -> Path:
        """A file of an artifact, after checking that the results were made from this artifact."""
        record = self._store.required(node.kind, node.digest)
        if node is not self._node:
            made = self._store.required(self._node.kind, self._node.digest)
            if made.lineage.get(node.digest) != record.content:
                raise Damaged(node.kind, node.digest, "is not what the results were made from")
        return self._store.path(record, name)


def _channels_last(pixels: NDArray[np.floating]) -> NDArray[np.float32]:
    return np.ascontiguousarray(pixels.transpose(1, 2, 0), dtype=np.float32)


def class_probabilities(picture: Picture) -> Iterator[tuple[str, Sequence[float]]]:
    """Columns of a picture's table: name, and the probability of each class."""
    if picture.clean_answer is not None:
        yield "clean", picture.clean_answer.tolist()
    for place, (label, answer) in enumerate(picture.answers.items()):
        yield label if place else "adversarial", answer.tolist()

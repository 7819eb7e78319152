"""Images through an attack and a defense, as the report's page shows them.

Which images is a rule, not a choice: of each class the first one, in the data set's fixed
order, that the bare model gets right when clean and wrong under the attack, whatever the
defense then makes of it. What the defense added is computed anew, from the stored weights.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from pipeline.desk import Desk
from pipeline.graph import Node
from pipeline.grid import Cell, Grid
from pipeline.report_pictures import Artifacts
from pipeline.settings import KindSettings
from pipeline.store import Damaged
from tasks.defend import BadDefense
from tasks.defenses.base import Context
from tasks.first_draw import first_draw
from tasks.node_specs import DefendSpec

CLASSES = 10
"""Classes that are shown of a data set with more."""
SPAN = 0.5
"""The share of the pixel range that the largest change is magnified to."""

Pixels = NDArray[np.float32]


@dataclass(frozen=True)
class Change:
    """What was added to an image, magnified around grey: float32 [H, W, C] in [0, 1]."""

    pixels: Pixels
    times: float


@dataclass(frozen=True)
class Exhibit:
    """An image of class `label` at a place of the test set, and what became of it.

    clean, adversarial, after: float32 [H, W, C] in [0, 1]; clean_answer, attacked_answer: the
    bare model's, defended_answer: the defended model's first redraw, float32 [classes].
    """

    place: int
    label: int
    clean: Pixels
    adversarial: Pixels
    after: Pixels
    clean_answer: Pixels
    attacked_answer: Pixels
    defended_answer: Pixels

    @property
    def perturbation(self) -> Change:
        """What the attack added."""
        return _change(self.clean, self.adversarial)

    @property
    def countered(self) -> Change:
        """What the defense added."""
        return _change(self.adversarial, self.after)


@dataclass(frozen=True)
class Gallery:
    """The images of one model; absent: classes of which no image fits the rule."""

    cell: Cell
    exhibits: tuple[Exhibit, ...]
    absent: tuple[int, ...] = ()
    problem: str = ""


def galleries(grid: Grid, artifacts: Artifacts) -> list[Gallery]:
    """A gallery for each model with a defended cell; `problem` says why one cannot be made.

    Of the model's cells the first is shown whose defense is the counter-perturbation alone,
    else the first defended one; its attack's bare cell must be in the grid.
    """
    found = []
    for model in dict.fromkeys(cell.model for cell in grid.cells):
        pair = _pair([cell for cell in grid.cells if cell.model == model])
        if pair is None:
            continue
        try:
            exhibits = tuple(_exhibits(*pair, artifacts))
            absent = set(_shown_classes(pair[0])) - {exhibit.label for exhibit in exhibits}
            found.append(Gallery(pair[1], exhibits, tuple(sorted(absent))))
        except (Damaged, BadDefense) as problem:
            found.append(Gallery(pair[1], (), problem=str(problem)))
    return found


def _pair(cells: Sequence[Cell]) -> tuple[Cell, Cell] | None:
    """The bare cell of an attack and the defended one that is shown."""
    bare = {
        (cell.attack, cell.seed): cell
        for cell in cells
        if cell.defense_spec.kind == "none" and cell.attack_spec.crafts
    }
    defended = [
        cell
        for cell in cells
        if (cell.attack, cell.seed) in bare and cell.defense_spec.kind != "none"
    ]
    if not defended:
        return None
    counters = (cell for cell in defended if cell.defense_spec.kind == "counter")
    shown = next(counters, defended[0])
    return bare[shown.attack, shown.seed], shown


def _shown_classes(cell: Cell) -> range:
    return range(min(CLASSES, cell.dataset_spec.classes))


def _exhibits(bare: Cell, shown: Cell, artifacts: Artifacts) -> Iterator[Exhibit]:
    """In the order of the classes."""
    wanted = dict.fromkeys(_shown_classes(bare))
    found: dict[int, Exhibit] = {}
    for role, _ in artifacts.scores[bare.name].parents:
        nodes = [artifacts.scores[cell.name].parent(role) for cell in (bare, shown)]
        for exhibit in _of_a_shard(nodes[0], nodes[1], artifacts, wanted.keys() - found.keys()):
            found[exhibit.label] = exhibit
        if len(found) == len(wanted):
            break
    return (found[label] for label in sorted(found))


def _of_a_shard(
    bare: Node, shown: Node, artifacts: Artifacts, wanted: set[int]
) -> Iterator[Exhibit]:
    spec = shown.spec
    assert isinstance(spec, DefendSpec)
    # a few images: how many go at a time is of no consequence
    settings = KindSettings()
    desks = [
        Desk(node, artifacts.store, settings, torch.device("cpu"), lambda _: None)
        for node in (bare, shown)
    ]
    attacked, defended = (desk.outcomes(desk.node) for desk in desks)
    desk = desks[1]
    examples = desk.examples(shown.parent("examples"), spec.shard)
    splits = desk.splits(shown.parent("examples").parent("dataset"))
    frozen = desk.frozen(spec.precision)
    pool = splits.test if spec.defense.pool_split() == "test" else splits.train
    context = Context(frozen, pool if spec.defense.needs_pool() else None)
    taken: set[int] = set()
    for row in (~attacked.correct[:, 0]).nonzero().flatten().tolist():
        label, place = int(examples.labels[row]), int(examples.ids[row])
        if label not in wanted - taken:
            continue
        clean = splits.test.pixels[place : place + 1].float() / 255
        answer = frozen.probabilities(clean)[0]
        if int(answer.argmax()) != label:
            continue
        taken.add(label)
        adversarial = examples.pixels[row : row + 1]
        ids = examples.ids[row : row + 1]
        after = first_draw(spec.defense, context, adversarial, ids, seed=spec.seed)
        images = (clean, adversarial, after)
        answers = (answer, attacked.probabilities[row, 0], defended.probabilities[row, 0])
        yield Exhibit(
            place,
            label,
            *(image[0].permute(1, 2, 0).contiguous().numpy() for image in images),
            *(answer.numpy() for answer in answers),
        )


def _change(before: Pixels, after: Pixels) -> Change:
    change = after - before
    largest = float(np.abs(change).max())
    times = SPAN / largest if largest > 0 else 1.0
    times = float(np.floor(times)) if times >= 2 else round(times, 1)
    return Change(np.clip(0.5 + times * change, 0, 1).astype(np.float32), times)

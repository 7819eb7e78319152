"""What an attack and a defense made of images: their exhibits, from what the store holds."""

from __future__ import annotations

from collections.abc import Iterator

import torch

from pipeline.execution.settings import KindSettings
from pipeline.execution.work.inputs import NodeInputs
from pipeline.grid.graph import Node
from pipeline.report.views.exhibits import Exhibit
from pipeline.store.store import Store
from tasks.data.arrays import as_float
from tasks.defenses.base import Context
from tasks.evaluation.defend import first_draw
from tasks.evaluation.specs import DefendSpec


def exhibits(bare: Node, shown: Node, store: Store, classes: range) -> list[Exhibit]:
    """The exhibits of two scores of the same examples, by class; see `report_gallery`.

    Damaged where an artifact is not what its record says, BadDefense where the defense fails.
    """
    found: dict[int, Exhibit] = {}
    for role, _ in bare.parents:
        wanted = set(classes) - found.keys()
        if not wanted:
            break
        for exhibit in _of_a_shard(bare.parent(role), shown.parent(role), store, wanted):
            found[exhibit.label] = exhibit
    return [found[label] for label in sorted(found)]


def _of_a_shard(bare: Node, shown: Node, store: Store, wanted: set[int]) -> Iterator[Exhibit]:
    spec = shown.spec
    assert isinstance(spec, DefendSpec)
    # a few images: how many go at a time is of no consequence
    settings = KindSettings()
    both = [
        NodeInputs(node, store, settings, torch.device("cpu"), lambda _: None)
        for node in (bare, shown)
    ]
    attacked, defended = (inputs.outcomes(inputs.node) for inputs in both)
    inputs = both[1]
    examples = inputs.examples(shown.parent("examples"), spec.shard)
    splits = inputs.splits(shown.parent("examples").parent("dataset"))
    frozen = inputs.frozen(spec.precision)
    pool = splits.test if spec.defense.pool_split() == "test" else splits.train
    context = Context(frozen, pool if spec.defense.needs_pool() else None)
    taken: set[int] = set()
    for row in (~attacked.correct[:, 0]).nonzero().flatten().tolist():
        label, place = int(examples.labels[row]), int(examples.ids[row])
        if label not in wanted - taken:
            continue
        clean = as_float(splits.test.pixels[place : place + 1])
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

"""Images before and after an attack and a defense, as a report shows them.

Which images is a rule, not a choice: of each class the first one, in the data set's fixed order,
that the bare model gets right when clean and wrong under the attack, whatever the defense then
makes of it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from tasks.data.arrays import Crafted, Images, Outcomes, as_float
from tasks.defenses.base import Context
from tasks.evaluation.defend import first_draw
from tasks.evaluation.specs import ExhibitSpec
from tasks.progress import Progress, Tell


@dataclass(frozen=True)
class Exhibits:
    """Images of different classes, by ascending class, and what became of them.

    ids: int64 [N], places in the test set's fixed order, from 0; labels: int64 [N]. clean,
    adversarial, defended: float32 [N, C, H, W] in [0, 1], the last after the first draw of the
    defense, of several views the first. clean_answer, attacked_answer: the bare model's
    probabilities, defended_answer: the first redraw of the defended model's, float32 [N, classes].
    """

    ids: Tensor
    labels: Tensor
    clean: Tensor
    adversarial: Tensor
    defended: Tensor
    clean_answer: Tensor
    attacked_answer: Tensor
    defended_answer: Tensor

    def __len__(self) -> int:
        return len(self.ids)


def exhibits(
    shards: Iterable[tuple[Crafted, Outcomes, Outcomes]],
    test: Images,
    context: Context,
    spec: ExhibitSpec,
    *,
    tell: Tell,
) -> Exhibits:
    """The exhibits of a defense; a class of which no image fits the rule has none.

    shards: examples, the bare model's outcomes of them and the defended model's, a shard at a
    time; no more are taken than it needs. test: the images that the examples were made of. Runs on
    the classifier's device; the exhibits are on the CPU. BadDefense where the defense fails.
    """
    found: dict[int, tuple[Tensor, ...]] = {}
    for crafted, bare, defended in shards:
        wanted = set(range(spec.classes)) - found.keys()
        if not wanted:
            break
        for label, exhibit in _of_a_shard(crafted, bare, defended, test, context, spec, wanted):
            found[label] = exhibit
            tell(Progress(len(found), spec.classes, "classes"))
    if not found:
        return _none(test, context.classifier.classes)
    rows = [found[label] for label in sorted(found)]
    return Exhibits(*(torch.stack(column).cpu() for column in zip(*rows, strict=True)))


def _of_a_shard(
    crafted: Crafted,
    bare: Outcomes,
    defended: Outcomes,
    test: Images,
    context: Context,
    spec: ExhibitSpec,
    wanted: set[int],
) -> Iterator[tuple[int, tuple[Tensor, ...]]]:
    """Label → the values of an exhibit, in the order of its fields."""
    device = context.classifier.device
    taken: set[int] = set()
    for row in (~bare.correct[:, 0]).nonzero().flatten().tolist():
        label, place = int(crafted.labels[row]), int(crafted.ids[row])
        if label not in wanted - taken:
            continue
        clean = as_float(test.pixels[place : place + 1]).to(device)
        answer = context.classifier.probabilities(clean)[0]
        if int(answer.argmax()) != label:
            continue
        taken.add(label)
        adversarial = crafted.pixels[row : row + 1].to(device)
        ids = crafted.ids[row : row + 1].to(device)
        after = first_draw(spec.defense, context, adversarial, ids, seed=spec.seed)
        yield (
            label,
            (
                crafted.ids[row],
                crafted.labels[row],
                clean[0],
                adversarial[0],
                after[0],
                answer,
                bare.probabilities[row, 0],
                defended.probabilities[row, 0],
            ),
        )


def _none(test: Images, classes: int) -> Exhibits:
    numbers = torch.zeros(0, dtype=torch.int64)
    images = torch.zeros(0, *test.pixels.shape[1:])
    answers = torch.zeros(0, classes)
    return Exhibits(numbers, numbers, images, images, images, answers, answers, answers)

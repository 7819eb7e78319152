"""Images before and after an attack and a defense, for a report.

They are chosen by a rule: for each class, the first image in the data set's fixed order that the
bare model classifies correctly when clean and wrongly under the attack, whatever the defense does.
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
    """Images of different classes, by ascending class, and what became of them."""

    ids: Tensor
    """int64 [N], places in the test set's fixed order, from 0."""
    labels: Tensor
    """int64 [N], the true classes."""
    clean: Tensor
    """float32 [N, C, H, W] in [0, 1], as are `adversarial` and `defended`."""
    adversarial: Tensor
    defended: Tensor
    """After the first draw of the defense, in its first view."""
    clean_answer: Tensor
    """The bare model's probabilities, float32 [N, classes], as is `attacked_answer`."""
    attacked_answer: Tensor
    defended_answer: Tensor
    """The first redraw of the defended model's probabilities, float32 [N, classes]."""

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
    """Return the exhibits of a defense; a class in which no image fits the rule has none.

    Args:
        shards: Examples, with outcomes of the bare and the defended model; read only as far as
            needed.
        test: The images that the examples were made of.
        context: The classifier, on whose device this runs.
        spec: What to show.
        tell: Called with the progress.

    Returns:
        Tensors on the CPU.

    Raises:
        BadDefense: If the defense fails.
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
    """Yield labels, and the values of their exhibits in the order of the fields."""
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

"""Which images are shown, and what of them: a network that sees the brightest corner."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from tasks.classifier.frozen import Frozen
from tasks.data.arrays import Crafted, Images, Outcomes, as_float
from tasks.defenses.base import Context, Defense
from tasks.defenses.none import NoDefense
from tasks.evaluation.exhibit import Exhibits, exhibits
from tasks.evaluation.specs import ExhibitSpec
from tasks.progress import Progress, silent

CLASSES = 3


class Corners(nn.Module):
    """Sees a class in each of the first three pixels of a row."""

    def forward(self, pixels: Tensor) -> Tensor:
        return 20 * pixels[:, 0, 0, :CLASSES]


class Mirrored(Defense):
    """Two views: an image, and its mirror image."""

    kind: str = "mirrored"

    def views(self, classes: int) -> int:
        return 2

    def transform(self, pixels: Tensor, rows: object, context: Context) -> Tensor:
        return torch.stack([pixels, pixels.flip(-1)], dim=1).flatten(0, 1)


def image(*lit: int) -> Tensor:
    """uint8 [1, 4, 4], some pixels of its first row white."""
    pixels = torch.zeros(1, 4, 4, dtype=torch.uint8)
    pixels[0, 0, list(lit)] = 255
    return pixels


def images(*pixels: Tensor, labels: list[int]) -> Images:
    count = len(pixels)
    return Images(torch.stack(pixels), torch.tensor(labels), torch.arange(count), CLASSES)


def crafted(test: Images, adversarial: list[Tensor]) -> Crafted:
    targets = torch.full_like(test.labels, -1)
    return Crafted(as_float(torch.stack(adversarial)), test.labels, test.ids, targets)


def answered(examples: Crafted, seen: list[int]) -> Outcomes:
    """One redraw that is sure of these classes."""
    sure = torch.nn.functional.one_hot(torch.tensor(seen), CLASSES).float()
    return Outcomes(sure[:, None], examples.labels, examples.ids)


def shown(
    test: Images, examples: Crafted, bare: list[int], defense: Defense | None = None
) -> tuple[Exhibits, list[Progress]]:
    told: list[Progress] = []
    spec = ExhibitSpec(defense=defense or NoDefense(), classes=CLASSES, seed=0)
    shards = [(examples, answered(examples, bare), answered(examples, test.labels.tolist()))]
    context = Context(Frozen(Corners(), classes=CLASSES))
    return exhibits(shards, test, context, spec, tell=told.append), told


def test_of_each_class_the_first_image_is_shown_that_is_right_when_clean_and_then_wrong() -> None:
    test = images(
        image(1),  # of class 0, and seen as 1 already when clean
        image(0),  # right under the attack
        image(0),  # turned: shown
        image(0),  # turned as well, and later
        image(2),  # turned, of class 2
        labels=[0, 0, 0, 0, 2],
    )
    examples = crafted(test, [image(1), image(0), image(1), image(2), image(0)])
    found, told = shown(test, examples, bare=[1, 0, 1, 2, 0])
    assert found.ids.tolist() == [2, 4]
    assert found.labels.tolist() == [0, 2]
    assert torch.equal(found.clean, as_float(test.pixels[[2, 4]]))
    assert torch.equal(found.adversarial, examples.pixels[[2, 4]])
    assert torch.equal(found.defended, found.adversarial)
    assert found.clean_answer.argmax(dim=1).tolist() == [0, 2]
    assert found.attacked_answer.argmax(dim=1).tolist() == [1, 0]
    assert found.defended_answer.argmax(dim=1).tolist() == [0, 2]
    assert [progress.done for progress in told] == [1, 2]


def test_of_a_defense_with_several_views_the_first_is_shown() -> None:
    test = images(image(0), labels=[0])
    examples = crafted(test, [image(1)])
    found, _ = shown(test, examples, [1], Mirrored())
    assert found.defended.shape == (1, 1, 4, 4)
    assert torch.equal(found.defended, examples.pixels)


def test_where_no_image_was_turned_nothing_is_shown() -> None:
    test = images(image(0), image(1), labels=[0, 1])
    found, _ = shown(test, crafted(test, [image(0), image(1)]), [0, 1])
    assert len(found) == 0
    assert found.clean.shape == (0, 1, 4, 4)
    assert found.defended_answer.shape == (0, CLASSES)


def test_no_more_shards_are_read_than_it_takes() -> None:
    test = images(image(0), image(1), image(2), labels=[0, 1, 2])
    examples = crafted(test, [image(1), image(2), image(0)])

    def shards() -> object:
        yield examples, answered(examples, [1, 2, 0]), answered(examples, [0, 1, 2])
        yield examples, answered(examples, [1, 2, 0]), answered(examples, [0, 1, 2])
        raise AssertionError("a shard too many")

    spec = ExhibitSpec(defense=NoDefense(), classes=CLASSES, seed=0)
    context = Context(Frozen(Corners(), classes=CLASSES))
    assert len(exhibits(shards(), test, context, spec, tell=silent)) == CLASSES

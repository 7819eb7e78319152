"""What an attack and a prediction show of a model on the way."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from tasks.attacks.apgd import APGD
from tasks.attacks.base import Attack
from tasks.attacks.fgsm import FGSM
from tasks.attacks.pgd import PGD
from tasks.attacks.square import Square
from tasks.classifier.frozen import Frozen
from tasks.data.arrays import Crafted, Images, as_float
from tasks.data.splits import digits
from tasks.defenses.base import Context
from tasks.defenses.guo import Guo
from tasks.defenses.none import NoDefense
from tasks.evaluation.craft import craft
from tasks.evaluation.defend import defend
from tasks.evaluation.seen import ENOUGH, Seen
from tasks.evaluation.specs import CraftSpec, DefendSpec
from tasks.progress import silent
from tasks.registry import kind_class
from tasks.specs import Problem, Shard

PROBLEM = Problem(epsilon=40.0, classes=10, side=8, pool=100)
COUNT = 24


class Wrapped(nn.Module):
    """A network with something before it, and something after it."""

    def __init__(self, network: nn.Module, before: object, after: object) -> None:
        super().__init__()
        self.network, self.before, self.after = network, before, after

    def forward(self, pixels: Tensor) -> Tensor:
        found: Tensor = self.after(self.network(self.before(pixels)))
        return found


def same(values: Tensor) -> Tensor:
    return values


def rounded(pixels: Tensor) -> Tensor:
    return (pixels * 255).round() / 255


def scaled(logits: Tensor) -> Tensor:
    return 1000 * logits


def probabilities(logits: Tensor) -> Tensor:
    return logits.softmax(dim=1)


def broken(logits: Tensor) -> Tensor:
    """The logits, with a gradient that is no number."""
    return logits + 0 * (logits - logits.detach()).abs().sqrt()


def crafted_by(
    attack: Attack,
    network: nn.Module,
    *,
    before: object = same,
    after: object = same,
    size: int = 7,
) -> Seen:
    images = digits().test[:COUNT]
    frozen = Frozen(Wrapped(network, before, after), classes=10)
    spec = CraftSpec(
        attack=attack.resolved(PROBLEM),
        shard=Shard(start=0, stop=COUNT),
        seed=0,
        precision="float32",
    )
    seen = Seen()
    craft(images, Context(frozen), spec, batch_size=size, seen=seen)
    return seen


@pytest.mark.parametrize(
    "attack",
    [FGSM(), PGD(steps=3), PGD(steps=2, label="predicted"), APGD(steps=3), PGD(targeted=True)],
    ids=["fgsm", "pgd", "predicted", "apgd", "targeted"],
)
def test_the_first_gradient_of_every_image_is_counted_once(
    network: nn.Module, attack: Attack
) -> None:
    seen = crafted_by(attack, network)
    assert (seen.gradients, seen.zero_gradients, seen.broken_gradients) == (COUNT, 0, 0)
    assert seen.answers >= COUNT
    assert seen.in_unit_range == 0


@pytest.mark.parametrize(("before", "after"), [(rounded, same), (same, scaled)])
def test_gradients_that_are_zero_are_counted(
    network: nn.Module, before: object, after: object
) -> None:
    seen = crafted_by(FGSM(), network, before=before, after=after)
    assert seen.gradients == COUNT
    assert seen.zero_gradients > 0.5 * COUNT


def test_gradients_that_are_no_numbers_are_counted(network: nn.Module) -> None:
    seen = crafted_by(FGSM(), network, after=broken)
    assert seen.broken_gradients == seen.gradients == COUNT


def test_of_a_librarys_attack_every_image_is_looked_at(network: nn.Module) -> None:
    pytest.importorskip("torchattacks")
    attack = kind_class("attacks", "torchattacks")(attack="PGD", parameters={"steps": 2})
    seen = crafted_by(attack, network)
    assert (seen.gradients, seen.zero_gradients) == (COUNT, 0)
    seen = crafted_by(attack, network, before=rounded)
    assert (seen.gradients, seen.zero_gradients) == (COUNT, COUNT)


def test_an_attack_without_gradients_shows_none(network: nn.Module) -> None:
    seen = crafted_by(Square(queries=3), network)
    assert seen.gradients == 0
    assert seen.answers >= COUNT


@pytest.mark.parametrize("attack", [FGSM(), PGD(steps=3), APGD(steps=3), Square(queries=3)])
def test_watching_changes_no_pixel(network: nn.Module, attack: Attack) -> None:
    images = digits().test[:6]
    frozen = Frozen(network, classes=10)
    spec = CraftSpec(
        attack=attack.resolved(PROBLEM), shard=Shard(start=0, stop=6), seed=0, precision="float32"
    )
    found = [craft(images, Context(frozen), spec, batch_size=4, seen=s) for s in (None, Seen())]
    assert torch.equal(found[0].pixels, found[1].pixels)


def answered(network: nn.Module, after: object, images: Images) -> Seen:
    none = torch.full_like(images.labels, -1)
    given = Crafted(as_float(images.pixels), images.labels, images.ids, none)
    frozen = Frozen(Wrapped(network, same, after), classes=10)
    seen = Seen()
    for defense in (NoDefense(), Guo(draws=2)):
        spec = DefendSpec(defense=defense, shard=Shard(start=0, stop=len(images)), seed=0)
        defend(given, Context(frozen), spec, batch_size=7, tell=silent, seen=seen)
    return seen


def test_answers_are_told_to_be_logits_probabilities_or_between_zero_and_one(
    network: nn.Module,
) -> None:
    images = digits().test[:COUNT]
    seen = answered(network, same, images)
    assert seen.answers == 3 * COUNT
    assert seen.in_unit_range == 0
    seen = answered(network, probabilities, images)
    assert seen.sum_to_one == seen.in_unit_range == seen.answers == 3 * COUNT
    seen = answered(network, torch.sigmoid, images)
    assert seen.in_unit_range == seen.answers
    assert seen.sum_to_one == 0


def test_no_more_answers_and_gradients_are_looked_at_than_are_enough() -> None:
    seen = Seen()
    for _ in range(4):
        seen.logits(torch.zeros(ENOUGH // 2, 3))
    assert seen.answers == ENOUGH
    assert seen.facts()["answers"] == ENOUGH

"""APGD-T: which classes it leads to, whom it still attacks, and how it compares."""

from __future__ import annotations

import warnings
from dataclasses import replace

import pytest
import torch
from pydantic import ValidationError
from torch import Tensor, nn

from tasks.attacks.apgd import APGD
from tasks.attacks.apgd_t import APGDT
from tasks.attacks.base import Victim
from tasks.data.arrays import as_float
from tasks.data.seeding import Rows
from tasks.data.splits import digits
from tasks.specs import Problem

COUNT = 100
PROBLEM = Problem(epsilon=20.0, classes=10, side=8, pool=100)


@pytest.fixture(scope="module")
def images() -> tuple[Tensor, Tensor]:
    test = digits().test[:COUNT]
    return as_float(test.pixels), test.labels


def rows(count: int = COUNT) -> Rows:
    places = torch.arange(count)
    return Rows(0, images=places, draws=torch.zeros_like(places))


def victim_of(network: nn.Module) -> Victim:
    return Victim(lambda pixels, _: network(pixels), classes=10)


def right(network: nn.Module, pixels: Tensor, labels: Tensor) -> Tensor:
    return network(pixels).argmax(dim=1) == labels


def wrong_classes(network: nn.Module, pixels: Tensor, labels: Tensor) -> Tensor:
    """The wrong classes of each image, the most probable first."""
    order = network(pixels).argsort(dim=1, descending=True)
    return torch.stack([row[row != label] for row, label in zip(order, labels, strict=True)])


@pytest.mark.parametrize("rank", [1, 4, 9])
def test_a_climb_leads_to_the_class_of_its_rank(rank, network, images):
    pixels, labels = images
    target = wrong_classes(network, pixels, labels)[:, rank - 1 : rank]
    attack = APGDT(ranks=(rank,), steps=20, epsilon=40.0)

    crafted = attack.perturb(victim_of(network), pixels, labels, rows())

    before, after = (network(each).log_softmax(1).gather(1, target) for each in (pixels, crafted))
    assert (after > before).float().mean() > 0.9


def test_a_victim_that_judges_says_which_classes_are_near(network, images):
    """The first rank of a victim that reads the image and its negative is of its judgement."""
    pixels, labels = images[0][:20], images[1][:20]
    plain = victim_of(network)
    other = replace(plain, judged=lambda points, _: -network(points))
    attack = APGDT(ranks=(1,), steps=5, epsilon=1.0, loss="cross-entropy")
    nearest = wrong_classes(network, pixels, labels)[:, 0]
    farthest = wrong_classes(lambda points: -network(points), pixels, labels)[:, 0]
    assert (nearest != farthest).all()

    by_logits = attack.perturb(plain, pixels, labels, rows(20))
    by_judgement = attack.perturb(other, pixels, labels, rows(20))

    assert (by_logits != by_judgement).flatten(1).any(dim=1).all()


def test_only_images_that_still_stand_are_attacked(network, images):
    asked: list[tuple[int, int]] = []

    def of(places: Tensor) -> Victim:
        def logits(pixels: Tensor, step: int) -> Tensor:
            asked.append((step, len(places)))
            assert len(pixels) == len(places)
            return network(pixels)

        return Victim(logits, 10, part=lambda inner: of(places[inner]))

    attack = APGDT(steps=4).resolved(PROBLEM)
    crafted = attack.perturb(of(torch.arange(COUNT)), *images, rows())

    counts = [count for step, count in asked if (step - 1) % 5 == 0 and step]
    assert counts[0] == COUNT
    assert counts == sorted(counts, reverse=True)
    assert 0 < counts[-1] < COUNT
    # the last climb fools some as well, so no fewer than were left stand at its beginning
    assert int(right(network, crafted, images[1]).sum()) <= counts[-1]
    assert [step for step, _ in asked] == list(range(46))


def test_nine_targets_fool_no_fewer_than_the_margin_or_the_first_target_alone(network, images):
    def left(attack: APGD | APGDT) -> int:
        crafted = attack.perturb(victim_of(network), *images, rows())
        return int(right(network, crafted, images[1]).sum())

    all_nine = left(APGDT(steps=40).resolved(PROBLEM))
    assert 10 < all_nine < 90
    assert all_nine <= left(APGDT(steps=40, ranks=(1,)).resolved(PROBLEM))
    assert all_nine <= left(APGD(steps=40, loss="margin").resolved(PROBLEM)) + 1


def test_it_leaves_what_the_implementation_of_its_authors_leaves(network, images):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torchattacks = pytest.importorskip("torchattacks")
    ours = APGDT(steps=40).resolved(PROBLEM).perturb(victim_of(network), *images, rows())
    theirs = torchattacks.APGDT(network, eps=20 / 255, steps=40, n_classes=10)(*images)
    left = [int(right(network, crafted, images[1]).sum()) for crafted in (ours, theirs)]
    assert abs(left[0] - left[1]) <= 1


def test_ranks_are_those_that_there_are(images):
    few = Problem(epsilon=8.0, classes=5, side=8, pool=100)
    assert APGDT().resolved(few).ranks == (1, 2, 3, 4)
    assert APGDT(ranks=(2, 9)).resolved(few).ranks == (2,)
    with pytest.raises(ValueError, match=r"ranks \[7\]: there are 4 wrong classes"):
        APGDT(ranks=(7,)).resolved(few)
    with pytest.raises(ValueError, match="dlr needs 4 classes, there are 3; write loss: margin"):
        APGDT().resolved(replace(few, classes=3))
    assert APGDT(loss="margin").resolved(replace(few, classes=3)).ranks == (1, 2)
    with pytest.raises(ValidationError, match="one twice"):
        APGDT(ranks=(1, 1))

"""Defenses that cheat are told what is wrong, in one line."""

import random
from typing import Literal

import numpy as np
import pytest
import torch
from pydantic import PrivateAttr

from tasks import straight
from tasks.attacks.base import Attack
from tasks.attacks.search.geometry import Ball
from tasks.contract import BrokenContract, NotRepeatable, check_attack, check_defense
from tasks.defenses.base import Defense

NOISE = 0.01


def _plus(pixels, noise):
    return straight.clip(pixels + NOISE * (noise - 0.5))


def detached(pixels, rows, context):
    return pixels.detach() * 0.9


def rounded(pixels, rows, context):
    return (pixels * 15).round() / 15


def torchs(pixels, rows, context):
    return _plus(pixels, torch.rand_like(pixels))


def numpys(pixels, rows, context):
    return _plus(pixels, torch.as_tensor(np.random.rand(*pixels.shape), dtype=torch.float32))


def pythons(pixels, rows, context):
    return _plus(pixels, random.random())


def seeded_globally(pixels, rows, context):
    torch.manual_seed(0)
    return _plus(pixels, torch.rand_like(pixels))


def own_generator(pixels, rows, context):
    return _plus(pixels, torch.rand(pixels.shape, generator=own_generator.generator))


own_generator.generator = torch.Generator().manual_seed(0)


def counting(pixels, rows, context):
    counting.calls += 1
    return straight.clip(pixels + NOISE * counting.calls)


counting.calls = 0


def by_place(pixels, rows, context):
    generator = torch.Generator().manual_seed(0)
    return _plus(pixels, torch.rand(pixels.shape, generator=generator))


def batch_wide_draw(pixels, rows, context):
    return _plus(pixels, rows[:1].uniform("noise", 1)[0, 0])


def batch_wide_seed(pixels, rows, context):
    generator = torch.Generator().manual_seed(int(rows.images.sum()))
    return _plus(pixels, torch.rand(pixels[:1].shape, generator=generator))


def of_the_batch(pixels, rows, context):
    return (pixels * (1 - 0.1 * pixels.mean())).clamp(0, 1)


def of_the_largest(pixels, rows, context):
    return pixels / pixels.amax()


def of_the_smallest(pixels, rows, context):
    return (pixels - pixels.amin() / 2).clamp(0, 1)


def torchs_of_many(pixels, rows, context):
    return torchs(pixels, rows, context) if len(pixels) > 8 else _plus(pixels, 1)


def of_a_large_batch(pixels, rows, context):
    return of_the_batch(pixels, rows, context) if len(pixels) > 8 else _plus(pixels, 1)


def other_under_attack(pixels, rows, context):
    return _plus(pixels, 1 if torch.is_grad_enabled() else 0)


def other_by_scope(pixels, rows, context):
    return _plus(pixels, rows._scope.startswith("/attack/"))


def other_by_step(pixels, rows, context):
    return _plus(pixels, rows._step > 0)


def not_deterministic(pixels, rows, context):
    return _plus(pixels, rows.uniform("noise", pixels[0].numel()).view_as(pixels))


def in_place_unseen(pixels, rows, context):
    """By `detach`, for which torch raises no error."""
    result = pixels * 0.9
    pixels.detach().mul_(0.5)
    return result


def endless(pixels, rows, context):
    return (pixels - pixels.mean(dim=(1, 2, 3), keepdim=True) * 0).clamp(0, 1) ** 0.5 + (
        0 * (pixels - pixels).sqrt()
    )


@pytest.mark.parametrize(
    ("transform", "line"),
    [
        (detached, "no gradient comes back; return tasks.straight.through"),
        (rounded, "the gradient that comes back is zero for every image"),
        (torchs, "draws random numbers of torch, which are no image's own"),
        (numpys, "draws random numbers of numpy, which are no image's own"),
        (pythons, "draws random numbers of random, which are no image's own"),
        (seeded_globally, "draws random numbers of torch"),
        (own_generator, "the same images and draws give something else a second time"),
        (counting, "second time; draw from `rows`, and keep nothing between calls"),
        (by_place, "in a batch: its result follows from its place among them"),
        (batch_wide_draw, "in a batch: it has the draws of another image"),
        (batch_wide_seed, "in a batch: it has the draws of another image"),
        (of_the_batch, "in a batch: its result follows from the other images"),
        (of_the_largest, "in a batch: its result follows from the other images"),
        (of_the_smallest, "in a batch: its result follows from the other images"),
        (torchs_of_many, "draws random numbers of torch, which are no image's own"),
        (of_a_large_batch, "an image in a batch of 64 gives something else than in one of 6"),
        (other_under_attack, "gives something else without gradients, as in predictions"),
        (other_by_scope, "give something else in an attack than in a prediction"),
        (other_by_step, "give something else in an attack than in a prediction"),
        (not_deterministic, "says that it is deterministic, and draws differ"),
        (in_place_unseen, "changes the pixels that it is given"),
        (endless, "gives a gradient that is not finite"),
    ],
)
def test_a_defense_that_cheats_is_told_what_is_wrong_in_one_line(transform, line):
    class Cheat(Defense):
        kind: str = "cheat"

        def deterministic(self, classes):
            return transform is not_deterministic or transform is endless

        def transform(self, pixels, rows, context):
            return transform(pixels, rows, context)

    with pytest.raises(BrokenContract, match=line) as caught:
        check_defense(Cheat())
    assert str(caught.value).startswith("defense cheat: ")
    assert "\n" not in str(caught.value)


def fair(pixels, rows, context):
    return _plus(pixels, rows.uniform("noise", pixels[0].numel()).view_as(pixels))


def in_a_scope_of_its_own(pixels, rows, context):
    return fair(pixels, rows.within("own").at(2), context)


def channels_last(pixels, rows, context):
    """Its result is not contiguous."""
    return (0.9 * pixels.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


def neighbours(pixels, rows, context):
    pool = context.pool.pixels.flatten(1) / 255
    near = torch.cdist(pixels.detach().flatten(1), pool).topk(100, largest=False).indices
    return straight.clip(0.5 * pixels + 0.5 * pool[near].mean(dim=1).view_as(pixels))


@pytest.mark.parametrize("transform", [fair, in_a_scope_of_its_own, channels_last, neighbours])
def test_a_defense_that_keeps_the_contract_is_told_nothing(transform):
    class Fair(Defense):
        kind: str = "fair"

        def needs_pool(self):
            return True

        def transform(self, pixels, rows, context):
            return transform(pixels, rows, context)

    check_defense(Fair(), channels=3)


class Mean(Defense):
    """Subtracts the mean of the first images that it is ever given."""

    kind: str = "mean"
    _mean: torch.Tensor | None = PrivateAttr(None)

    def transform(self, pixels, rows, context):
        if self._mean is None:
            self._mean = pixels.detach().mean(dim=0, keepdim=True)
        return straight.clip(pixels - NOISE * self._mean)


def test_a_defense_that_keeps_something_of_its_first_images_is_not_repeatable():
    with pytest.raises(NotRepeatable, match="after other images; derive everything from the im"):
        check_defense(Mean())


def changing_weights(pixels, context):
    for weight in context.classifier.module.parameters():
        weight.data.mul_(0.999)


def training(pixels, context):
    context.classifier.module.train()


def changing_the_pool(pixels, context):
    context.pool.pixels[0] = 0


@pytest.mark.parametrize(
    ("change", "line"),
    [
        (changing_weights, r"changes the network's weights .* \(the classifier's weights have"),
        (training, r"changes the network's weights or modules.* is in train mode"),
        (changing_the_pool, "changes the pool of images"),
    ],
)
def test_a_defense_that_changes_what_it_is_given_is_not_repeatable(change, line):
    class Changing(Defense):
        kind: str = "changing"

        def transform(self, pixels, rows, context):
            change(pixels, context)
            return straight.clip(pixels - NOISE)

    with pytest.raises(NotRepeatable, match=f"^defense changing: {line}"):
        check_defense(Changing())


CACHE: dict[str, torch.Tensor] = {}


class Reference(Defense):
    """Blends with the first image that the module is ever given."""

    kind: str = "reference"

    def transform(self, pixels, rows, context):
        first = CACHE.setdefault("first", pixels[:1].detach().clone())
        return straight.clip(0.7 * pixels + 0.3 * first)


def test_what_the_first_call_leaves_in_the_module_is_not_repeatable():
    with pytest.raises(NotRepeatable, match="after other images; derive everything from the im"):
        check_defense(Reference())


@pytest.mark.parametrize(
    ("first", "line"), [(False, "a second time; derive"), (True, "after other images; derive")]
)
def test_an_attack_that_keeps_state_between_calls_is_not_repeatable(first, line):
    class Own(Attack):
        kind: str = "own"
        epsilon: float = 8.0
        _sizes: list[float] = PrivateAttr(default_factory=list)

        def perturb(self, victim, pixels, labels, rows):
            self._sizes.append(pixels.mean().item())
            size = self._sizes[0] if first else 1 / len(self._sizes)
            return (pixels + size * self.epsilon / 255).clamp(0, 1)

        def ball(self):
            return Ball("linf", self.epsilon / 255)

    with pytest.raises(NotRepeatable, match=line):
        check_attack(Own())


class SecondMember(Defense):
    """The answer of the second network of an ensemble."""

    kind: Literal["second-member"] = "second-member"

    def deterministic(self, classes):
        return True

    def asks_members(self):
        return True

    def transform(self, pixels, rows, context):
        return pixels

    def combine(self, logits):
        return logits[..., 1, :]


def test_a_defense_about_members_is_tried_on_an_ensemble():
    check_defense(SecondMember())

    class Mutilates(SecondMember):
        def combine(self, logits):
            return logits[..., 0, :3]

    with pytest.raises(BrokenContract, match="combine"):
        check_defense(Mutilates())

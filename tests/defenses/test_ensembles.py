"""Defenses that combine answers about several views, held against their formulas in float64."""

from typing import Literal

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from tasks.classifier.ensemble import EnsembleModule
from tasks.classifier.frozen import Frozen
from tasks.data.seeding import Rows
from tasks.defenses.base import Context, Defense
from tasks.defenses.bits import Bits
from tasks.defenses.chain import Chain
from tasks.defenses.counter import Counter
from tasks.defenses.crossmax import CrossMax
from tasks.defenses.crossmax_models import CrossMaxModels
from tasks.defenses.energy import Energy
from tasks.defenses.flip_crop import FlipCrop
from tasks.defenses.none import NoDefense
from tasks.defenses.pnml import PNML
from tasks.defenses.ttc import TTC
from tasks.defenses.tte import TTE
from tasks.defenses.xie import Xie
from tasks.evaluation.costs import prediction_passes
from tasks.evaluation.defend import draw_logits, predict
from tasks.networks.small import Small
from tasks.specs import Passes, Problem

COUNT, CLASSES, SIDE = 5, 10, 16
PROBLEM = Problem(epsilon=8, classes=CLASSES, side=SIDE, pool=0)


def network() -> nn.Module:
    generator = torch.Generator().manual_seed(3)
    made = nn.Sequential(
        nn.Conv2d(3, 4, 3, padding=1), nn.Tanh(), nn.Flatten(), nn.Linear(4 * SIDE**2, CLASSES)
    )
    with torch.no_grad():
        for weight in made.parameters():
            weight.copy_(torch.randn(weight.shape, generator=generator) * 0.1)
    return made


@pytest.fixture(scope="module")
def context() -> Context:
    return Context(Frozen(network(), classes=CLASSES))


@pytest.fixture(scope="module")
def pixels() -> Tensor:
    return torch.rand(COUNT, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(1))


@pytest.fixture(scope="module")
def rows() -> Rows:
    images = torch.arange(COUNT)
    return Rows(0, images, torch.zeros_like(images)).within("defend")


def exactly(pixels: Tensor) -> Tensor:
    """The network's logits in float64."""
    with torch.no_grad():
        return network().double()(pixels.double())


def predicted(defense: Defense, context: Context, pixels: Tensor, rows: Rows) -> Tensor:
    return predict(defense, context, pixels, rows, 1000).double()


@pytest.mark.parametrize("crops", ["four", "one"])
def test_tte_averages_the_logits_of_the_image_four_crops_and_their_mirror_images(
    crops: str, context: Context, pixels: Tensor, rows: Rows
) -> None:
    defense = TTE(crops=crops)
    places = defense.places(SIDE)
    padded = np.pad(pixels.numpy(), ((0, 0), (0, 0), (2, 2), (2, 2)))
    views = [pixels.numpy()]
    views += [padded[:, :, top : top + SIDE, left : left + SIDE] for top, left in places]
    views += [view[:, :, :, ::-1].copy() for view in views]
    assert len(views) == 10
    expected = torch.stack([exactly(torch.from_numpy(view)) for view in views]).mean(dim=0)
    found = predicted(defense, context, pixels, rows)
    torch.testing.assert_close(found, expected.softmax(dim=1), atol=1e-6, rtol=0)
    assert len(set(places)) == (4 if crops == "four" else 1)
    assert all(0 <= place <= 3 for pair in places for place in pair)  # of 0 to 4
    assert prediction_passes(defense, CLASSES) == Passes(forwards=10)


def test_the_crops_of_tte_are_drawn_by_its_seed_from_one_less_than_twice_the_padding() -> None:
    assert TTE().places(32) == TTE().places(32)
    drawn = [place for seed in range(40) for pair in TTE(seed=seed).places(32) for place in pair]
    assert set(drawn) == set(range(8))


def test_the_gradient_of_tte_is_exact(context: Context, pixels: Tensor, rows: Rows) -> None:
    leaf = pixels.clone().requires_grad_()
    found = draw_logits(TTE(), context, leaf, rows)[:, 0, 3]
    (gradient,) = torch.autograd.grad(found.sum(), leaf)
    other = pixels.double().requires_grad_()
    views = TTE().transform(other, rows, context)
    logits = network().double()(views).view(COUNT, 10, CLASSES)
    (exact,) = torch.autograd.grad(logits.mean(dim=1).log_softmax(dim=1)[:, 3].sum(), other)
    torch.testing.assert_close(gradient.double(), exact, atol=1e-6, rtol=1e-4)


@pytest.mark.parametrize("share", [0.11, 0.02])
def test_pnml_asks_for_the_probability_of_each_class_after_a_step_to_it(
    share: float, context: Context, pixels: Tensor, rows: Rows
) -> None:
    exact, own = network().double(), []
    for label in range(CLASSES):
        leaf = pixels.double().requires_grad_()
        loss = nn.functional.cross_entropy(
            exact(leaf), torch.full((COUNT,), label), reduction="sum"
        )
        (gradient,) = torch.autograd.grad(loss, leaf)
        view = (leaf.detach() - share * gradient.sign()).clamp(0, 1)
        own.append(exactly(view).softmax(dim=1)[:, label])
    q = torch.stack(own, dim=1)
    found = predicted(PNML(step_size=255 * share), context, pixels, rows)
    torch.testing.assert_close(found, q / q.sum(dim=1, keepdim=True), atol=1e-5, rtol=0)


def test_pnml_asks_for_all_gradients_at_once(context: Context, pixels: Tensor, rows: Rows) -> None:
    before = context.classifier.passes
    predict(PNML(), context, pixels, rows, 1000)
    assert context.classifier.passes - before == Passes(1 + CLASSES, CLASSES) * COUNT
    assert prediction_passes(PNML(), CLASSES) == Passes(1 + CLASSES, CLASSES)


def test_pnml_holds_its_signs_constant_unless_they_are_smoothed(
    context: Context, pixels: Tensor, rows: Rows
) -> None:
    found = []
    for smoothing in (None, 1.0):
        leaf = pixels.clone().requires_grad_()
        knowing = Context(context.classifier, smoothing=smoothing)
        logits = draw_logits(PNML(), knowing, leaf, rows)[:, 0, 0]
        found.append(torch.autograd.grad(logits.sum(), leaf)[0])
    assert not torch.allclose(*found)
    assert PNML().smooths()


def test_a_confident_view_of_pnml_keeps_its_distance_from_certainty() -> None:
    logits = torch.zeros(1, 3, 3)
    for label, height in enumerate((18.0, 20.0, 17.0)):
        logits[0, label, label] = height
    exact = logits.double().softmax(dim=2).diagonal(dim1=1, dim2=2).log()
    found = PNML().combine(logits)
    torch.testing.assert_close(found.double(), exact, atol=1e-12, rtol=1e-5)
    assert int(found.argmax()) == 1


def test_a_chain_with_the_counter_before_asks_about_the_countered_image(
    context: Context, pixels: Tensor, rows: Rows
) -> None:
    counter = Counter().resolved(PROBLEM)
    moved = counter.transform(pixels, rows.within("counter#0"), context)
    for last in (TTE(), PNML()):
        chain = Chain(parts=(counter, last))
        torch.testing.assert_close(
            predicted(chain, context, pixels, rows), predicted(last, context, moved, rows)
        )
        assert chain.deterministic(CLASSES)


def test_what_makes_views_cannot_be_followed() -> None:
    with pytest.raises(ValueError, match="tte combines several answers, .* put it last"):  # noqa: RUF043
        Chain(parts=(TTE(), Xie()))


def scores_by_hand(members: list[Tensor]) -> Tensor:
    """CrossMax of float64 [N, classes] a member, one image and class at a time."""
    logits = torch.stack(members, dim=1).numpy()
    count = logits.shape[1]
    result = np.empty((len(logits), CLASSES))
    for image, table in enumerate(logits):
        first = table - table.max(axis=1, keepdims=True)
        second = first - first.max(axis=0, keepdims=True)
        for label in range(CLASSES):
            result[image, label] = sorted(second[:, label])[(count - 1) // 2]
    return torch.from_numpy(result)


@pytest.mark.parametrize("members", [4, 5])
def test_crossmax_is_the_median_of_members_brought_to_one_level_twice(
    members: int, context: Context, pixels: Tensor, rows: Rows
) -> None:
    inner = FlipCrop()
    defense = CrossMax(inner=inner, members=members)
    own = rows.within("crossmax#0").repeated(torch.arange(members)).within("flip-crop")
    drawn = inner.transform(pixels.repeat_interleave(members, dim=0), own, context)
    each = exactly(drawn).view(COUNT, members, CLASSES)
    expected = scores_by_hand([each[:, member] for member in range(members)])
    found = predicted(defense, context, pixels, rows)
    torch.testing.assert_close(found, expected.softmax(dim=1), atol=1e-5, rtol=0)
    assert not torch.equal(drawn[0], drawn[1])
    assert prediction_passes(defense, CLASSES) == Passes(forwards=members)


@pytest.mark.parametrize("members", [2, 3, 4])
def test_crossmax_of_models_is_the_median_of_networks_brought_to_one_level_twice(
    members: int, pixels: Tensor, rows: Rows
) -> None:
    networks = [
        Small(width=4).build(3, SIDE, CLASSES, seed=5 + number) for number in range(members)
    ]
    asked = Context(Frozen(EnsembleModule(networks), classes=CLASSES))
    with torch.no_grad():
        each = [network.eval().double()(pixels.double()) for network in networks]
    found = predicted(CrossMaxModels(), asked, pixels, rows)
    torch.testing.assert_close(found, scores_by_hand(each).softmax(dim=1), atol=1e-5, rtol=0)
    # the ensemble itself, and with views of each image
    mean = torch.stack(each).softmax(dim=2).mean(dim=0)
    bare = predict(NoDefense(), asked, pixels, rows, batch_size=3)
    torch.testing.assert_close(bare.double(), mean, atol=1e-5, rtol=0)
    chain = Chain(parts=(Bits(bits=2), CrossMaxModels()))
    rounded = torch.round(pixels * 3) / 3
    again = predicted(CrossMaxModels(), asked, rounded, rows)
    torch.testing.assert_close(predicted(chain, asked, pixels, rows), again)
    assert prediction_passes(CrossMaxModels(), CLASSES) == Passes(forwards=1)


def test_crossmax_of_models_leaves_the_answers_of_one_network_as_they_are(
    context: Context, pixels: Tensor, rows: Rows
) -> None:
    found = predict(CrossMaxModels(), context, pixels, rows, batch_size=3)
    bare = predict(NoDefense(), context, pixels, rows, batch_size=3)
    torch.testing.assert_close(found, bare.double())


def test_crossmax_is_climbed_through_one_member_or_the_mean_of_all(
    context: Context, pixels: Tensor, rows: Rows
) -> None:
    defense = CrossMax()
    assert defense.gradients() == ("straight-through", "surrogate")
    logits = torch.randn(3, 10, CLASSES, generator=torch.Generator().manual_seed(0))
    mean = logits.softmax(dim=2).mean(dim=1).log()
    torch.testing.assert_close(defense.surrogate(logits), mean)
    found = [
        gradient_by(defense, Context(context.classifier, rule=rule), pixels, rows)
        for rule in defense.gradients()
    ]
    assert not torch.allclose(*found)


class NoisyEnergy(Energy):
    """An optimiser that draws: the image begins beside itself."""

    kind: Literal["noisy-energy"] = "noisy-energy"

    def deterministic(self, classes: int) -> bool:
        return False

    def transform(self, pixels: Tensor, rows: Rows, context: Context) -> Tensor:
        noise = rows.normal("noise", pixels[0].numel()).view_as(pixels)
        return super().transform(pixels + 0.05 * noise, rows, context)


def test_crossmax_over_an_optimiser_is_climbed_through_its_unrolled_steps(
    context: Context, pixels: Tensor, rows: Rows
) -> None:
    """As that optimiser alone is: an attacker gains nothing from what combines its answers."""
    pixels = 0.4 + 0.2 * pixels  # nothing is clipped, where gradients pass straight through
    defense = CrossMax(inner=NoisyEnergy(), members=3).resolved(PROBLEM)
    assert defense.gradients() == ("straight-through", "surrogate", "unrolled")
    straight, unrolled = (
        gradient_by(defense, Context(context.classifier, rule=rule), pixels, rows)
        for rule in ("straight-through", "unrolled")
    )
    step = 1e-3 * torch.randn(pixels.shape, generator=torch.Generator().manual_seed(5))
    with torch.no_grad():
        above, below = (
            draw_logits(defense, context, moved, rows)[:, 0, 0]
            for moved in (pixels + step, pixels - step)
        )
    unrolled_off, straight_off = (
        ((above - below) / 2 - (gradient * step).flatten(1).sum(dim=1)).norm()
        / (above - below).norm()
        for gradient in (unrolled, straight)
    )
    assert unrolled_off < 0.05
    assert straight_off > 0.2


def test_crossmax_needs_members_that_differ(context: Context, pixels: Tensor, rows: Rows) -> None:
    """Of equal ones both subtractions leave nothing, and every class would be as probable."""
    with pytest.raises(ValueError, match="crossmax: energy draws no random numbers, so all"):
        CrossMax(inner=Energy()).resolved(PROBLEM)
    single = CrossMax(members=1).resolved(PROBLEM)
    seen = single.transform(pixels, rows.within("crossmax#0"), context)
    found = predict(single, context, pixels, rows, batch_size=3)
    torch.testing.assert_close(found, context.classifier.logits(seen).softmax(dim=1).double())


def gradient_by(defense: Defense, knowing: Context, pixels: Tensor, rows: Rows) -> Tensor:
    leaf = pixels.clone().requires_grad_()
    answer = draw_logits(defense, knowing, leaf, rows)[:, 0, 0]
    return torch.autograd.grad(answer.sum(), leaf)[0]


def test_crossmax_takes_a_named_defense_with_its_parameters(
    context: Context, pixels: Tensor, rows: Rows
) -> None:
    named = CrossMax.model_validate({"inner": {"kind": "ttc", "steps": 3}, "members": 2})
    resolved = named.resolved(PROBLEM)
    inner = resolved.inner
    assert isinstance(inner, TTC)
    assert (inner.steps, inner.limit) == (3, 8)
    assert named.needs_pool()
    assert prediction_passes(resolved, CLASSES) == Passes(2 + 2 * 4, 2 * 3)
    shorter = resolved.shorter(1)
    assert (resolved.inner_steps(), shorter.inner_steps()) == (3, 1)
    assert CrossMax().deterministic(CLASSES) is False
    with pytest.raises(ValueError, match="tte combines several answers itself"):
        CrossMax(inner=TTE())
    with pytest.raises(ValueError, match="kind 'nonesuch'; known: anti-adversary, bits"):
        CrossMax.model_validate({"inner": {"kind": "nonesuch"}})

"""Defenses with an optimiser inside, held against their formulas in float64."""

import math
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from tasks.classifier.frozen import Frozen
from tasks.data.seeding import Rows
from tasks.defenses.anti_adversary import AntiAdversary
from tasks.defenses.base import Context, Defense
from tasks.defenses.chain import Chain
from tasks.defenses.counter import Counter
from tasks.defenses.energy import Energy
from tasks.defenses.flip_crop import FlipCrop
from tasks.defenses.guo import Guo
from tasks.defenses.hedge import Hedge
from tasks.defenses.transforms.descent import Descent, Scalar, offsets
from tasks.defenses.transforms.optimised import Optimised
from tasks.evaluation.costs import prediction_passes
from tasks.evaluation.defend import draw_logits, predict
from tasks.specs import Passes, Problem

COUNT = 6
PROBLEM = Problem(epsilon=8, classes=10, side=8, pool=0)


def network() -> nn.Module:
    generator = torch.Generator().manual_seed(3)
    made = nn.Sequential(nn.Conv2d(1, 8, 3, padding=1), nn.Tanh(), nn.Flatten(), nn.Linear(512, 10))
    with torch.no_grad():
        for weight in made.parameters():
            weight.copy_(torch.randn(weight.shape, generator=generator) * 0.2)
    return made


@pytest.fixture(scope="module")
def context() -> Context:
    return Context(Frozen(network(), classes=10))


@pytest.fixture(scope="module")
def pixels() -> Tensor:
    made = torch.rand(COUNT, 1, 8, 8, generator=torch.Generator().manual_seed(1))
    made[0], made[1] = 0.0, 1.0
    return made


@pytest.fixture(scope="module")
def rows() -> Rows:
    images = torch.arange(COUNT)
    return Rows(0, images, torch.zeros_like(images)).within("defend")


class Rolling(Optimised):
    """Goes down the logit of class 0 by steps of the gradient's own direction."""

    kind: str = "rolling"
    steps: int = 3

    def descent(self) -> Descent:
        return Descent(self.steps, 0.2, 0.5, norm="l2")

    def value(self, pixels: Tensor, context: Context) -> Scalar:
        return lambda moved: context.logits(moved)[:, 0]


def by_hand(
    pixels: Tensor, start: Tensor, loss: str, *, steps: int, step: float, limit: float, box: bool
) -> Tensor:
    """Signed steps in float64, all written out."""
    exact = network().double()
    origin, offset = pixels.double(), start.double()
    predicted = exact(origin).argmax(dim=1)
    for _ in range(steps):
        leaf = (origin + offset).requires_grad_()
        logits = exact(leaf)
        probabilities = logits.softmax(dim=1)
        if loss == "hedge":  # the sum over classes of -log p_c
            total = -probabilities.log().sum()
        else:
            total = probabilities.gather(1, predicted[:, None]).log().sum()
        (gradient,) = torch.autograd.grad(total, leaf)
        offset = (offset + step * gradient.sign()).clamp(-limit, limit)
        if box:
            offset = (origin + offset).clamp(0, 1) - origin
    return origin + offset


def agree(found: Tensor, exact: Tensor) -> None:
    """The sign of a gradient that is nearly zero may be another in float32: one pixel in 500."""
    apart = (found.double() - exact).abs() > 1e-6
    assert apart.sum() <= found.numel() / 500


def test_hedge_goes_up_the_sum_of_cross_entropies_to_all_classes(
    context: Context, pixels: Tensor, rows: Rows
) -> None:
    found = Hedge().transform(pixels, rows, context)
    zero = torch.zeros_like(pixels)
    exact = by_hand(pixels, zero, "hedge", steps=20, step=4 / 255, limit=8 / 255, box=True)
    agree(found, exact)
    assert (found - pixels).abs().max() <= 8 / 255 + 1e-6


def test_hedge_from_a_random_start_begins_anywhere_within_its_limit(
    context: Context, pixels: Tensor, rows: Rows
) -> None:
    defense = Hedge(random_start=True, steps=1, step_size=1)
    drawn = rows.uniform("start", 64).view_as(pixels)
    start = (2 * drawn - 1) * 8 / 255
    found = defense.transform(pixels, rows, context)
    agree(found, by_hand(pixels, start, "hedge", steps=1, step=1 / 255, limit=8 / 255, box=True))
    assert not defense.deterministic(10)
    assert Hedge().deterministic(10)


@pytest.mark.parametrize("box", [True, False])
def test_anti_adversary_goes_down_the_cross_entropy_to_the_predicted_class(
    context: Context, pixels: Tensor, rows: Rows, box: bool
) -> None:
    defense = AntiAdversary(box=box)
    found = defense.transform(pixels, rows, context)
    zero = torch.zeros_like(pixels)
    exact = by_hand(pixels, zero, "anti", steps=2, step=0.15, limit=math.inf, box=box)
    agree(found, exact)
    assert defense.leaves_range() is not box
    assert bool(((found < 0) | (found > 1)).any()) is not box
    answers = predict(defense, context, pixels, rows, 100)  # out of range, and not refused
    assert answers.shape == (COUNT, 10)


@pytest.mark.parametrize(("steps", "temperature"), [(1, 1.0), (4, 0.5)])
def test_energy_goes_down_the_energy_by_steps_of_one_length(
    context: Context, pixels: Tensor, rows: Rows, steps: int, temperature: float
) -> None:
    defense = Energy(steps=steps, temperature=temperature).resolved(PROBLEM)
    assert defense.step_size == pytest.approx(255 * 5 * 8 / 224)
    assert defense.limit == pytest.approx(255 * 10 * 8 / 224)
    found = defense.transform(pixels, rows, context)
    exact, origin = network().double(), pixels.double()
    offset = torch.zeros_like(origin)
    for _ in range(steps):
        leaf = (origin + offset).requires_grad_()
        energy = -temperature * (exact(leaf) / temperature).logsumexp(dim=1)
        (gradient,) = torch.autograd.grad(energy.sum(), leaf)
        length = gradient.flatten(1).norm(dim=1).reshape(-1, 1, 1, 1)
        offset = offset - 5 * 8 / 224 * gradient / (length + 1e-12)
        offset = (origin + offset).clamp(0, 1) - origin
        length = offset.flatten(1).norm(dim=1).reshape(-1, 1, 1, 1)
        offset = offset * (10 * 8 / 224 / length).clamp(max=1)
    torch.testing.assert_close(found.double(), (origin + offset).clamp(0, 1), atol=1e-6, rtol=0)


def test_energy_is_scaled_by_the_side_and_costs_two_forwards_and_a_backward() -> None:
    small = Energy().resolved(Problem(8, 10, 32, 0)).descent()
    assert small.step_size == pytest.approx(0.714, abs=1e-3)
    assert small.limit == pytest.approx(1.43, abs=2e-3)
    large = Energy().resolved(Problem(8, 1000, 224, 0)).descent()
    assert (large.step_size, large.limit) == pytest.approx((5, 10))
    assert prediction_passes(Energy(), 10) == Passes(2, 1)
    assert Energy().resolved(PROBLEM).gradients() == ("straight-through", "iterates", "unrolled")
    with pytest.raises(ValueError, match="energy: step_size and limit are unset"):
        Energy().descent()


def test_what_leaves_the_range_must_come_last_in_a_chain() -> None:
    Chain(parts=(Counter(), AntiAdversary(box=False)))
    with pytest.raises(ValueError, match="anti-adversary may leave the range of pixels"):
        Chain(parts=(AntiAdversary(box=False), Guo()))


def test_a_step_limits_before_it_keeps_the_image_in_its_box() -> None:
    pixels = torch.tensor([[[[0.9, 0.5]]]])
    target = torch.tensor([[[[9.0, 9.0]]]])

    def value(moved: Tensor) -> Tensor:
        return ((moved - target) ** 2).flatten(1).sum(dim=1)

    length = (target - pixels).norm()
    step = (2.0 * (target - pixels) / length).flatten()
    limit = 0.5 * step / step.norm()
    after = offsets(Descent(1, 2.0, 0.5, norm="l2"), value, pixels)[-1].flatten()
    torch.testing.assert_close(after, torch.minimum(limit, 1 - pixels.flatten()))
    before = offsets(Descent(1, 2.0, 0.5, norm="l2", box_first=True), value, pixels)[-1].flatten()
    boxed = torch.minimum(step, 1 - pixels.flatten())
    torch.testing.assert_close(before, boxed * min(1.0, 0.5 / boxed.norm()))


def test_costs_are_a_gradient_a_step_and_are_what_is_asked(
    context: Context, pixels: Tensor, rows: Rows
) -> None:
    for defense, passes in ((Hedge(), Passes(21, 20)), (AntiAdversary(), Passes(3, 2))):
        assert prediction_passes(defense, 10) == passes
        before = context.classifier.passes
        predict(defense, context, pixels, rows, 100)
        assert context.classifier.passes - before == passes * COUNT


def gradient_of(defense: Defense, context: Context, pixels: Tensor, rows: Rows) -> Tensor:
    leaf = pixels.clone().requires_grad_()
    answers = draw_logits(defense, context, leaf, rows, draws=1)[:, 0]
    (gradient,) = torch.autograd.grad(answers.log_softmax(dim=1)[:, 1].sum(), leaf)
    return gradient


def test_straight_through_holds_the_offset_constant(
    context: Context, pixels: Tensor, rows: Rows
) -> None:
    moved = Rolling().transform(pixels, rows, context).detach().requires_grad_()
    value = context.classifier.logits(moved).log_softmax(dim=1)[:, 1].sum()
    (expected,) = torch.autograd.grad(value, moved)
    torch.testing.assert_close(gradient_of(Rolling(), context, pixels, rows), expected)


@pytest.mark.parametrize("limit", [None, 0.3])
def test_unrolled_is_the_derivative_of_all_steps(limit: float | None) -> None:
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(5, 9, generator=generator, dtype=torch.float64)
    pixels = torch.rand(2, 1, 3, 3, generator=generator, dtype=torch.float64).requires_grad_()

    def value(moved: Tensor) -> Tensor:
        return (moved.flatten(1) @ weight.T).tanh().logsumexp(dim=1)

    def last(given: Tensor) -> Tensor:
        descent = Descent(3, 0.4, limit, norm="l2", box=False)
        return given + offsets(descent, value, given, unrolled=True)[-1]

    assert torch.autograd.gradcheck(last, pixels)


def test_the_rule_unrolled_goes_through_the_optimiser(
    context: Context, pixels: Tensor, rows: Rows
) -> None:
    knowing = replace(context, rule="unrolled")
    held, passed = (gradient_of(Rolling(), each, pixels, rows) for each in (context, knowing))
    assert not torch.allclose(held, passed, rtol=1e-3)
    same = (Rolling().transform(pixels, rows, each) for each in (context, knowing))
    torch.testing.assert_close(*same)


def test_the_mean_over_iterates_is_that_of_the_probabilities_at_each(
    context: Context, pixels: Tensor, rows: Rows
) -> None:
    knowing = replace(context, rule="iterates")
    defense = Hedge(steps=3)
    images = [pixels]
    images += [Hedge(steps=steps).transform(pixels, rows, context) for steps in (1, 2, 3)]
    expected = torch.stack([context.classifier.probabilities(each) for each in images]).mean(dim=0)
    answers = draw_logits(defense, knowing, pixels, rows, draws=2)
    assert answers.shape == (COUNT, 2, 10)
    torch.testing.assert_close(answers.exp()[:, 0], expected)
    leaf = pixels.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(draw_logits(defense, knowing, leaf, rows).sum(), leaf)
    assert (gradient.flatten(1).abs().amax(dim=1) > 0).all()


def test_iterates_pass_the_other_parts_of_a_chain_on_the_images_own_draws(
    context: Context, pixels: Tensor, rows: Rows
) -> None:
    knowing = replace(context, rule="iterates")
    single = FlipCrop(draws=1)
    images = [pixels, Hedge(steps=1).transform(pixels, rows.within("hedge#0"), context)]
    answers = [
        context.classifier.probabilities(
            single.transform(each, rows.within("flip-crop#0"), context)
        )
        for each in images
    ]
    chain = Chain(parts=(Hedge(steps=1), single))
    found = draw_logits(chain, knowing, pixels, rows)
    torch.testing.assert_close(found[:, 0].exp(), (answers[0] + answers[1]) / 2)
    few = draw_logits(chain, replace(knowing, rows_at_once=4), pixels, rows)
    torch.testing.assert_close(few, found)


def test_a_smoothed_sign_lets_a_gradient_through_every_step(
    context: Context, pixels: Tensor, rows: Rows
) -> None:
    smooth = replace(context, smoothing=1.0)
    defense = Hedge(steps=2)
    held, passed = (gradient_of(defense, each, pixels, rows) for each in (context, smooth))
    assert not torch.allclose(held, passed)
    nearly = Hedge(steps=1).transform(pixels, rows, replace(context, smoothing=1e-6))
    hard = Hedge(steps=1).transform(pixels, rows, context)
    agree(nearly, hard.double())


def test_an_attack_chooses_from_the_declaration_alone() -> None:
    assert Hedge().gradients() == ("straight-through", "iterates")
    assert Hedge().smooths()
    assert Rolling().gradients() == ("straight-through", "iterates", "unrolled")
    assert not Rolling().smooths()
    chain = Chain(parts=(Counter(), Hedge(), Rolling())).resolved(PROBLEM)
    assert chain.gradients() == ("straight-through", "iterates", "unrolled")
    assert chain.inner_steps() == 20
    short = chain.shorter(5)
    assert [part.inner_steps() for _, part in short.stages()] == [0, 5, 3]
    assert Counter().shorter(5) == Counter()
    assert (Counter().inner_steps(), Counter().gradients()) == (0, ("straight-through",))

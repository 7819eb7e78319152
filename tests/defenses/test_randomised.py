"""Total variation, smoothing and counterattacks, held against their formulas in float64."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.optimize import minimize
from scipy.stats import binomtest
from torch import Tensor, nn

from tasks.classifier.frozen import Frozen
from tasks.data.arrays import Crafted, Images, as_float
from tasks.data.seeding import Rows
from tasks.defenses.base import Context
from tasks.defenses.chain import Chain
from tasks.defenses.counter import Counter
from tasks.defenses.guo import Guo
from tasks.defenses.smooth import Smooth, fair_coin
from tasks.defenses.transforms import total_variation
from tasks.defenses.ttc import TTC
from tasks.defenses.tv import TV
from tasks.evaluation.costs import prediction_passes
from tasks.evaluation.defend import defend, predict
from tasks.evaluation.specs import DefendSpec
from tasks.progress import silent
from tasks.specs import Passes, Problem, Shard

COUNT, CLASSES = 6, 10
PROBLEM = Problem(epsilon=8, classes=CLASSES, side=8, pool=40)


def network() -> nn.Sequential:
    generator = torch.Generator().manual_seed(3)
    made = nn.Sequential(
        nn.Conv2d(1, 4, 3, padding=1), nn.Tanh(), nn.Flatten(), nn.Linear(256, CLASSES)
    )
    with torch.no_grad():
        for weight in made.parameters():
            weight.copy_(torch.randn(weight.shape, generator=generator) * 0.3)
    return made


@pytest.fixture(scope="module")
def context() -> Context:
    generator = torch.Generator().manual_seed(5)
    pixels = torch.randint(0, 256, (40, 1, 8, 8), generator=generator, dtype=torch.uint8)
    pool = Images(pixels, torch.arange(40) % CLASSES, torch.arange(40), CLASSES)
    return Context(Frozen(network(), classes=CLASSES), pool)


@pytest.fixture(scope="module")
def pixels() -> Tensor:
    return torch.rand(COUNT, 1, 8, 8, generator=torch.Generator().manual_seed(1))


@pytest.fixture(scope="module")
def rows() -> Rows:
    images = torch.arange(COUNT)
    return Rows(0, images, torch.zeros_like(images)).within("defend")


# ---------------------------------------------------------------- total variation


def smooth_image() -> Tensor:
    """float64 [1, 1, 6, 6], a step and a ramp with noise."""
    ramp = torch.linspace(0.2, 0.5, 6, dtype=torch.float64).repeat(6, 1)
    ramp[:, 3:] += 0.3
    noise = torch.randn(6, 6, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    return (ramp + 0.02 * noise)[None, None]


def by_hand(z: np.ndarray, x: np.ndarray, mask: np.ndarray, weight: float, soft: float) -> float:
    """The objective of one channel [H, W], its corners rounded by `soft`."""
    down, across = np.zeros_like(z), np.zeros_like(z)
    down[:-1], across[:, :-1] = np.diff(z, axis=0), np.diff(z, axis=1)
    variation = np.sqrt(down**2 + across**2 + soft**2).sum()
    return float(np.sqrt(((mask * (z - x)) ** 2).sum() + soft**2) + weight * variation)


def test_many_steps_find_the_minimum_that_another_solver_finds() -> None:
    x = smooth_image()
    mask = (torch.rand(x.shape, generator=torch.Generator().manual_seed(2)) < 0.5).double()
    image, kept = x[0, 0].numpy(), mask[0, 0].numpy()
    start = image.flatten()
    for soft in (1e-2, 1e-3, 1e-4, 1e-5):
        start = minimize(
            lambda z, soft=soft: by_hand(z.reshape(6, 6), image, kept, 0.03, soft),
            start,
            method="L-BFGS-B",
            options={"maxiter": 2000, "maxfun": 10**6},
        ).x
    least = by_hand(start.reshape(6, 6), image, kept, 0.03, 0.0)
    found = total_variation.minimised(x, mask, 0.03, 3000)
    reached = by_hand(found[0, 0].numpy(), image, kept, 0.03, 0.0)
    assert reached <= least * 1.0005
    assert reached < by_hand(image, image, kept, 0.03, 0.0) * 0.95
    stated = total_variation.objective(found, x, mask, 0.03).item()
    assert stated == pytest.approx(reached, rel=1e-9)


def test_fifty_steps_are_near_the_minimum_of_a_photograph() -> None:
    generator = torch.Generator().manual_seed(0)
    place = torch.linspace(0, 6, 32, dtype=torch.float64)
    x = (place[:, None].sin() * place.cos() / 3 + 0.5).repeat(2, 3, 1, 1)
    x += 0.04 * torch.randn(x.shape, generator=generator, dtype=torch.float64)
    mask = (torch.rand(x.shape, generator=generator) < 0.5).double()
    few, many = (total_variation.minimised(x, mask, 0.03, n) for n in (50, 4000))
    reached, least = (total_variation.objective(z, x, mask, 0.03) for z in (few, many))
    assert (reached <= 1.02 * least).all()


def test_tv_solves_for_the_pixels_that_each_draw_keeps(
    context: Context, pixels: Tensor, rows: Rows
) -> None:
    found = TV(keep=0.3).transform(pixels, rows, context)
    mask = (rows.uniform("mask", 64).view_as(pixels) < 0.3).double()
    exact = total_variation.minimised(pixels.double(), mask, 0.03, 50)
    torch.testing.assert_close(found.double(), exact.clamp(0, 1), atol=1e-5, rtol=0)
    leaf = pixels.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(TV().transform(leaf, rows, context).sum(), leaf)
    assert (gradient == 1).all()
    assert prediction_passes(TV(), CLASSES) == Passes(forwards=10, touched=10 * TV().touched())


# ---------------------------------------------------------------- smoothing


def test_smooth_predicts_the_shares_of_votes(context: Context, pixels: Tensor, rows: Rows) -> None:
    found = predict(Smooth(), context, pixels, rows, 64)
    drawn = rows.repeated(torch.arange(100)).within("smooth#0").normal("noise", 64).double()
    noisy = pixels.double().repeat_interleave(100, dim=0) + 0.25 * drawn.view(-1, 1, 8, 8)
    assert ((noisy < 0) | (noisy > 1)).any()
    with torch.no_grad():
        votes = network().double()(noisy).argmax(dim=1).view(COUNT, 100)
    expected = nn.functional.one_hot(votes, CLASSES).double().mean(dim=1)
    # a vote may go another way in float32 where two classes are equal to a rounding
    assert (found - expected).abs().max() <= 0.0100001
    assert prediction_passes(Smooth(), CLASSES) == Passes(forwards=100)


@pytest.mark.parametrize(("first", "second"), [(1, 0), (5, 5), (60, 40), (67, 33), (70, 25)])
def test_the_test_of_a_fair_coin_is_the_exact_binomial_one(first: int, second: int) -> None:
    exact = binomtest(first, first + second).pvalue
    assert fair_coin(first, second) == pytest.approx(exact, rel=1e-9)


def test_smooth_abstains_where_votes_may_come_from_a_fair_coin() -> None:
    votes = [(60, 40), (67, 33), (66, 34), (100, 0), (50, 50), (30, 10), (20, 19)]
    shares = torch.tensor([[a, b, 100 - a - b] for a, b in votes], dtype=torch.float32) / 100
    # the rest of the last two are not all of one class
    shares = torch.cat((shares[:, :2], shares[:, 2:].repeat(1, 10) / 10), dim=1)
    found = Smooth().abstains(shares[:, None], 100)
    assert found.shape == (7, 1)
    expected = [binomtest(a, a + b).pvalue > 0.001 for a, b in votes]
    assert found[:, 0].tolist() == expected
    assert expected == [True, False, True, False, True, True, True]


def test_a_smoothed_model_that_abstains_is_wrong(context: Context, pixels: Tensor) -> None:
    ids = torch.arange(COUNT)
    labels = context.classifier.logits(pixels).argmax(dim=1)
    crafted = Crafted(pixels, labels, ids, torch.full_like(ids, -1))
    spec = Smooth(draws=20, standard_deviation_255ths=200)
    made = DefendSpec(defense=spec, shard=Shard(start=0, stop=COUNT), seed=0, redraws=3)
    outcomes = defend(crafted, context, made, batch_size=100, tell=silent)
    assert outcomes.abstained is not None
    assert outcomes.abstained.any()
    assert not (outcomes.correct & outcomes.abstained).any()
    top = (outcomes.probabilities * 20).round().topk(2, dim=2).values
    for mask, (first, second) in zip(
        outcomes.abstained.flatten(), top.flatten(0, 1).tolist(), strict=True
    ):
        assert bool(mask) == (binomtest(int(first), int(first + second)).pvalue > 0.001)


def test_what_smooths_comes_last_and_counts_the_draws_of_its_chain(
    context: Context, pixels: Tensor, rows: Rows
) -> None:
    chain = Chain(parts=(Counter(), Smooth(draws=8))).resolved(PROBLEM)
    assert chain.gradients() == ("surrogate",)
    assert chain.leaves_range()
    shares = predict(chain, context, pixels, rows, 100) * 8
    torch.testing.assert_close(shares, shares.round(), atol=1e-5, rtol=0)
    with pytest.raises(ValueError, match="smooth combines several answers"):
        Chain(parts=(Smooth(), Guo()))


# ---------------------------------------------------------------- counterattacks


def features(pixels: Tensor) -> Tensor:
    """Of the network, in float64."""
    exact = network().double()[:3]
    result: Tensor = exact(pixels)
    return result


def noise_of(pixels: Tensor, rows: Rows, limit: float) -> Tensor:
    drawn = limit * (2 * rows.uniform("start", 64).view_as(pixels).double() - 1)
    return (pixels.double() + drawn).clamp(0, 1) - pixels.double()


def shares(pixels: Tensor, noise: Tensor) -> Tensor:
    with torch.no_grad():
        before, after = features(pixels.double()), features(pixels.double() + noise)
    return (after - before).norm(dim=1) / before.norm(dim=1)


def half_below(pixels: Tensor, rows: Rows) -> tuple[Tensor, Tensor, float]:
    """The noise that TTC begins with, how far it moves features, and a threshold amid these."""
    start = noise_of(pixels, rows, 8 / 255)
    taus = shares(pixels, start)
    return start, taus, float(taus.sort().values[2:4].mean())


def test_ttc_steps_away_from_the_features_where_noise_moves_them_little(
    context: Context, pixels: Tensor, rows: Rows
) -> None:
    limit = 8 / 255
    start, taus, threshold = half_below(pixels, rows)
    defense = TTC(threshold=threshold).resolved(PROBLEM)
    found = defense.transform(pixels, rows, context)
    origin = pixels.double()
    offsets = [start]
    for _ in range(2):
        leaf = (origin + offsets[-1]).requires_grad_()
        distance = (features(leaf) - features(origin)).square().sum()
        (gradient,) = torch.autograd.grad(distance, leaf)
        moved = (offsets[-1] + limit / 4 * gradient.sign()).clamp(-limit, limit)
        offsets.append((origin + moved).clamp(0, 1) - origin)
    weights = np.exp(2.0 * np.arange(3))
    weights /= weights.sum()
    mean = sum(w * each for w, each in zip(weights, offsets, strict=True))
    assert isinstance(mean, Tensor)
    acts = (taus < threshold).reshape(-1, 1, 1, 1)
    assert acts.sum() == 3
    expected = origin + torch.where(acts, mean, start)
    apart = (found.double() - expected).abs() > 1e-6
    assert apart.sum() <= 1  # the sign of a gradient that is nearly zero


def test_the_threshold_of_ttc_is_a_percentile_of_the_training_images(
    context: Context, pixels: Tensor, rows: Rows
) -> None:
    defense = TTC().resolved(PROBLEM)
    assert context.pool is not None
    clean = as_float(context.pool.pixels)
    ids = torch.arange(40)
    own = Rows(0, ids, torch.zeros_like(ids)).within("ttc-threshold")
    taus = shares(clean, noise_of(clean, own, 8 / 255))
    before = context.classifier.passes
    threshold = defense.gate(context)
    assert threshold == pytest.approx(np.quantile(taus.numpy(), 0.05), rel=1e-4)
    assert context.classifier.passes == before
    given = TTC(threshold=threshold).resolved(PROBLEM)
    assert torch.equal(
        given.transform(pixels, rows, replace(context, pool=None)),
        defense.transform(pixels, rows, context),
    )
    assert (given.needs_pool(), defense.needs_pool()) == (False, True)
    with pytest.raises(ValueError, match="ttc: the context has no pool of training images"):
        defense.transform(pixels, rows, replace(context, pool=None))


def test_ttc_is_in_epsilons_of_the_problem_and_costs_what_is_asked(
    context: Context, pixels: Tensor, rows: Rows
) -> None:
    assert (TTC().resolved(PROBLEM).limit, TTC().resolved(PROBLEM).step_size) == (8, 2)
    strong = TTC(epsilons=4).resolved(PROBLEM)
    assert (strong.limit, strong.step_size) == (32, 8)
    assert prediction_passes(TTC(), CLASSES) == Passes(4, 2)
    before = context.classifier.passes
    predict(TTC().resolved(PROBLEM), context, pixels, rows, 100)
    assert context.classifier.passes - before == Passes(4, 2) * COUNT
    assert not TTC().deterministic(CLASSES)
    rules = ("straight-through", "iterates", "differentiable")
    assert TTC().resolved(PROBLEM).gradients() == rules


def test_an_attacker_may_climb_through_the_gate_of_ttc(
    context: Context, pixels: Tensor, rows: Rows
) -> None:
    start, _, threshold = half_below(pixels, rows)
    defense = TTC(threshold=threshold).resolved(PROBLEM)
    constant = defense.transform(pixels, rows, context)
    leaf = pixels.clone().requires_grad_()
    found = defense.transform(leaf, rows, replace(context, rule="differentiable"))
    assert torch.equal(found, constant)  # a defender's answer is the same

    weights = torch.linspace(-1, 1, 64).view(1, 1, 8, 8)
    (gradient,) = torch.autograd.grad((found * weights).sum(), leaf)
    always = TTC(threshold=1e6).resolved(PROBLEM).transform(pixels, rows, context).double()
    gain = ((always - pixels.double() - start) * weights.double()).flatten(1).sum(dim=1)
    exact = pixels.double().requires_grad_()
    before, after = features(exact), features(exact + start)
    open_by = (threshold - (after - before).norm(dim=1) / before.norm(dim=1)).clamp_min(0)
    (through_the_gate,) = torch.autograd.grad((gain * open_by / threshold).sum(), exact)
    assert (through_the_gate.flatten(1).abs().sum(dim=1) > 0).sum() == 3
    expected = weights.double() + through_the_gate
    assert torch.allclose(gradient.double(), expected, rtol=1e-3, atol=1e-5)

"""Square Attack: what its random squares are, and how strong they are beside other attacks."""

import warnings
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from tasks.attacks.apgd import APGD
from tasks.attacks.base import Victim
from tasks.attacks.search.squares import pyramid_pair, side_at
from tasks.attacks.square import Square
from tasks.data.arrays import as_float
from tasks.data.seeding import Rows
from tasks.data.splits import digits


def rows(count: int, *, seed: int = 0) -> Rows:
    places = torch.arange(count)
    return Rows(seed, images=places, draws=torch.zeros_like(places))


@pytest.fixture(scope="module")
def images(network) -> tuple[Tensor, Tensor]:
    """The digits, of test and training, that the network gets right; 600 of them."""
    parts = digits()
    pixels = torch.cat((as_float(parts.test.pixels), as_float(parts.train.pixels)))
    labels = torch.cat((parts.test.labels, parts.train.labels))
    right = (network(pixels).argmax(dim=1) == labels).nonzero()[:600, 0]
    return pixels[right], labels[right]


def victim_of(network: nn.Module) -> Victim:
    return Victim(lambda pixels, _: network(pixels), classes=10)


def robust(network: nn.Module, pixels: Tensor, labels: Tensor) -> float:
    """The share of images, in %, that are still read rightly."""
    return float((network(pixels).argmax(dim=1) == labels).float().mean() * 100)


def test_squares_shrink_with_the_share_of_the_queries_as_in_the_paper():
    # of 10,000 queries on 32 x 32 pixels: the area is 0.8 of the image, halved after 10, 50, ...
    sides = {
        query: side_at(query, 10_000, area=0.8, height=32, width=32, odd=False)
        for query in (1, 10, 11, 51, 201, 501, 1001, 2001, 4001, 6001, 8001)
    }

    halved = [round((0.8 / 2**n) ** 0.5 * 32) for n in (0, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9)]
    assert list(sides.values()) == halved
    assert side_at(1, 10_000, area=1.0, height=8, width=6, odd=True) == 6
    assert side_at(9, 10, area=0.01, height=8, width=8, odd=True) == 3


def test_a_pyramid_pair_is_the_papers_by_hand():
    # n = 1: the middle 1/1 + 1/4, around it 1/4; one column raised, two sunken
    high, low = 1 + 1 / 4, 1 / 4
    expected = torch.tensor([[low, -low, -low], [high, -low, -high], [low, -low, -low]])

    pair = pyramid_pair(3)

    torch.testing.assert_close(pair, (expected / expected.norm()).double())
    assert pyramid_pair(1).abs().tolist() == [[1.0]]


def test_in_linf_every_pixel_ends_at_a_corner_of_the_ball_or_of_the_range(network, images):
    pixels, labels = images[0][:20], images[1][:20]
    found = Square(epsilon=16, queries=40).perturb(victim_of(network), pixels, labels, rows(20))

    corners = [(pixels + sign * 16 / 255).clamp(0, 1) for sign in (-1, 1)]
    assert torch.minimum(*((found - corner).abs() for corner in corners)).max() < 1e-6


def test_one_query_changes_one_square_of_the_stripes(network, images):
    asked = []
    victim = Victim(lambda pixels, _: (asked.append(pixels), network(pixels))[1], classes=10)
    grey, labels = torch.full_like(images[0][:30], 0.5), images[1][:30]

    Square(epsilon=16, queries=3, area=0.2).perturb(victim, grey, labels, rows(30))

    stripes, first, _ = asked
    assert torch.equal(stripes, stripes[:, :, :1].expand_as(stripes))
    for one, other in zip(stripes, first, strict=True):
        # a third of the queries halves the area five times: one pixel, or none where it agrees
        assert int((one != other).sum()) <= 1
    assert (stripes != first).any()
    assert len((stripes != first).flatten(1).int().argmax(dim=1).unique()) > 5


def test_in_l2_the_whole_radius_is_spent_where_no_pixel_is_clipped(network, images):
    grey, labels = 0.25 + 0.5 * images[0][:20], images[1][:20]
    found = Square(norm="l2", epsilon=60, queries=60).perturb(
        victim_of(network), grey, labels, rows(20)
    )

    sizes = (found - grey).flatten(1).norm(dim=1)
    torch.testing.assert_close(sizes, torch.full((20,), 60 / 255), rtol=1e-4, atol=0)


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_a_margin_never_falls_from_one_query_to_the_next(norm, network, images):
    pixels, labels = images[0][:50], images[1][:50]
    best = []

    def logits(points, query):
        found = network(points)
        others = found.scatter(1, labels[:, None], -torch.inf).amax(dim=1)
        best.append(others - found.gather(1, labels[:, None])[:, 0])
        return found

    attack = Square(norm=norm, epsilon=16 if norm == "linf" else 100, queries=50)
    crafted = attack.perturb(Victim(logits, 10), pixels, labels, rows(50))
    queries = torch.stack(best)
    logits(crafted, 50)

    assert torch.equal(best[-1], queries.amax(dim=0))
    assert (queries.amax(dim=0) > queries[0]).float().mean() > 0.5


@pytest.mark.parametrize(("norm", "epsilon"), [("linf", 14.0), ("l2", 100.0)])
def test_more_queries_break_more_but_no_more_than_gradients_do(norm, epsilon, network, images):
    victim, (pixels, labels) = victim_of(network), images
    few, many, gradients = (
        robust(network, attack.perturb(victim, pixels, labels, rows(600)), labels)
        for attack in (
            Square(norm=norm, epsilon=epsilon, queries=20),
            Square(norm=norm, epsilon=epsilon, queries=500),
            APGD(norm=norm, epsilon=epsilon, steps=50, loss="margin", restarts=2),
        )
    )

    assert few - 2 > many
    assert many >= gradients - 0.2


@pytest.mark.slow
@pytest.mark.parametrize("epsilon", [10.0, 20.0])
def test_it_is_as_strong_as_the_adversarial_robustness_toolboxs(
    epsilon, network, images, monkeypatch
):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from art.attacks.evasion import SquareAttack
        from art.estimators.classification import PyTorchClassifier

    pixels, labels = images
    classifier = PyTorchClassifier(
        network,
        loss=nn.CrossEntropyLoss(),
        input_shape=(1, 8, 8),
        nb_classes=10,
        clip_values=(0.0, 1.0),
        device_type="cpu",
    )
    theirs = SquareAttack(
        classifier,
        norm=np.inf,
        eps=epsilon / 255,
        max_iter=300,
        p_init=0.8,
        batch_size=600,
        verbose=False,
    )
    random = np.random.default_rng(0)
    # The toolbox's squares stop short of the last row and column, the paper's do not; its other
    # random numbers are signs.
    monkeypatch.setattr(np.random, "randint", lambda low, high: random.integers(low, high + 1))
    monkeypatch.setattr(np.random, "choice", random.choice)
    reference = robust(
        network, torch.from_numpy(theirs.generate(pixels.numpy(), labels.numpy())), labels
    )

    attack = Square(epsilon=epsilon, queries=301)
    ours = robust(network, attack.perturb(victim_of(network), pixels, labels, rows(600)), labels)

    assert 5 < ours < 95
    # Over seeds ours moves by 0.2 points, the toolbox, whose batch shares its squares, by 1.6.
    assert abs(ours - reference) <= 3


def noisy(network: nn.Module, *, scale: float) -> Victim:
    """A model with noise on its logits: of each query's own, and in `judged` of each window's."""

    def drawn(pixels: Tensor, purpose: str, step: int) -> Tensor:
        noise = rows(len(pixels)).within(purpose).at(step).normal("noise", 10)
        with torch.no_grad():
            found: Tensor = network(pixels) + scale * noise
        return found

    return Victim(
        lambda pixels, step: drawn(pixels, "query", step),
        classes=10,
        judged=lambda pixels, window: drawn(pixels, "judge", window),
    )


def test_a_few_lucky_draws_do_not_end_the_search_of_a_randomised_model(network, images):
    pixels, labels = images[0][:200], images[1][:200]
    attack, fresh = Square(epsilon=40, queries=200), noisy(network, scale=4.0)

    left = {
        window: robust(
            network,
            attack.perturb(replace(fresh, window=window), pixels, labels, rows(200)),
            labels,
        )
        for window in (None, 32)
    }

    assert left[32] < left[None] - 10, left


def test_the_best_point_is_asked_about_again_on_the_draws_of_the_next_window(network, images):
    asked: list[tuple[int, Tensor]] = []
    quiet = noisy(network, scale=1.0)
    judged = quiet.judged
    assert judged is not None

    def seen(pixels: Tensor, window: int) -> Tensor:
        asked.append((window, pixels.clone()))
        return judged(pixels, window)

    victim = replace(quiet, judged=seen, window=4)
    Square(epsilon=16, queries=10).perturb(victim, images[0][:5], images[1][:5], rows(5))

    assert [window for window, _ in asked] == [0] * 4 + [1] * 5 + [2] * 3
    # the first of a window is the best of those before: it was asked about already
    for at in (4, 9):
        before = torch.stack([points for _, points in asked[:at]])
        assert (before == asked[at][1]).flatten(2).all(dim=2).any(dim=0).all()

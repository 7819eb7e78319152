"""Auto-PGD beside the paper's algorithm in float64, a public implementation, and PGD."""

import copy
import io
import math
import warnings
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image
from shared_files import RESNET20, TEST_IMAGES
from torch import Tensor, nn

from tasks.attacks.apgd import APGD
from tasks.attacks.base import Victim
from tasks.attacks.pgd import PGD
from tasks.attacks.search.auto_descent import Candidates, Question, climb
from tasks.attacks.search.descent import random_start
from tasks.attacks.search.geometry import Ball
from tasks.attacks.search.objectives import Goal
from tasks.attacks.search.schedule import checkpoints
from tasks.classifier.checkpoint import load_weights, weights_from_bytes
from tasks.classifier.frozen import Frozen
from tasks.data.arrays import as_float
from tasks.data.seeding import Rows
from tasks.data.splits import digits
from tasks.networks.resnet20 import ResNet20


def rows(count: int) -> Rows:
    places = torch.arange(count)
    return Rows(0, images=places, draws=torch.zeros_like(places))


@pytest.fixture(scope="module")
def images(network) -> tuple[Tensor, Tensor]:
    """The test digits that the network gets right."""
    test = digits().test
    pixels = as_float(test.pixels)
    right = network(pixels).argmax(dim=1) == test.labels
    return pixels[right], test.labels[right]


def cifar10_images(path: Path, count: int) -> tuple[Tensor, Tensor]:
    """The first test images of CIFAR-10, of their Parquet file."""
    table = pq.read_table(path).slice(0, count).to_pylist()
    pictures = [np.asarray(Image.open(io.BytesIO(row["img"]["bytes"]))) for row in table]
    pixels = torch.from_numpy(np.stack(pictures)).permute(0, 3, 1, 2)
    return as_float(pixels), torch.tensor([row["label"] for row in table])


def victim_of(network: nn.Module) -> Victim:
    return Victim(lambda pixels, _: network(pixels), classes=10)


def robust(network: nn.Module, pixels: Tensor, labels: Tensor) -> float:
    """The share of images, in %, that are still read rightly."""
    return float((network(pixels).argmax(dim=1) == labels).float().mean() * 100)


def test_checkpoints_are_the_papers():
    assert checkpoints(100) == [22, 41, 57, 70, 80, 87, 93, 99]
    # by hand: the ceilings of 10 times the same shares
    assert checkpoints(10) == [3, 5, 6, 7, 8, 9, 10]
    assert checkpoints(1) == [1]


def test_of_two_candidates_the_one_that_fools_is_better_and_then_the_higher():
    def of(value: float, reached: bool) -> Candidates:
        pixels = torch.full((1, 1, 1, 1), value)
        return Candidates(pixels, torch.tensor([value]), torch.tensor([reached]))

    pairs = [
        (of(0.1, True), of(0.9, False), 0.1),
        (of(0.9, False), of(0.1, True), 0.1),
        (of(0.2, True), of(0.3, True), 0.3),
        (of(0.3, False), of(0.2, False), 0.3),
    ]
    for one, other, expected in pairs:
        assert one.or_better(other).pixels.item() == pytest.approx(expected)


def test_a_step_that_only_overshoots_is_halved_until_the_top_is_found():
    top = torch.full((1, 1, 2, 2), 0.53)

    def hill(pixels, step, *, climb):
        away = pixels - top
        values = -away.abs().flatten(1).sum(dim=1)
        return Candidates(pixels, values, torch.zeros(1, dtype=torch.bool)), -away.sign()

    start = torch.full((1, 1, 2, 2), 0.5)
    found = climb(hill, start, start, ball=Ball("linf", 0.1), steps=100)

    # steps of 0.2, never halved, go from one end of the ball to the other
    assert (found.pixels - top).abs().max() < 0.005


def papers_algorithm(network, original, start, label, *, radius, steps):
    """Algorithm 1 of Croce and Hein (2020), linf, for one image in float64 with the margin loss."""

    def f(x):
        leaf = torch.from_numpy(x)[None].requires_grad_()
        logits = network(leaf)[0]
        others = torch.cat((logits[:label], logits[label + 1 :]))
        value = others.max() - logits[label]
        return float(value.detach()), torch.autograd.grad(value, leaf)[0][0].numpy()

    def project(x):
        return np.clip(np.clip(x, original - radius, original + radius), 0.0, 1.0)

    p = [0.0, 0.22]
    while p[-1] + max(p[-1] - p[-2] - 0.03, 0.06) <= 1:
        p.append(p[-1] + max(p[-1] - p[-2] - 0.03, 0.06))
    w = [math.ceil(round(share * steps, 9)) for share in p]
    eta, x_before, x = 2 * radius, start, start
    f_x, g = f(x)
    f_max, x_max, g_max = f_x, x, g
    eta_w, f_max_w, risen = eta, f_max, []
    for k in range(steps):
        z = project(x + eta * np.sign(g))
        following = z if k == 0 else project(x + 0.75 * (z - x) + 0.25 * (x - x_before))
        f_following, g = f(following)
        risen.append(f_following > f_x)
        x_before, x, f_x = x, following, f_following
        if f_x > f_max:
            f_max, x_max, g_max = f_x, x, g
        if k + 1 in w:
            begin = max(each for each in w if each < k + 1)
            few = sum(risen[begin : k + 1]) < 0.75 * (k + 1 - begin)
            stuck = eta == eta_w and f_max == f_max_w
            eta_w, f_max_w = eta, f_max
            if few or stuck:
                eta, x, f_x, g = eta / 2, x_max, f_max, g_max
    return x_max, f_max


def test_it_is_the_papers_algorithm_in_float64(network, images):
    exact = copy.deepcopy(network).double()
    pixels, labels = images[0][:12].double(), images[1][:12]
    ball = Ball("linf", 16 / 255)
    start = random_start(pixels, rows(12), ball=ball)
    victim = Victim(lambda x, _: torch.cat([exact(each[None]) for each in x]), classes=10)

    ours = climb(Question(victim, Goal(labels), "margin"), pixels, start, ball=ball, steps=40)

    for index in range(12):
        _, value = papers_algorithm(
            exact,
            pixels[index].numpy(),
            start[index].numpy(),
            int(labels[index]),
            radius=ball.radius,
            steps=40,
        )
        assert float(ours.values[index]) == pytest.approx(value, abs=1e-9)


def toolbox(network: nn.Module, side: int, channels: int, *, epsilon: float, norm, steps: int):
    """The Auto-PGD of the Adversarial Robustness Toolbox and the module that it lives in."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from art.attacks.evasion import auto_projected_gradient_descent as module
        from art.estimators.classification import PyTorchClassifier
    classifier = PyTorchClassifier(
        network,
        loss=nn.CrossEntropyLoss(reduction="sum"),
        input_shape=(channels, side, side),
        nb_classes=10,
        clip_values=(0.0, 1.0),
        device_type="cpu",
    )
    attack = module.AutoProjectedGradientDescent(
        classifier,
        norm=norm,
        eps=epsilon / 255,
        eps_step=2 * epsilon / 255,
        max_iter=steps,
        nb_random_init=1,
        batch_size=500,
        verbose=False,
    )
    return attack, module


def both_robust(network, pixels, labels, attack, monkeypatch) -> tuple[float, float]:
    """Robust accuracy in %, ours and the toolbox's, from the same starts."""
    start = random_start(pixels, rows(len(pixels)), ball=attack.ball())
    theirs, module = toolbox(
        network,
        pixels.shape[-1],
        pixels.shape[1],
        epsilon=attack.epsilon,
        norm=np.inf if attack.norm == "linf" else 2,
        steps=attack.steps,
    )
    monkeypatch.setattr(
        module, "random_sphere", lambda *_: (start - pixels).flatten(1).double().numpy()
    )
    ours = attack.perturb(victim_of(network), pixels, labels, rows(len(pixels)))
    reference = torch.from_numpy(theirs.generate(pixels.numpy(), labels.numpy()))
    return robust(network, ours, labels), robust(network, reference, labels)


@pytest.mark.parametrize(
    ("norm", "epsilon"), [("linf", 10.0), ("linf", 20.0), ("l2", 64.0), ("l2", 128.0)]
)
def test_robust_accuracy_agrees_with_the_adversarial_robustness_toolbox(
    norm, epsilon, network, images, monkeypatch
):
    attack = APGD(norm=norm, epsilon=epsilon, steps=50)

    ours, theirs = both_robust(network, *images, attack, monkeypatch)

    assert 5 < ours < 95
    assert abs(ours - theirs) <= 1.0


@pytest.mark.parametrize("epsilon", [10.0, 20.0])
@pytest.mark.parametrize("loss", ["cross-entropy", "margin", "dlr"])
@pytest.mark.parametrize("steps", [10, 50])
def test_it_breaks_at_least_as_many_as_pgd_with_the_same_steps(
    loss, epsilon, steps, network, images
):
    pixels, labels = images
    victim, places = victim_of(network), rows(len(pixels))
    auto = APGD(epsilon=epsilon, steps=steps, loss=loss)
    plain = PGD(epsilon=epsilon, step_size=epsilon / 4, steps=steps)

    broken = [
        100 - robust(network, attack.perturb(victim, pixels, labels, places), labels)
        for attack in (auto, plain)
    ]

    assert broken[0] >= broken[1] > 5


@pytest.mark.parametrize("targeted", [False, True])
def test_restarts_lose_nothing_and_find_higher_points(targeted, network, images):
    pixels, labels = images
    victim, places = victim_of(network), rows(len(pixels))
    goal = Goal(labels, APGD(targeted=True).targets(labels, places, 10) if targeted else None)
    one, three = (
        APGD(epsilon=16, steps=5, loss="margin", restarts=restarts, targeted=targeted).perturb(
            victim, pixels, labels, places
        )
        for restarts in (1, 3)
    )

    margins = [goal.objective(network(found), "margin") for found in (one, three)]

    assert (margins[1] >= margins[0] - 1e-5).all()
    assert (margins[1] > margins[0] + 1e-3).any()


def test_the_victim_is_told_a_new_step_each_time(network, images):
    steps = []
    victim = Victim(lambda pixels, step: (steps.append(step), network(pixels))[1], classes=10)

    APGD(epsilon=8, steps=3, restarts=2).perturb(victim, images[0][:2], images[1][:2], rows(2))

    assert steps == list(range(8))


def test_without_a_random_start_the_first_question_is_about_the_image(network, images):
    asked = []
    victim = Victim(lambda pixels, _: (asked.append(pixels), network(pixels))[1], classes=10)
    attack = APGD(epsilon=8, steps=1, random_start=False)

    attack.perturb(victim, images[0][:2], images[1][:2], rows(2))

    assert torch.equal(asked[0], images[0][:2])


@pytest.mark.slow
@pytest.mark.parametrize("epsilon", [0.5, 1.0])
def test_it_agrees_with_the_toolbox_on_a_public_resnet(epsilon, monkeypatch, shared):
    weights = shared(RESNET20)
    pixels, labels = cifar10_images(shared(TEST_IMAGES), 500)
    module = ResNet20().build(3, 32, 10)
    load_weights(module, weights_from_bytes(weights.read_bytes(), "module."))
    network = Frozen(module, classes=10).module
    right = network(pixels).argmax(dim=1) == labels
    attack = APGD(epsilon=epsilon, steps=20)

    ours, theirs = both_robust(network, pixels[right], labels[right], attack, monkeypatch)

    assert 5 < ours < 95
    assert abs(ours - theirs) <= 1.0

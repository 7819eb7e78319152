"""The counter-perturbation on a network that was really trained, on real digits."""

import copy
from typing import Any

import pytest
import torch
from sklearn.datasets import load_digits
from torch import nn
from torch.nn.functional import cross_entropy

from tasks.classifier.frozen import Frozen
from tasks.data.seeding import Rows
from tasks.defenses.base import Context
from tasks.defenses.counter import Counter
from tasks.specs import Problem

DIGITS = Problem(epsilon=8, classes=10, side=8, pool=1200)


@pytest.fixture(scope="module")
def digits() -> tuple[torch.Tensor, torch.Tensor]:
    data = load_digits()
    pixels = torch.tensor(data.images / 16, dtype=torch.float32)[:, None]
    return pixels, torch.tensor(data.target, dtype=torch.int64)


@pytest.fixture(scope="module")
def network(digits: tuple[torch.Tensor, torch.Tensor]) -> nn.Module:
    pixels, labels = digits[0][:1200], digits[1][:1200]
    torch.manual_seed(0)
    network = nn.Sequential(
        nn.Conv2d(1, 8, 3, padding=1),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.Conv2d(8, 16, 3, stride=2, padding=1),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(16 * 16, 10),
    )
    weights = list(network.parameters())
    for _ in range(60):
        gradients = torch.autograd.grad(cross_entropy(network(pixels), labels), weights)
        with torch.no_grad():
            for weight, gradient in zip(weights, gradients, strict=True):
                weight.sub_(0.3 * gradient)
    return network.eval()


@pytest.fixture
def context(network: nn.Module) -> Context:
    return Context(Frozen(network, classes=10))


@pytest.fixture
def unseen(digits: tuple[torch.Tensor, torch.Tensor]) -> torch.Tensor:
    return digits[0][1200:1500]


def rows_of(count: int, draw: int = 0) -> Rows:
    images = torch.arange(count)
    return Rows(0, images, torch.full_like(images, draw)).within("defend")


def derived(
    network: nn.Module,
    pixels: torch.Tensor,
    labels: torch.Tensor,
    *,
    alpha: float,
    mu: float,
    sign: float,
) -> torch.Tensor:
    """Equation 4 of the paper in float64, one label and one backward pass after another."""
    exact = copy.deepcopy(network).to(torch.float64)
    x = pixels.to(torch.float64)
    total = torch.zeros_like(x)
    for label in labels.T:
        leaf = x.clone().requires_grad_()
        cross_entropy(exact(leaf), label, reduction="sum").backward()
        assert leaf.grad is not None
        total += sign * alpha / 255 * torch.sign(leaf.grad)
    return torch.clip(x + torch.clip(total, -mu / 255, mu / 255), 0, 1)


def test_the_network_has_learned(
    network: nn.Module, digits: tuple[torch.Tensor, torch.Tensor]
) -> None:
    pixels, labels = digits[0][1200:], digits[1][1200:]
    assert (network(pixels).argmax(dim=1) == labels).to(torch.float32).mean() > 0.85


@pytest.mark.parametrize(
    ("spec", "sign"),
    [
        (Counter(), -1),
        (Counter(direction="untargeted"), 1),
        (Counter(label_count=4), -1),
        (Counter(label_count=3, label_pool="all", direction="untargeted"), 1),
        (Counter(label_count=1, step_size=1, limit=2), -1),
        (Counter(step_size=3, limit=20), -1),
    ],
    ids=["default", "untargeted", "four", "all", "one", "wide"],
)
def test_the_result_is_the_formula_worked_out_in_float64(
    spec: Counter, sign: float, context: Context, network: nn.Module, unseen: torch.Tensor
) -> None:
    spec = spec.resolved(DIGITS)
    rows = rows_of(len(unseen))
    assert spec.step_size is not None
    assert spec.limit is not None
    result = spec.transform(unseen, rows, context)
    labels = spec.chosen_labels(context.classifier.logits(unseen), rows)
    if spec.label_pool == "all":
        # The gradient at a label that is all but certain is lost in float32, sign and all.
        unsure = context.classifier.probabilities(unseen).amax(dim=1) < 0.999
        assert unsure.sum() > 50
        unseen, result, labels = unseen[unsure], result[unsure], labels[unsure]
    expected = derived(network, unseen, labels, alpha=spec.step_size, mu=spec.limit, sign=sign)
    equal = (result.to(torch.float64) - expected).abs() <= 1e-6
    assert equal.to(torch.float64).mean().item() > 0.999
    assert not torch.equal(result, unseen)


def test_labels_are_distinct_and_never_the_predicted_one(
    context: Context, network: nn.Module, unseen: torch.Tensor
) -> None:
    predicted = network(unseen).argmax(dim=1)
    for count in (1, 4, 9):
        spec = Counter(label_count=count).resolved(DIGITS)
        labels = spec.chosen_labels(context.classifier.logits(unseen), rows_of(len(unseen)))
        assert labels.shape == (len(unseen), count)
        assert not (labels == predicted[:, None]).any()
        assert all(len(set(row)) == count for row in labels.tolist())


def test_labels_from_all_classes_include_the_predicted_one(
    context: Context, network: nn.Module, unseen: torch.Tensor
) -> None:
    spec = Counter(label_count=5, label_pool="all").resolved(DIGITS)
    labels = spec.chosen_labels(context.classifier.logits(unseen), rows_of(len(unseen)))
    share = (labels == network(unseen).argmax(dim=1)[:, None]).any(dim=1).to(torch.float32).mean()
    assert 0.35 < share < 0.65
    assert set(labels.flatten().tolist()) == set(range(10))


def test_no_pixel_moves_further_than_the_limit(context: Context, unseen: torch.Tensor) -> None:
    spec = Counter(step_size=7, limit=5).resolved(DIGITS)
    moved = spec.perturbation(unseen, rows_of(len(unseen)), context)
    assert moved.abs().max().item() == pytest.approx(5 / 255)
    assert not moved.requires_grad


def test_one_targeted_step_raises_the_probability_of_its_label(
    context: Context, unseen: torch.Tensor
) -> None:
    spec = Counter(label_count=1).resolved(DIGITS)
    rows = rows_of(len(unseen))
    label = spec.chosen_labels(context.classifier.logits(unseen), rows)
    before = context.classifier.probabilities(unseen).gather(1, label)
    after = context.classifier.probabilities(spec.transform(unseen, rows, context)).gather(1, label)
    assert ((after > before).to(torch.float32).mean()) > 0.95


def test_it_is_deterministic_exactly_when_it_takes_every_label() -> None:
    assert Counter().deterministic(10)
    assert Counter().resolved(DIGITS).deterministic(10)
    assert not Counter().deterministic(100)
    assert Counter().deterministic(4)
    assert not Counter(label_count=8).deterministic(10)
    assert not Counter(label_pool="all").deterministic(10)
    assert Counter(label_pool="all", label_count=10).deterministic(10)


def test_given_labels_are_taken_for_every_image_and_nothing_is_drawn(
    context: Context, network: nn.Module, unseen: torch.Tensor
) -> None:
    spec = Counter(labels=[7, 2]).resolved(DIGITS)
    assert spec.label_count == 2
    assert spec.deterministic(10)
    labels = spec.chosen_labels(context.classifier.logits(unseen), rows_of(len(unseen)))
    assert labels.tolist() == [[7, 2]] * len(unseen)
    result = spec.transform(unseen, rows_of(len(unseen)), context)
    # The class itself is nobody's label here: the gradient at a sure one is lost in float32.
    unsure = context.classifier.probabilities(unseen).amax(dim=1) < 0.999
    expected = derived(network, unseen, labels, alpha=4, mu=8, sign=-1)
    equal = ((result.to(torch.float64) - expected).abs() <= 1e-6)[unsure]
    assert equal.to(torch.float64).mean().item() > 0.999
    again = spec.transform(unseen, rows_of(len(unseen), draw=1), context)
    assert torch.equal(again, result)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"labels": [1, 1]}, "has a label twice"),
        ({"labels": [-1]}, "greater than or equal to 0"),
        ({"labels": []}, "at least 1 item"),
        ({"labels": [1], "label_count": 2}, "label_count is 2, but labels has 1"),
        ({"labels": [1], "label_pool": "all"}, "labels are given"),
    ],
)
def test_given_labels_that_do_not_fit_are_refused(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Counter(**fields)


def test_a_given_label_that_is_no_class_is_refused_in_one_line() -> None:
    with pytest.raises(ValueError, match="labels has 10, but the classes are 0 to 9"):
        Counter(labels=[3, 10]).resolved(DIGITS)
    every = Counter(labels=list(range(10))).resolved(DIGITS)
    assert every.label_count == 10


def test_defaults_follow_the_problem() -> None:
    spec = Counter().resolved(Problem(epsilon=6, classes=5, side=8, pool=100))
    assert (spec.label_count, spec.step_size, spec.limit) == (4, 3, 6)


def test_more_labels_than_there_are_is_refused_in_one_line() -> None:
    with pytest.raises(ValueError, match="label_count is 10, but there are 9 labels"):
        Counter(label_count=10).resolved(DIGITS)


def test_the_gradient_sees_the_perturbation_as_a_constant(
    context: Context, unseen: torch.Tensor
) -> None:
    spec, rows = Counter().resolved(DIGITS), rows_of(len(unseen))
    pixels = unseen.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(
        context.classifier.logits(spec.transform(pixels, rows, context)).square().sum(), pixels
    )
    moved = spec.transform(unseen, rows, context).requires_grad_()
    (expected,) = torch.autograd.grad(context.classifier.logits(moved).square().sum(), moved)
    torch.testing.assert_close(gradient, expected)


def test_it_costs_one_forward_pass_and_one_backward_pass_a_label(
    context: Context, unseen: torch.Tensor
) -> None:
    spec = Counter(label_count=6).resolved(DIGITS)
    spec.transform(unseen, rows_of(len(unseen)), context)
    assert context.classifier.forwards == len(unseen)
    assert context.classifier.backwards == 6 * len(unseen)


def test_an_unresolved_counter_says_what_is_missing(context: Context, unseen: torch.Tensor) -> None:
    with pytest.raises(ValueError, match="resolved"):
        Counter().transform(unseen, rows_of(len(unseen)), context)

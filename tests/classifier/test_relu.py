"""The second derivative that an attacker gives the ReLUs of a network."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from tasks.classifier.frozen import Frozen
from tasks.classifier.relu import bumps

WIDTH = 0.2


class InPlace(nn.Module):
    def forward(self, values: Tensor) -> Tensor:
        functional.relu(values, inplace=True)  # as old code writes it, without taking the result
        return values


ZERO = ((0.0, 1.0),)
SIX = ((0.0, 1.0), (1.5, -1.0))
FORMS: dict[str, tuple[Callable[[Tensor], Tensor], Any]] = {
    "module": (nn.ReLU(), ZERO),
    "module in place": (nn.ReLU(inplace=True), ZERO),
    "functional, by keyword": (lambda values: functional.relu(input=values), ZERO),
    "functional, result not taken": (InPlace(), ZERO),
    "torch.relu": (torch.relu, ZERO),
    "method": (lambda values: values.relu(), ZERO),
    "method in place": (lambda values: values.relu_(), ZERO),
    "operator": (torch.ops.aten.relu, ZERO),
    "overload": (torch.ops.aten.relu_.default, ZERO),
    "clamp_min": (lambda values: torch.clamp_min(values, 0), ZERO),
    "clamp": (lambda values: values.clamp(min=0), ZERO),
    "clamp in place": (lambda values: values.clamp_(0.0), ZERO),
    "clip to both sides": (lambda values: torch.clip(values, 0, 1.5), SIX),
    "maximum": (lambda values: torch.maximum(values, torch.zeros_like(values)), ZERO),
    "max": (lambda values: torch.max(values, values.new_zeros(())), ZERO),
    "threshold": (nn.Threshold(0.0, 0.0), ZERO),
    "leaky": (nn.LeakyReLU(0.25, inplace=True), ((0.0, 0.75),)),
    "hardtanh": (nn.Hardtanh(-0.5, 1.5), ((-0.5, 1.0), (1.5, -1.0))),
    "hardtanh in place": (nn.Hardtanh(0.0, 1.5, inplace=True), SIX),
    "hardtanh as an overload": (
        lambda values: torch.ops.aten.hardtanh.default(values, 0, 1.5),
        SIX,
    ),
    "hardsigmoid": (nn.Hardsigmoid(inplace=True), ((-3.0, 1 / 6), (3.0, -1 / 6))),
    "ReLU6": (nn.ReLU6(), ((0.0, 1.0), (6.0, -1.0))),
    "ReLU6 in place": (nn.ReLU6(inplace=True), ((0.0, 1.0), (6.0, -1.0))),
}
"""Spellings, with where their slope jumps, and by how much."""


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("name", FORMS)
def test_values_and_first_derivatives_are_torchs_and_the_second_has_bumps(name):
    form, bends = FORMS[name]
    pixels, weights, direction = 4 * random(3, 7), random(3, 7, seed=1), random(3, 7, seed=2)
    # there the derivatives of a ReLU and of a clamp differ
    pixels[0, 0], pixels[1, :2] = 0.0, torch.tensor([1.5, 6.0])
    leaf, other = (pixels.clone().requires_grad_() for _ in range(2))
    plain = form(leaf * 1)
    with bumps(WIDTH):
        found = form(other * 1)
    assert torch.equal(found, plain)
    (wanted,) = torch.autograd.grad((plain * weights).sum(), leaf)
    (first,) = torch.autograd.grad((found * weights).sum(), other, create_graph=True)
    assert torch.equal(first, wanted)
    (second,) = torch.autograd.grad((first * direction).sum(), other)
    width = WIDTH * pixels.double().std(dim=1, correction=0, keepdim=True)
    bump = sum(
        jump * (-0.5 * ((pixels - at) / width) ** 2).exp() / (width * math.sqrt(2 * math.pi))
        for at, jump in bends
    )
    expected = weights.double() * direction.double() * bump
    assert torch.allclose(second.double(), expected, rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize(
    "form",
    [
        lambda values: values.clamp(0, 1),  # pixels, which are in that range
        lambda values: (values - 0.5).clamp_min(1e-6),
        lambda values: functional.threshold(values, 0.5, 0.0),
        lambda values: torch.maximum(values, values.detach() * 0.9),
        lambda values: values.max(dim=1, keepdim=True).values.expand_as(values),
        lambda values: torch.flatten(values).relu().view_as(values),  # it has no rows
    ],
)
def test_what_is_no_relu_has_no_bump(form):
    leaf = torch.rand(3, 7, generator=torch.Generator().manual_seed(0)).requires_grad_()
    with bumps(WIDTH):
        found = form(leaf * 1)
    (first,) = torch.autograd.grad(found.square().sum(), leaf, create_graph=True)
    with torch.no_grad():
        slopes = torch.autograd.functional.jacobian(lambda x: form(x * 1), leaf).view(21, 21)
    (second,) = torch.autograd.grad(first.sum(), leaf)
    torch.testing.assert_close(second, (2 * slopes.T @ slopes).sum(dim=0).view_as(second))


def test_what_a_relu_takes_may_not_change_in_place_afterwards():
    leaf = random(3, 5).requires_grad_()
    with bumps(WIDTH):
        values = leaf * 1
        found = values.relu()
        values += 1
    with pytest.raises(RuntimeError, match="given is changed in place afterwards"):
        torch.autograd.grad(found.sum(), leaf)


def test_without_a_width_the_second_derivative_is_zero():
    leaf = random(3, 5).requires_grad_()
    with bumps(None):
        found = (leaf * 1).relu()
    (first,) = torch.autograd.grad(found.square().sum() / 2, leaf, create_graph=True)
    (second,) = torch.autograd.grad(first.sum(), leaf)
    assert torch.equal(second, (leaf > 0).float())  # of the square alone


def test_a_hardsigmoid_has_a_second_derivative_without_a_width_too():
    leaf = (4 * random(3, 5)).requires_grad_()
    with bumps(None):
        found = functional.hardsigmoid(leaf * 1)
    (first,) = torch.autograd.grad(found.square().sum() / 2, leaf, create_graph=True)
    (second,) = torch.autograd.grad(first.sum(), leaf)
    torch.testing.assert_close(second, (leaf.abs() < 3) / 36)


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.linear = nn.Conv2d(3, 6, 3, padding=1), nn.Linear(6 * 64, 10)

    def forward(self, pixels: Tensor) -> Tensor:
        return self.linear(functional.relu(self.conv(pixels), inplace=True).flatten(1))


def gradient_of_a_gradient(classifier: Frozen, pixels: Tensor, width: float | None) -> Tensor:
    leaf = pixels.clone().requires_grad_()
    labels = torch.tensor([[0, 3]]).expand(len(pixels), -1)
    gradients = classifier.label_gradients(
        leaf, lambda _: labels, differentiable=True, relu_width=width
    )
    (found,) = torch.autograd.grad((gradients[:, 0] * gradients[:, 1]).sum(), leaf)
    return found


def test_a_classifiers_gradient_is_the_same_and_bends_where_its_relus_do():
    torch.manual_seed(0)
    classifier = Frozen(Net(), classes=10)
    pixels = torch.rand(4, 3, 8, 8, generator=torch.Generator().manual_seed(1))
    labels = torch.tensor([[0, 3]]).expand(4, -1)
    plain = classifier.label_gradients(pixels, lambda _: labels)
    bent = classifier.label_gradients(
        pixels, lambda _: labels, differentiable=True, relu_width=WIDTH
    )
    assert torch.allclose(plain, bent, rtol=1e-5, atol=1e-8)
    flat, curved = (gradient_of_a_gradient(classifier, pixels, w) for w in (None, WIDTH))
    assert not torch.allclose(flat, curved, rtol=0.1)
    # each image's is its own, whatever it is asked beside
    alone = gradient_of_a_gradient(classifier, pixels[:1], WIDTH)
    assert torch.allclose(alone, curved[:1], rtol=1e-3, atol=1e-6)


class Checkpointed(Net):
    """The same, whose part with a ReLU and a hardtanh is computed again in the backward pass."""

    def __init__(self, *, checkpointed: bool) -> None:
        super().__init__()
        self.checkpointed = checkpointed

    def part(self, pixels: Tensor) -> Tensor:
        values = functional.relu(self.conv(pixels), inplace=True)
        return torch.maximum(functional.hardtanh_(values - 0.2, 0, 0.3).sin(), values.new_zeros(()))

    def forward(self, pixels: Tensor) -> Tensor:
        if self.checkpointed:
            return self.linear(checkpoint(self.part, pixels, use_reentrant=False).flatten(1))
        return self.linear(self.part(pixels).flatten(1))


@pytest.mark.parametrize("width", [None, WIDTH])
def test_a_checkpointed_network_has_the_second_derivative_of_the_same_without(width):
    plain, again = Checkpointed(checkpointed=False), Checkpointed(checkpointed=True)
    again.load_state_dict(plain.state_dict())
    pixels = torch.rand(4, 3, 8, 8, generator=torch.Generator().manual_seed(1))
    found, expected = (
        gradient_of_a_gradient(Frozen(each, classes=10), pixels, width) for each in (again, plain)
    )
    assert expected.any()
    assert torch.equal(found, expected)

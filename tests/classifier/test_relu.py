"""The second derivative that an attacker gives the ReLUs of a network."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from tasks.classifier.frozen import Frozen
from tasks.classifier.relu import bumps

WIDTH = 0.2


class InPlace(nn.Module):
    def forward(self, values: Tensor) -> Tensor:
        functional.relu(values, inplace=True)  # as old code writes it, without taking the result
        return values


FORMS = {
    "module": nn.ReLU(),
    "module in place": nn.ReLU(inplace=True),
    "functional, result not taken": InPlace(),
    "torch.relu": torch.relu,
    "method": lambda values: values.relu(),
    "method in place": lambda values: values.relu_(),
}


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("form", FORMS.values(), ids=FORMS.keys())
def test_values_and_first_derivatives_are_a_relus_and_the_second_is_a_bump(form):
    pixels, weights, direction = random(3, 5), random(3, 5, seed=1), random(3, 5, seed=2)
    leaf = pixels.clone().requires_grad_()
    with bumps(WIDTH):
        found = form(leaf * 1)
    assert torch.equal(found, pixels.relu())
    (first,) = torch.autograd.grad((found * weights).sum(), leaf, create_graph=True)
    assert torch.equal(first, weights * (pixels > 0))
    (second,) = torch.autograd.grad((first * direction).sum(), leaf)
    width = WIDTH * pixels.double().std(dim=1, correction=0, keepdim=True)
    bump = (-0.5 * (pixels.double() / width) ** 2).exp() / (width * math.sqrt(2 * math.pi))
    expected = weights.double() * direction.double() * bump
    assert torch.allclose(second.double(), expected, rtol=1e-4, atol=1e-7)


def test_without_a_width_the_second_derivative_is_zero():
    leaf = random(3, 5).requires_grad_()
    with bumps(None):
        found = (leaf * 1).relu()
    (first,) = torch.autograd.grad(found.square().sum() / 2, leaf, create_graph=True)
    (second,) = torch.autograd.grad(first.sum(), leaf)
    assert torch.equal(second, (leaf > 0).float())  # of the square alone


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

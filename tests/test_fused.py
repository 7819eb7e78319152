"""A convolution with its ReLU in one pass is the two of them, bit for bit."""

from __future__ import annotations

import copy
import subprocess
import sys

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from tasks.fold import fold_batch_norm
from tasks.modules import fused
from tasks.networks.resnet20 import ResNet20
from tasks.networks.resnet50_mi import ResNet50MI


@pytest.fixture(params=[ResNet20(), ResNet50MI()], ids=lambda network: network.kind)
def networks(request, monkeypatch) -> tuple[nn.Module, nn.Module]:
    """One folded, locked network that joins what it can, and its copy that joins nothing."""
    module = request.param.build(3, 32, 10, seed=0).eval().requires_grad_(False)
    for layer in module.modules():
        if isinstance(layer, nn.BatchNorm2d):
            layer.running_mean.uniform_(-0.1, 0.1)
    assert fold_batch_norm(module)
    module = module.to(memory_format=torch.channels_last)
    apart = copy.deepcopy(module)
    joins = fused._in_one
    calls = []

    def in_one(convolution, norm, features):
        mine = any(convolution is layer for layer in module.modules())
        calls.append(mine)
        return mine and joins(convolution, norm, features)

    monkeypatch.setattr(fused, "_in_one", in_one)
    module(torch.rand(1, 3, 32, 32))
    assert calls
    assert all(calls)
    return module, apart


@pytest.fixture
def pixels() -> torch.Tensor:
    drawn = torch.rand(6, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    return drawn.contiguous(memory_format=torch.channels_last)


def test_logits_and_gradients_are_those_of_the_layers_apart(networks, pixels):
    found = []
    for module in networks:
        leaf = pixels.clone().requires_grad_()
        logits = module(leaf)
        (gradient,) = torch.autograd.grad(F.cross_entropy(logits, torch.arange(6)), leaf)
        found.append((logits, gradient))
    assert torch.equal(found[0][0], found[1][0])
    assert torch.equal(found[0][1], found[1][1])
    with torch.inference_mode():
        assert torch.equal(networks[0](pixels), found[1][0])


def test_a_second_derivative_is_that_of_the_layers_apart(networks, pixels):
    found = []
    for module in networks:
        leaf = pixels.clone().requires_grad_()
        loss = module(leaf).tanh().sum()
        (gradient,) = torch.autograd.grad(loss, leaf, create_graph=True)
        found.append(torch.autograd.grad(gradient.square().sum(), leaf)[0])
    assert found[0].any()
    torch.testing.assert_close(found[0], found[1], rtol=1e-4, atol=1e-5)


def test_whatever_trains_goes_layer_by_layer(pixels):
    block = ResNet20().build(3, 32, 10, seed=0).layer1[0]
    features = torch.rand(2, 16, 32, 32)
    assert not fused._in_one(block.conv1, block.bn1, features)
    assert not fused._in_one(block.conv1, nn.Identity(), features), "its weights are not locked"
    block.requires_grad_(False)
    assert fused._in_one(block.conv1, nn.Identity(), features)
    assert not fused._in_one(block.conv1, nn.Identity(), features.double())
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert not fused._in_one(block.conv1, nn.Identity(), features)


FAULTS = """
import resource, sys, torch
if sys.argv[1] == "kept":
    from tasks.memory import keep_freed_memory
    assert keep_freed_memory()
def faults():
    for _ in range(20):
        torch.zeros(50_000_000, dtype=torch.uint8)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt
before = faults()
print(faults() - before)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="a setting of the GNU C library")
def test_memory_that_is_kept_is_not_asked_of_the_system_again():
    counts = [
        int(subprocess.check_output([sys.executable, "-c", FAULTS, how], text=True))
        for how in ("kept", "returned")
    ]
    assert counts[0] < 1_000 < counts[1]

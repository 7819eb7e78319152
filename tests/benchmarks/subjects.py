"""What benchmarks work on: networks, images, and the machine's own peak."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from harness import Comparison
from torch import Tensor, nn

from tasks.networks.base import Network
from tasks.networks.resnet20 import ResNet20
from tasks.networks.resnet50_mi import ResNet50MI

SIDE, CHANNELS, CLASSES = 32, 3, 10
MATRIX = {"cpu": 2048, "cuda": 8192}
BATCHES = {
    "cpu": {"resnet20": 250, "resnet50-mi": 64},
    "cuda": {"resnet20": 2000, "resnet50-mi": 500},
}


@dataclass(frozen=True)
class Subject:
    """A network with weights of no consequence, and random images and labels for it."""

    name: str
    device: str
    module: nn.Module
    pixels: Tensor
    labels: Tensor
    multiplications: int
    classes: int = CLASSES


def subject(network: Network, device: str, images: int | None = None) -> Subject:
    """In eval mode, its weights as a network comes out of training: they require gradients."""
    module = network.build(CHANNELS, SIDE, CLASSES, seed=0).eval().to(device)
    count = images or BATCHES[device][network.kind]
    drawn = torch.Generator().manual_seed(0)
    pixels = torch.rand(count, CHANNELS, SIDE, SIDE, generator=drawn)
    labels = torch.randint(CLASSES, (count,), generator=drawn)
    multiplications = network.multiplications(CHANNELS, SIDE, CLASSES)
    return Subject(
        network.kind, device, module, pixels.to(device), labels.to(device), multiplications
    )


def subjects(device: str) -> Iterator[Subject]:
    """A small network and the paper's."""
    yield subject(ResNet20(), device)
    yield subject(ResNet50MI(), device)


def peak(device: str) -> Comparison:
    """Products of square matrices, the most that the machine does in a second."""
    side = MATRIX[device]
    kinds = {"float32": torch.float32, "bfloat16": torch.bfloat16}
    contenders = {
        f"matrix product, {name}": _product(side, kind, device) for name, kind in kinds.items()
    }
    return Comparison(
        name="peak",
        what=f"product of two matrices of {side} × {side}",
        amount=1,
        unit="products",
        contenders=contenders,
        ours=tuple(contenders),
        flop=2.0 * side**3,
    )


def _product(side: int, kind: torch.dtype, device: str) -> Callable[[], Tensor]:
    matrix = torch.rand(side, side, device=device).to(kind)

    def run() -> Tensor:
        with torch.inference_mode():
            return synchronise(matrix @ matrix)

    return run


def synchronise(result: Tensor) -> Tensor:
    """The result, once a GPU has it."""
    if result.is_cuda:
        torch.cuda.synchronize()
    return result


def have(module: str) -> bool:
    """Whether a peer is installed."""
    return importlib.util.find_spec(module) is not None

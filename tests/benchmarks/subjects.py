"""What benchmarks work on: networks, images, and the machine's own peak."""

from __future__ import annotations

import importlib.util
import io
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import pyarrow.parquet as pq
import torch
from harness import Comparison
from PIL import Image
from torch import Tensor, nn
from torchvision.transforms.functional import pil_to_tensor

from tasks.classifier.checkpoint import load_weights, weights_from_bytes
from tasks.classifier.precision import emulates_bfloat16
from tasks.data.arrays import Images, as_float
from tasks.networks.base import Network
from tasks.networks.resnet20 import ResNet20
from tasks.networks.resnet50_mi import ResNet50MI
from tasks.specs import Precision

SHARED = Path(os.environ.get("PIPELINE_TEST_SHARED") or Path(__file__).parents[2].parent / "shared")
RESNET20, RESNET56 = (
    SHARED / "models" / name
    for name in ("cifar10-resnet20-12fca82f.th", "cifar10-resnet56-4bfd9763.th")
)
SIDE, CHANNELS, CLASSES = 32, 3, 10
POOL = 1000
"""Images that may be mixed in."""
MATRIX = {"cpu": 2048, "cuda": 8192}
BATCHES = {
    "cpu": {"resnet20": 250, "resnet50-mi": 64},
    "cuda": {"resnet20": 2000, "resnet50-mi": 500},
}


@dataclass(frozen=True)
class Subject:
    """A network, images and labels for it, and images to mix in."""

    name: str
    device: str
    module: nn.Module
    pixels: Tensor
    labels: Tensor
    multiplications: int
    pool: Images
    classes: int = CLASSES

    def first(self, count: int) -> Subject:
        """With so many of its images."""
        return replace(self, pixels=self.pixels[:count], labels=self.labels[:count])


def subject(network: Network, device: str, images: int | None = None) -> Subject:
    """Weights of no consequence and random images.

    In eval mode, its weights as a network comes out of training: they require gradients.
    """
    module = network.build(CHANNELS, SIDE, CLASSES, seed=0).eval().to(device)
    count = images or BATCHES[device][network.kind]
    drawn = torch.Generator().manual_seed(0)
    pixels = torch.rand(count, CHANNELS, SIDE, SIDE, generator=drawn)
    labels = torch.randint(CLASSES, (count,), generator=drawn)
    multiplications = network.multiplications(CHANNELS, SIDE, CLASSES)
    return Subject(
        *(network.kind, device, module, pixels.to(device), labels.to(device), multiplications),
        _random_pool(),
    )


def real(count: int, device: str) -> Subject:
    """A public ResNet-20 and CIFAR-10's first test images; see `real_images`."""
    network = ResNet20()
    module = loaded(network, RESNET20)
    return real_images("a public ResNet-20", network, module, count, device)


def loaded(network: Network, weights: Path) -> nn.Module:
    """A network of CIFAR-10 with the weights of a file; FileNotFoundError where that is not."""
    module = network.build(CHANNELS, SIDE, CLASSES, seed=0)
    prefix = "module." if weights.suffix == ".th" else ""
    load_weights(module, weights_from_bytes(weights.read_bytes(), prefix))
    return module.eval()


def real_images(name: str, network: Network, module: nn.Module, count: int, device: str) -> Subject:
    """CIFAR-10's first test images of `SHARED` for a network.

    Later test images are there to be mixed in. FileNotFoundError where the data is not.
    """
    table = pq.read_table(SHARED / "data/cifar10/test-00000-of-00001.parquet")
    found = [Image.open(io.BytesIO(cell["bytes"])) for cell in table["img"].to_pylist()]
    pixels = torch.stack([pil_to_tensor(picture) for picture in found])
    labels = torch.tensor(table["label"].to_numpy())
    last = slice(len(pixels) - POOL, len(pixels))
    return Subject(
        name,
        device,
        module.to(device),
        as_float(pixels[:count]).to(device),
        labels[:count].to(device),
        network.multiplications(CHANNELS, SIDE, CLASSES),
        Images(pixels[last], labels[last], torch.arange(POOL), CLASSES),
    )


def _random_pool() -> Images:
    drawn = torch.Generator().manual_seed(1)
    pixels = torch.randint(256, (POOL, CHANNELS, SIDE, SIDE), generator=drawn, dtype=torch.uint8)
    return Images(pixels, torch.arange(POOL) % CLASSES, torch.arange(POOL), CLASSES)


def subjects(device: str) -> Iterator[Subject]:
    """A small network and the paper's."""
    yield subject(ResNet20(), device)
    yield subject(ResNet50MI(), device)


def precisions(device: str) -> tuple[Precision, ...]:
    """Those that are worth a try: where bfloat16 is emulated one call can take an hour."""
    if device == "cuda":
        return ("float32", "tf32", "bfloat16")
    return ("float32",) if emulates_bfloat16(device) else ("float32", "bfloat16")


def peak(device: str) -> Comparison:
    """Products of square matrices, the most that the machine does in a second."""
    side = MATRIX[device]
    kinds = {"float32": torch.float32, "bfloat16": torch.bfloat16}
    contenders = {
        f"matrix product, {name}": _product(side, kind, device)
        for name, kind in kinds.items()
        if name in precisions(device)
    }
    return Comparison(
        name="peak",
        what=f"product of two matrices of {side} × {side}",
        amount=1,
        unit="products",
        contenders=contenders,
        ours=tuple(contenders),
        flop=2.0 * side**3,
        told=[] if len(contenders) > 1 else ["bfloat16 is left out: this processor emulates it"],
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

"""Clean predictions of each deterministic defense, against a script that uses nothing of ours.

`PLAIN` is that script: torch, scipy and Pillow, on the public ResNet-20 written as functions, in
float64. The dear ones are asked about fewer images here, of 200 none differed either.
"""

from __future__ import annotations

import io
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image
from scipy.ndimage import rank_filter
from shared_files import RESNET20, TEST_IMAGES
from torch import Tensor
from torch.nn import functional as F

from pipeline.catalogue.catalogue import Catalogue, config_folders
from tasks.classifier.checkpoint import load_weights, weights_from_bytes
from tasks.classifier.frozen import Frozen
from tasks.data.seeding import Rows
from tasks.defenses.base import Context
from tasks.defenses.tte import TTE
from tasks.evaluation.defend import predict
from tasks.networks.resnet20 import ResNet20
from tasks.specs import Problem

COUNT = 200
FEWER = {"counter": 40, "hedge": 40, "pnml": 40, "pnml-natural": 40}
PROBLEM = Problem(epsilon=8, classes=10, side=32, pool=50_000)

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def weights(shared: Callable[[str], Path]) -> Path:
    return shared(RESNET20)


@pytest.fixture(scope="module")
def state(weights: Path) -> dict[str, Tensor]:
    content: Any = torch.load(weights, map_location="cpu", weights_only=True)
    return {
        name.removeprefix("module."): value.double()
        for name, value in content["state_dict"].items()
    }


@pytest.fixture(scope="module")
def images(shared: Callable[[str], Path]) -> Tensor:
    rows = pq.read_table(shared(TEST_IMAGES)).slice(0, COUNT).to_pylist()
    column = next(key for key, value in rows[0].items() if isinstance(value, dict))
    read = [np.asarray(Image.open(io.BytesIO(row[column]["bytes"]))) for row in rows]
    return torch.from_numpy(np.stack(read)).permute(0, 3, 1, 2).float() / 255


# ------------------------------------------------------------------ the independent script


def resnet20(state: dict[str, Tensor]) -> Callable[[Tensor], Tensor]:
    """He et al. 2016, section 4.2, with shortcuts of option A."""

    def norm(x: Tensor, name: str) -> Tensor:
        keys = ("running_mean", "running_var", "weight", "bias")
        return F.batch_norm(x, *(state[f"{name}.{key}"] for key in keys))

    def network(x: Tensor) -> Tensor:
        mean, std = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
        x = (x - x.new_tensor(mean)[:, None, None]) / x.new_tensor(std)[:, None, None]
        x = norm(F.conv2d(x, state["conv1.weight"], padding=1), "bn1").relu()
        for stage in (1, 2, 3):
            for block in (0, 1, 2):
                name, stride = f"layer{stage}.{block}", 2 if stage > 1 and block == 0 else 1
                y = F.conv2d(x, state[f"{name}.conv1.weight"], stride=stride, padding=1)
                y = F.conv2d(
                    norm(y, f"{name}.bn1").relu(), state[f"{name}.conv2.weight"], padding=1
                )
                new = (y.shape[1] - x.shape[1]) // 2
                short = F.pad(x[:, :, ::stride, ::stride], (0, 0, 0, 0, new, new))
                x = (norm(y, f"{name}.bn2") + short).relu()
        return x.mean(dim=(2, 3)) @ state["linear.weight"].T + state["linear.bias"]

    return network


def gradient(loss: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    leaf = x.clone().requires_grad_()
    return torch.autograd.grad(loss(leaf).sum(), leaf)[0]


Network = Callable[[Tensor], Tensor]


def bits(f: Network, x: Tensor) -> Tensor:
    return f((x * 15).round() / 15)


def median(f: Network, x: Tensor, size: int, rank: int) -> Tensor:
    return f(torch.tensor(rank_filter(x.numpy(), rank, size=(1, 1, size, size), mode="reflect")))


def jpeg(f: Network, x: Tensor) -> Tensor:
    read = []
    for image in (x * 255).round().byte().permute(0, 2, 3, 1).numpy():
        Image.fromarray(image).save(file := io.BytesIO(), "JPEG", quality=75)
        read.append(np.asarray(Image.open(file)))
    return f(torch.tensor(np.stack(read)).permute(0, 3, 1, 2).double() / 255)


def tte(f: Network, x: Tensor) -> Tensor:
    padded = F.pad(x, (4, 4, 4, 4))
    crops = [padded[:, :, a : a + 32, b : b + 32] for a, b in TTE().places(32)]
    views = [view for each in (x, *crops) for view in (each, each.flip(3))]
    return torch.stack([f(view) for view in views]).mean(dim=0)


def energy(f: Network, x: Tensor) -> Tensor:
    g = gradient(lambda y: -f(y).logsumexp(1), x)
    length = g.flatten(1).norm(dim=1)[:, None, None, None] + 1e-12
    delta = (x - 5 * 32 / 224 * g / length).clamp(0, 1) - x
    length = delta.flatten(1).norm(dim=1)[:, None, None, None]
    return f((x + delta * (10 * 32 / 224 / length).clamp(max=1)).clamp(0, 1))


def anti_adversary(f: Network, x: Tensor) -> Tensor:
    label, y = f(x).argmax(1), x
    for _ in range(2):
        down = gradient(lambda z: -F.cross_entropy(f(z), label, reduction="none"), y).sign()
        y = (y + 0.15 * down).clamp(0, 1)
    return f(y)


def hedge(f: Network, x: Tensor) -> Tensor:
    y = x
    for _ in range(20):
        up = gradient(lambda z: 10 * f(z).logsumexp(1) - f(z).sum(1), y).sign()
        y = (x + (y + 4 / 255 * up - x).clamp(-8 / 255, 8 / 255)).clamp(0, 1)
    return f(y)


def pnml(f: Network, x: Tensor, step: float) -> Tensor:
    own = []
    for c in range(10):
        up = gradient(lambda y, c=c: f(y).log_softmax(1)[:, c], x)  # type: ignore[misc]
        own.append(f((x + step * up.sign()).clamp(0, 1)).double().log_softmax(1)[:, c])
    return torch.stack(own, dim=1)


def counter(f: Network, x: Tensor) -> Tensor:
    label, total = f(x).argmax(1), torch.zeros_like(x)
    for c in range(10):
        up = gradient(lambda y, c=c: f(y).log_softmax(1)[:, c], x).sign()  # type: ignore[misc]
        total += up * (label != c)[:, None, None, None]
    return f((x + (4 / 255 * total).clamp(-8 / 255, 8 / 255)).clamp(0, 1))


PLAIN: dict[str, Callable[..., Tensor]] = {
    "bits": bits,
    "median": partial(median, size=2, rank=1),
    "median-3": partial(median, size=3, rank=4),
    "jpeg-75": jpeg,
    "tte": tte,
    "energy": energy,
    "anti-adversary": anti_adversary,
    "counter": counter,
    "hedge": hedge,
    "pnml": partial(pnml, step=0.11),
    "pnml-natural": partial(pnml, step=0.02),
}


# ------------------------------------------------------------------ beside the product


@pytest.mark.parametrize("name", PLAIN)
def test_no_clean_prediction_differs_from_an_independent_script(
    name: str, weights: Path, state: dict[str, Tensor], images: Tensor
) -> None:
    spec = Catalogue(config_folders()).defense(name).resolved(PROBLEM)
    assert spec.deterministic(10)
    module = ResNet20().build(3, 32, 10)
    load_weights(module, weights_from_bytes(weights.read_bytes(), "module."))
    frozen = Frozen(module, classes=10)
    images = images[: FEWER.get(name, COUNT)]
    ids = torch.arange(len(images))
    rows = Rows(0, ids, torch.zeros_like(ids)).within("defend")
    found = predict(spec, Context(frozen), images, rows, 200).argmax(dim=1)
    other = PLAIN[name](resnet20(state), images.double()).argmax(dim=1)
    assert int((found != other).sum()) == 0

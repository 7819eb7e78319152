"""A step of training beside the loop that one would write in plain PyTorch.

The plain loops keep torch's default layout, attack the network itself in eval mode and run
eagerly, in float32 and, where the processor has arithmetic for it, under autocast to bfloat16.
Both crop, mirror and mix on the same images, and step with the same optimizer.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from harness import Comparison
from subjects import CHANNELS, CLASSES, SIDE, peak, precisions
from torch import Tensor, nn
from torch.nn import functional as F

from tasks.data.arrays import Images
from tasks.networks.base import Network
from tasks.networks.resnet20 import ResNet20
from tasks.networks.resnet50_mi import ResNet50MI
from tasks.specs import Precision, Problem
from tasks.training.recipe import InnerAttack, Recipe, TrainSpec
from tasks.training.train import train

BATCH = 128
BATCHES = {"cpu": {"resnet20": 4, "resnet50-mi": 1}, "cuda": {"resnet20": 64, "resnet50-mi": 32}}
"""In one call."""
PROBLEM = Problem(epsilon=8.0, classes=CLASSES, side=SIDE, pool=50_000)
PADDING_PX = 4


def comparisons(device: str) -> Iterator[Comparison]:
    """The peak of matrix products, then Mixup and adversarial training of both networks."""
    yield peak(device)
    for network in (ResNet20(), ResNet50MI()):
        for method in ("mixup", "adversarial"):
            yield _training(network, method, device)


def _training(network: Network, method: str, device: str) -> Comparison:
    count = BATCHES[device][network.kind]
    images = _images(count * BATCH)
    kinds = precisions(device)
    recipe = Recipe.model_validate(
        {
            "method": method,
            "epochs": 1,
            "batch_size": BATCH,
            "nesterov": True,
            "weight_decay": 5e-4,
            "inner": InnerAttack(steps=2, step_size=5.0) if method == "adversarial" else None,
        }
    ).resolved(PROBLEM)
    ours = {f"ours, {kind}": _ours(images, network, recipe, kind, device) for kind in kinds}
    plain = [kind for kind in kinds if kind != "tf32"]
    loops = {f"plain loop, {kind}": _plain(images, network, recipe, kind, device) for kind in plain}
    passes = recipe.forwards_and_backwards()
    return Comparison(
        name=f"training-{method}-{network.kind}",
        what=f"{method}, {network.kind}, {count} steps of {BATCH} images",
        amount=len(images),
        unit="images",
        contenders={**ours, **loops},
        ours=tuple(ours),
        apart=tuple(loops),
        flop=2.0 * network.multiplications(CHANNELS, SIDE, CLASSES) * passes.equivalents,
    )


def _images(count: int) -> Images:
    drawn = torch.Generator().manual_seed(0)
    pixels = torch.randint(256, (count, CHANNELS, SIDE, SIDE), generator=drawn, dtype=torch.uint8)
    labels = torch.randint(CLASSES, (count,), generator=drawn)
    return Images(pixels, labels, torch.arange(count), CLASSES)


def _ours(
    images: Images, network: Network, recipe: Recipe, precision: Precision, device: str
) -> Callable[[], object]:
    spec = TrainSpec(network=network, recipe=recipe.model_copy(update={"precision": precision}))
    # the state that an epoch ends with is on the CPU, so a GPU is done by then
    return lambda: next(train(images, spec, device=device))


def _plain(
    images: Images, network: Network, recipe: Recipe, precision: Precision, device: str
) -> Callable[[], object]:
    pixels, labels = images.pixels.to(device), images.labels.to(device)

    def logits(module: nn.Module, batch: Tensor) -> Tensor:
        with torch.autocast(device, dtype=torch.bfloat16, enabled=precision == "bfloat16"):
            found: Tensor = module(batch)
        return found.float()

    def attacked(module: nn.Module, clean: Tensor, targets: Tensor) -> Tensor:
        assert recipe.inner is not None
        assert recipe.inner.step_size is not None
        radius = PROBLEM.epsilon / 255
        module.eval()
        found = clean + torch.empty_like(clean).uniform_(-radius, radius)
        for _ in range(recipe.inner.steps):
            found = found.detach().requires_grad_()
            loss = F.cross_entropy(logits(module, found), targets)
            (gradient,) = torch.autograd.grad(loss, found)
            found = found.detach() + recipe.inner.step_size / 255 * gradient.sign()
            found = (clean + (found - clean).clamp(-radius, radius)).clamp(0, 1)
        module.train()
        return found.detach()

    def run() -> list[float]:
        module = network.build(CHANNELS, SIDE, CLASSES, seed=0).to(device).train()
        optimizer = torch.optim.SGD(
            module.parameters(),
            lr=recipe.learning_rate or 0.0,
            momentum=recipe.momentum,
            nesterov=recipe.nesterov,
            weight_decay=recipe.weight_decay,
        )
        losses = []
        for place in torch.randperm(len(pixels)).split(BATCH):
            clean = _augmented(pixels[place].float() / 255)
            one_hot = F.one_hot(labels[place], CLASSES).float()
            if recipe.method == "mixup":
                other = torch.randperm(len(clean), device=clean.device)
                weight = torch.rand(len(clean), 1, device=clean.device)
                one_hot = weight * one_hot + (1 - weight) * one_hot[other]
                weight = weight[:, :, None, None]
                clean = weight * clean + (1 - weight) * clean[other]
            else:
                clean = attacked(module, clean, labels[place])
            loss = F.cross_entropy(logits(module, clean), one_hot)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(loss.detach())
        return [loss.item() for loss in losses]

    return run


def _augmented(pixels: Tensor) -> Tensor:
    """One crop and one mirroring for each image, in a loop, as a data loader does them."""
    padded = F.pad(pixels, (PADDING_PX,) * 4)
    offsets = torch.randint(0, 2 * PADDING_PX + 1, (len(pixels), 2)).tolist()
    mirrored = (torch.rand(len(pixels)) < 0.5).tolist()
    cropped = [
        image[:, down : down + SIDE, across : across + SIDE]
        for image, (down, across) in zip(padded, offsets, strict=True)
    ]
    flipped = [
        image.flip(-1) if flip else image for image, flip in zip(cropped, mirrored, strict=True)
    ]
    return torch.stack(flipped)

"""Augmentation of a training batch: crops, flips, attacks and mixtures, drawn for each image."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tasks.attacks.search.descent import descend, random_start
from tasks.attacks.search.geometry import Ball
from tasks.classifier.precision import run
from tasks.classifier.prepared import Manner, made, mode
from tasks.data.arrays import Images, as_float
from tasks.data.seeding import Rows
from tasks.training.recipe import Recipe

AS_USUAL = Manner()
"""How most networks are prepared."""


def training_batch(
    network: nn.Module, images: Images, rows: Rows, recipe: Recipe, manner: Manner = AS_USUAL
) -> tuple[Tensor, Tensor]:
    """Return the images of one training step, and their soft labels.

    Under `mixup` and `adversarial` there are as many as images given; under `iat` twice as many,
    the clean half first. Under `mixup` and `iat`, each half is mixed on its own, and the attack is
    on images before mixing. The network is in train mode, and is left so.

    Args:
        network: The network in training.
        images: The batch.
        rows: Identities of the images at this epoch.
        recipe: A resolved recipe.
        manner: How the network is prepared for attacks.

    Returns:
        float32 [N, C, H, W] in [0, 1], and float32 [N, classes].
    """
    cropped = crop_and_flip(
        images.pixels, rows, padding_px=recipe.crop_padding_px, flip=recipe.flip
    )
    clean = as_float(cropped)
    halves = [(clean, rows.within("clean"))]
    if recipe.method != "mixup":
        own = rows.within("adversarial")
        attacked = adversarial(network, clean, images.labels, own, recipe, manner)
        if recipe.method == "adversarial":
            return attacked, F.one_hot(images.labels, images.classes).to(torch.float32)
        halves.append((attacked, own))
    mixed = [
        mixup(pixels, images.labels, own, classes=images.classes, alpha=recipe.mixup_alpha)
        for pixels, own in halves
    ]
    return torch.cat([pixels for pixels, _ in mixed]), torch.cat([labels for _, labels in mixed])


def adversarial(
    network: nn.Module,
    pixels: Tensor,
    labels: Tensor,
    rows: Rows,
    recipe: Recipe,
    manner: Manner = AS_USUAL,
) -> Tensor:
    """Return untargeted PGD examples of the recipe's inner attack, with the network in eval mode.

    The attack is on a copy of the network with folded batch norms, or as `manner` says; the network
    itself is left as it was.

    Args:
        network: The network in training.
        pixels: float32 [N, C, H, W] in [0, 1].
        labels: int64 [N], the true classes.
        rows: Identities of the images.
        recipe: A resolved recipe.
        manner: How the network is prepared.

    Returns:
        float32 [N, C, H, W] in [0, 1].
    """
    inner = recipe.inner
    if inner is None or inner.epsilon is None or inner.step_size is None:
        raise ValueError("recipe: the inner attack is incomplete; resolve the recipe first")
    attacked = made(network, pixels.device, manner) if manner.copied else network

    def logits(images: Tensor) -> Tensor:
        return run(attacked, images, recipe.precision, manner.layout)

    def gradient(current: Tensor, _step: int) -> Tensor:
        leaf = current.detach().requires_grad_()
        loss = F.cross_entropy(logits(leaf), labels, reduction="sum")
        return torch.autograd.grad(loss, leaf)[0]

    ball = Ball("linf", inner.epsilon / 255)
    start = random_start(pixels, rows, ball=ball)
    step_size = inner.step_size / 255
    with mode(attacked, training=False):
        if inner.label == "predicted":
            with torch.no_grad():
                labels = logits(pixels).argmax(1)
        return descend(gradient, pixels, start, ball=ball, step_size=step_size, steps=inner.steps)


def crop_and_flip(pixels: Tensor, rows: Rows, *, padding_px: int, flip: bool) -> Tensor:
    """Randomly crop each image after zero padding and, if `flip`, mirror it with probability 1/2.

    Args:
        pixels: [N, C, H, W] of any type; the result has the same shape and type.
        rows: Identities of the images.
        padding_px: Padding on each side.
        flip: Whether to mirror.
    """
    count, _, height, width = pixels.shape
    device = pixels.device
    offsets = rows.integers("crop", 0, 2 * padding_px, 2)
    down = offsets[:, :1] + torch.arange(height, device=device)
    across = offsets[:, 1:] + torch.arange(width, device=device)
    if flip:
        mirrored = rows.integers("flip", 0, 1) == 1
        across = torch.where(mirrored, across.flip(1), across)
    padded = F.pad(pixels, (padding_px,) * 4)
    image = torch.arange(count, device=device)[:, None, None]
    # Index tensors on both sides of a slice put the channels last: [N, H, W, C].
    return padded[image, :, down[:, :, None], across[:, None, :]].permute(0, 3, 1, 2)


def mixup(
    pixels: Tensor, labels: Tensor, rows: Rows, *, classes: int, alpha: float
) -> tuple[Tensor, Tensor]:
    """Mix the batch in one random order with the batch in another (Mixup).

    Args:
        pixels: float32 [N, C, H, W].
        labels: int64 [N].
        rows: Identities of the images.
        classes: Number of classes.
        alpha: The weight of the first image in each pair is drawn from Beta(alpha, alpha).

    Returns:
        The mixed images, and their labels mixed by the same weights, float32 [N, classes].
    """
    first = rows.words("first", 1)[:, 0].argsort(stable=True)
    second = rows.words("second", 1)[:, 0].argsort(stable=True)
    weights = beta(rows, alpha)
    one_hot = F.one_hot(labels, classes).to(torch.float32)
    targets = weights * one_hot[first] + (1 - weights) * one_hot[second]
    spread = weights[:, :, None, None]
    return spread * pixels[first] + (1 - spread) * pixels[second], targets


def beta(rows: Rows, alpha: float) -> Tensor:
    """Draw from the symmetric Beta(alpha, alpha) by its inverse distribution, float32 [N, 1].

    Beta(1, 1) is uniform and needs no inverse.
    """
    if alpha == 1.0:
        return rows.uniform("weight")
    from scipy.special import betaincinv  # type: ignore[import-untyped]

    words = rows.words("weight", 1).cpu().to(torch.float64)
    quantiles = betaincinv(alpha, alpha, ((words + 0.5) / 2**32).numpy())
    return torch.from_numpy(quantiles).to(torch.float32).to(rows.images.device)

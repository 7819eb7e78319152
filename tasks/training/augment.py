"""What training does to a batch: crops, flips, attacks and mixtures, by each image's draws."""

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
"""Of most networks."""


def training_batch(
    network: nn.Module, images: Images, rows: Rows, recipe: Recipe, manner: Manner = AS_USUAL
) -> tuple[Tensor, Tensor]:
    """The images that one step trains on, and their soft labels.

    Under `mixup` and `adversarial` as many as there are images, float32 [N, C, H, W] and
    [N, classes]; under `iat` twice as many, the clean half first. Under the first and the last
    each half is mixed on its own; the attack is on images that are not yet mixed. The network
    is in train mode, and is left so.
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
    """Untargeted PGD examples by the recipe's inner attack, with the network in eval mode.

    pixels: float32 [N, C, H, W] in [0, 1]; labels: int64 [N]. Returns the pixels' shape.
    What is attacked is a copy with its batch norms folded, which all steps use, or what else
    the manner says; the network itself is left as it was.
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
    """A random window of each zero-padded image, half of them mirrored if `flip`.

    pixels: [N, C, H, W] of any type; returns the same shape and type.
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
    # Indices around a slice put the channels last: [N, H, W, C].
    return padded[image, :, down[:, :, None], across[:, None, :]].permute(0, 3, 1, 2)


def mixup(
    pixels: Tensor, labels: Tensor, rows: Rows, *, classes: int, alpha: float
) -> tuple[Tensor, Tensor]:
    """Each image of one permutation of the batch mixed with that of another (Mixup).

    pixels: float32 [N, C, H, W]; labels: int64 [N]. The weights of the first are
    Beta(alpha, alpha), one for each row. Returns the mixed images and their labels, float32
    [N, classes], mixed by the same weights.
    """
    first = rows.words("first", 1)[:, 0].argsort(stable=True)
    second = rows.words("second", 1)[:, 0].argsort(stable=True)
    weights = beta(rows, alpha)
    one_hot = F.one_hot(labels, classes).to(torch.float32)
    targets = weights * one_hot[first] + (1 - weights) * one_hot[second]
    spread = weights[:, :, None, None]
    return spread * pixels[first] + (1 - spread) * pixels[second], targets


def beta(rows: Rows, alpha: float) -> Tensor:
    """float32 [N, 1], from the symmetric Beta(alpha, alpha), by its inverse distribution.

    Beta(1, 1) is uniform and needs no inverse.
    """
    if alpha == 1.0:
        return rows.uniform("weight")
    from scipy.special import betaincinv  # type: ignore[import-untyped]

    words = rows.words("weight", 1).cpu().to(torch.float64)
    quantiles = betaincinv(alpha, alpha, ((words + 0.5) / 2**32).numpy())
    return torch.from_numpy(quantiles).to(torch.float32).to(rows.images.device)

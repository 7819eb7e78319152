"""Projected gradient descent (Madry et al., ICLR 2018), and with it FGSM, in one loop."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional

from tasks.attacks.base import Victim
from tasks.attacks.search.geometry import Ball
from tasks.attacks.search.objectives import Goal
from tasks.data.seeding import Rows


def random_start(pixels: Tensor, rows: Rows, *, ball: Ball) -> Tensor:
    """One uniform random point in the ball around each image, clipped to [0, 1].

    pixels: float32 [N, C, H, W] in [0, 1]; the point depends on a row's identity alone.
    """
    return ball.uniform(pixels, rows)


def predicted(victim: Victim, pixels: Tensor) -> Tensor:
    """int64 [N]: the victim's own classes for the images, at its first step."""
    with torch.no_grad():
        return victim.logits(pixels, 0).argmax(dim=1)


def descend(
    gradient: Callable[[Tensor, int], Tensor],
    pixels: Tensor,
    start: Tensor,
    *,
    ball: Ball,
    step_size: float,
    steps: int,
) -> Tensor:
    """The last of `steps` iterates that climb along `gradient`.

    gradient: images and the number of the step, from 0, to a tensor of the images' shape;
    pixels: the originals, float32 [N, C, H, W] in [0, 1]; start: the first iterate, of the
    same shape; step_size: length of a step in the ball's norm, in pixel units.
    """
    current = start
    for step in range(steps):
        direction = ball.steepest(gradient(current, step))
        current = ball.project(current + step_size * direction, pixels)
    return current


def loss_gradient(
    victim: Victim, labels: Tensor, *, targeted: bool
) -> Callable[[Tensor, int], Tensor]:
    """What `descend` climbs: the cross-entropy of `labels`, or minus it where they are targets.

    labels: int64 [N]. The losses of a batch are summed, so that no image scales another's
    gradient.
    """
    sign = -1.0 if targeted else 1.0

    def gradient(pixels: Tensor, step: int) -> Tensor:
        with torch.enable_grad():
            leaf = pixels.detach().requires_grad_()
            loss = sign * functional.cross_entropy(
                victim.logits(leaf, step), labels, reduction="sum"
            )
            return torch.autograd.grad(loss, leaf)[0]

    return gradient


def margin_gradient(
    victim: Victim, labels: Tensor, *, targeted: bool, confidence: float
) -> Callable[[Tensor, int], Tensor]:
    """As `loss_gradient`, of the margin by which the goal is reached, up to `confidence`.

    labels: int64 [N], targets where `targeted`; confidence: in logits.
    """
    goal = Goal(labels, labels if targeted else None)

    def gradient(pixels: Tensor, step: int) -> Tensor:
        with torch.enable_grad():
            leaf = pixels.detach().requires_grad_()
            margins = goal.objective(victim.logits(leaf, step), "margin")
            return torch.autograd.grad(margins.clamp_max(confidence).sum(), leaf)[0]

    return gradient

"""Projected gradient steps, the loop behind PGD (Madry et al., ICLR 2018) and FGSM."""

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
    """Return a uniform random point in the ball around each image, clipped to [0, 1].

    Args:
        pixels: float32 [N, C, H, W] in [0, 1].
        rows: Identities of the images, on which alone the points depend.
        ball: Set of permitted perturbations.
    """
    return ball.uniform(pixels, rows)


def predicted(victim: Victim, pixels: Tensor) -> Tensor:
    """Return the classes that the victim predicts for the images at its step 0, int64 [N]."""
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
    """Return the last of `steps` projected iterates that ascend along `gradient`.

    Args:
        gradient: Maps pixels and the number of the step, from 0, to a tensor of the pixels' shape.
        pixels: float32 [N, C, H, W] in [0, 1], the originals.
        start: float32 [N, C, H, W], the first iterate.
        ball: Set of permitted perturbations.
        step_size: Length of a step in the ball's norm, in pixel units.
        steps: Number of steps.
    """
    current = start
    for step in range(steps):
        direction = ball.steepest(gradient(current, step))
        current = ball.project(current + step_size * direction, pixels)
    return current


def loss_gradient(
    victim: Victim, labels: Tensor, *, targeted: bool
) -> Callable[[Tensor, int], Tensor]:
    """Return the gradient that `descend` follows: of the cross-entropy, or of minus it for targets.

    The losses of a batch are summed, so that an image's gradient does not depend on the batch size.

    Args:
        victim: The model under attack.
        labels: int64 [N], the classes to move away from, or towards if `targeted`.
        targeted: Whether `labels` are targets.
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
    """Return the gradient of the margin, clamped at `confidence`, as `loss_gradient` does.

    Args:
        victim: The model under attack.
        labels: int64 [N], the classes to move away from, or towards if `targeted`.
        targeted: Whether `labels` are targets.
        confidence: Margin, in logits, above which an image has no gradient.
    """
    goal = Goal(labels, labels if targeted else None)

    def gradient(pixels: Tensor, step: int) -> Tensor:
        with torch.enable_grad():
            leaf = pixels.detach().requires_grad_()
            margins = goal.objective(victim.logits(leaf, step), "margin")
            return torch.autograd.grad(margins.clamp_max(confidence).sum(), leaf)[0]

    return gradient

"""The optimiser inside a defense, which moves an image before the classifier sees it.

Each step takes the gradient of a scalar at the moved image, moves by `step_size` against it, limits
the total offset, and clips the moved image to [0, 1], in this order (see `Descent.box_first`).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from tasks.defenses.transforms import straight
from tasks.specs import Norm

Scalar = Callable[[Tensor], Tensor]
"""Function to minimise: moved images, float32 [M, C, H, W], to [M], each from its own row."""

_TINY = 1e-12


@dataclass(frozen=True)
class Descent:
    """Settings of an inner optimiser."""

    steps: int
    """Number of steps."""
    step_size: float
    """Size of a step, in pixel units."""
    limit: float | None = None
    """Largest offset, in pixel units; None for no limit."""
    norm: Norm = "linf"
    """`linf` moves by the sign of the gradient and limits each pixel; `l2` moves along the
    normalised gradient and limits the Euclidean length of the offset."""
    box: bool = True
    """Whether each moved image is clipped to [0, 1]."""
    box_first: bool = False
    """Whether it is clipped before the limit instead of after it."""


def offsets(
    descent: Descent,
    value: Scalar,
    pixels: Tensor,
    start: Tensor | None = None,
    *,
    smoothing: float | None = None,
    unrolled: bool = False,
) -> list[Tensor]:
    """Return the offsets before the first step and after each, `steps + 1` tensors.

    Without smoothing and not unrolled, no offset has a graph. Otherwise each depends on the pixels
    through every step before it.

    Args:
        descent: Settings of the optimiser.
        value: Function to minimise.
        pixels: float32 [M, C, H, W] in [0, 1].
        start: The first offset, of the pixels' shape; zero by default.
        smoothing: Width of a smoothed sign, see `straight.smooth_sign`.
        unrolled: Whether gradients go through all steps.
    """
    follows = unrolled or smoothing is not None
    origin = pixels if follows else pixels.detach()
    offset = torch.zeros_like(pixels) if start is None else start.detach()
    found = [offset]
    for _ in range(descent.steps):
        gradient = _gradient(value, origin + offset, follows=follows)
        offset = offset - descent.step_size * _direction(gradient, descent.norm, smoothing)
        if descent.box and descent.box_first:
            offset = (origin + offset).clamp(0, 1) - origin
        if descent.limit is not None:
            offset = limited(offset, descent.limit, descent.norm)
        if descent.box and not descent.box_first:
            offset = (origin + offset).clamp(0, 1) - origin
        found.append(offset)
    return found


def limited(offset: Tensor, limit: float, norm: Norm) -> Tensor:
    """Limit each entry of the offset (linf) or the Euclidean length of each row (l2)."""
    if norm == "linf":
        return offset.clamp(-limit, limit)
    return offset * (limit / _length(offset).clamp_min(limit))


def _gradient(value: Scalar, moved: Tensor, *, follows: bool) -> Tensor:
    again = follows and torch.is_grad_enabled() and moved.requires_grad
    with torch.enable_grad():
        leaf = moved if again else moved.detach().requires_grad_()
        (gradient,) = torch.autograd.grad(value(leaf).sum(), leaf, create_graph=again)
    return gradient


def _direction(gradient: Tensor, norm: Norm, smoothing: float | None) -> Tensor:
    if norm == "l2":
        return gradient / (_length(gradient) + _TINY)
    return gradient.sign() if smoothing is None else straight.smooth_sign(gradient, smoothing)


def _length(offset: Tensor) -> Tensor:
    """Return the length of each row, [M, 1, 1, 1]; for a row of zeros 0, with gradient 0."""
    squares = offset.flatten(1).square().sum(dim=1)
    empty = squares == 0
    lengths = torch.where(empty, 0.0, squares.where(~empty, 1.0).sqrt())
    return lengths.reshape(-1, 1, 1, 1)

"""The optimiser inside a defense: it moves an image before the classifier sees it.

Each step is, in this order, a gradient of a scalar at the moved image, a move of `step_size`
against it, the limit of the whole offset, and the box that keeps the moved image in [0, 1].
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from tasks.defenses.transforms import straight
from tasks.specs import Norm

Scalar = Callable[[Tensor], Tensor]
"""Moved images, float32 [M, C, H, W], to what is lowered, [M], of each row its own."""

_TINY = 1e-12


@dataclass(frozen=True)
class Descent:
    """The settings of an inner optimiser.

    step_size, limit: in [0, 1] units; no limit where that is None. norm: linf moves by the sign
    of the gradient and limits each pixel, l2 moves by the gradient of length 1 and limits the
    length of the offset. box: whether each moved image is kept in [0, 1]; first: before the limit.
    """

    steps: int
    step_size: float
    limit: float | None = None
    norm: Norm = "linf"
    box: bool = True
    box_first: bool = False


def offsets(
    descent: Descent,
    value: Scalar,
    pixels: Tensor,
    start: Tensor | None = None,
    *,
    smoothing: float | None = None,
    unrolled: bool = False,
) -> list[Tensor]:
    """The offset before the first step and after each, `steps + 1` tensors of the pixels' shape.

    pixels: float32 [M, C, H, W] in [0, 1]; start: the first offset, zero by default; smoothing: of
    the sign, see `straight.smooth_sign`. Without smoothing, and not unrolled, no offset has a
    graph; otherwise each depends on the pixels through every step before it.
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
    """The offset with no entry (linf), or with no row (l2), longer than the limit."""
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
    """[M, 1, 1, 1]; of a row of zeros 0, with a gradient of 0."""
    squares = offset.flatten(1).square().sum(dim=1)
    empty = squares == 0
    lengths = torch.where(empty, 0.0, squares.where(~empty, 1.0).sqrt())
    return lengths.reshape(-1, 1, 1, 1)

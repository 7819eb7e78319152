"""Straight-through estimators, public as `tasks.straight`.

Within one step of an attack the gradient takes a clip or a rounding for the identity, and a
predicted class for a constant, which the next step computes again.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

if TYPE_CHECKING:
    from tasks.classifier.frozen import Frozen


_TINY = 1e-30


class _Replace(torch.autograd.Function):
    """Replaces values exactly, where `x + (y - x)` would be off by a rounding error."""

    @staticmethod
    def forward(ctx: Any, values: Tensor, replacement: Tensor) -> Tensor:  # noqa: ARG004
        return replacement.detach().clone()

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> tuple[Tensor, None]:  # noqa: ARG004
        return gradients[0], None


def through(values: Tensor, replacement: Tensor) -> Tensor:
    """Return `replacement`, with the gradient of `values` (straight-through estimator).

    Args:
        values: Tensor that receives the gradient unchanged.
        replacement: Tensor of the same shape, the values of the result; its own gradient is
            ignored.
    """
    result: Tensor = _Replace.apply(values, replacement)
    return result


def clip(pixels: Tensor) -> Tensor:
    """Clip pixels of any shape to [0, 1], with a straight-through gradient."""
    return through(pixels, pixels.detach().clamp(0, 1))


def round_to_8_bits(pixels: Tensor) -> Tensor:
    """Round pixels of any shape to multiples of 1/255, with a straight-through gradient."""
    return through(pixels, (pixels.detach() * 255).round() / 255)


def smooth_sign(values: Tensor, smoothing: float) -> Tensor:
    """Return tanh(values / tau), a differentiable sign.

    tau is `smoothing` times the mean of abs(values) of each row, and has no gradient. A row of
    zeros stays zero.

    Args:
        values: float [M, ...].
        smoothing: Width of the sign, relative to the mean of abs(values).
    """
    scale = values.detach().abs().flatten(1).mean(dim=1) * smoothing
    return torch.tanh(values / scale.clamp_min(_TINY).reshape(-1, *[1] * (values.dim() - 1)))


def predicted_classes(classifier: Frozen, pixels: Tensor) -> Tensor:
    """Return the classes that the bare classifier predicts, int64 [M].

    The draws of an image are adjacent, so rows equal to the one before are not computed again.

    Args:
        classifier: The bare classifier.
        pixels: float32 [M, C, H, W] in [0, 1].
    """
    pixels = pixels.detach()
    fresh = torch.ones(len(pixels), dtype=torch.bool, device=pixels.device)
    fresh[1:] = (pixels[1:] != pixels[:-1]).flatten(1).any(dim=1)
    with torch.no_grad():
        answers = classifier.logits(pixels[fresh]).argmax(dim=1)
    return answers[fresh.cumsum(0) - 1]

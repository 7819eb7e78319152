"""What has no useful gradient: passed straight through, or held constant.

Inside one step of an attack a clip and a rounding are the identity to the gradient, and a
predicted class is a constant, which the next step computes again.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

if TYPE_CHECKING:
    from tasks.classifier.frozen import Frozen


_TINY = 1e-30


class _Replace(torch.autograd.Function):
    """Values replaced exactly; `x + (y - x)` would be off by a rounding."""

    @staticmethod
    def forward(ctx: Any, values: Tensor, replacement: Tensor) -> Tensor:  # noqa: ARG004
        return replacement.detach().clone()

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> tuple[Tensor, None]:  # noqa: ARG004
        return gradients[0], None


def through(values: Tensor, replacement: Tensor) -> Tensor:
    """`replacement` going forward, the gradient of `values` going back. One shape for both."""
    result: Tensor = _Replace.apply(values, replacement)
    return result


def clip(pixels: Tensor) -> Tensor:
    """Pixels of any shape clipped to [0, 1], the gradient passed as if they were not."""
    return through(pixels, pixels.detach().clamp(0, 1))


def round_to_8_bits(pixels: Tensor) -> Tensor:
    """Pixels in [0, 1] of any shape, each at the nearest multiple of 1/255."""
    return through(pixels, (pixels.detach() * 255).round() / 255)


def smooth_sign(values: Tensor, smoothing: float) -> Tensor:
    """tanh(values / tau), tau being `smoothing` times the mean of |values| of each row.

    values: float [M, ...]; what is zero all over a row stays so.
    """
    scale = values.detach().abs().flatten(1).mean(dim=1) * smoothing
    return torch.tanh(values / scale.clamp_min(_TINY).reshape(-1, *[1] * (values.dim() - 1)))


def predicted_classes(classifier: Frozen, pixels: Tensor) -> Tensor:
    """int64 [M]: the class that the bare classifier gives each row of [M, C, H, W].

    The draws of one image lie side by side; rows equal to the one before are not asked again.
    """
    pixels = pixels.detach()
    fresh = torch.ones(len(pixels), dtype=torch.bool, device=pixels.device)
    fresh[1:] = (pixels[1:] != pixels[:-1]).flatten(1).any(dim=1)
    with torch.no_grad():
        answers = classifier.logits(pixels[fresh]).argmax(dim=1)
    return answers[fresh.cumsum(0) - 1]

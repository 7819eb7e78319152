"""Memory that a row (an image or a draw of one) takes in a forward and backward pass."""

from __future__ import annotations

import torch
from torch import Tensor

from tasks.classifier.frozen import Frozen

OVERHEAD = 1.6
"""Peak memory of a forward and backward pass, relative to what autograd saves.

Measured: 1.2 to 1.3 for a ResNet-18 at 224 x 224, 1.5 to 1.6 for a ResNet-20 at 32 x 32.
"""
COPIES = 16
"""Copies of a row's pixels that an attack and a defense keep beside the network's tensors."""


def row_bytes(frozen: Frozen, channels: int, side: int) -> int:
    """Estimate the peak memory of one row, in bytes, from the tensors that autograd saves.

    The result is the same on every machine for the same network and shape.

    Args:
        frozen: The classifier.
        channels: Channels of an image.
        side: Side of an image, in pixels.
    """
    weights = {
        tensor.untyped_storage().data_ptr()
        for tensor in (*frozen.module.parameters(), *frozen.module.buffers())
    }
    kept: dict[int, int] = {}

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    forwards, backwards = frozen.forwards, frozen.backwards
    # two images, since a network with its own norms may refuse a batch of one
    pixels = torch.zeros(2, channels, side, side, device=frozen.device).requires_grad_()
    with (
        torch.enable_grad(),
        torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor),
    ):
        frozen.logits(pixels)
    frozen.forwards, frozen.backwards = forwards, backwards
    each = sum(kept.values()) / len(pixels)
    return int(OVERHEAD * each + COPIES * pixels[0].numel() * pixels.element_size())


def rows_that_fit(budget_bytes: float, each_bytes: int, most: int) -> int:
    """Return the greatest power of two of rows that fits into the budget, from 1 to `most`."""
    fit = max(1, min(int(budget_bytes // max(1, each_bytes)), most))
    return 1 << (fit.bit_length() - 1)

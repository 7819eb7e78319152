"""Normalisation as the first layer of a network."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn


class Normalise(nn.Module):
    """(pixels - mean) / std, one number or one for each channel; not in the state dict."""

    mean: Tensor
    std: Tensor

    def __init__(self, mean: Sequence[float], std: Sequence[float]) -> None:
        super().__init__()
        for name, values in (("mean", mean), ("std", std)):
            column = torch.tensor(values, dtype=torch.float32).reshape(1, -1, 1, 1)
            self.register_buffer(name, column, persistent=False)

    def forward(self, pixels: Tensor) -> Tensor:
        """Map float32 [N, C, H, W] in [0, 1] to the same shape."""
        return (pixels - self.mean) / self.std

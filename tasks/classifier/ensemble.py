"""Several networks as one module."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn


class EnsembleModule(nn.Module):
    """Ensemble of networks, which answers with the log of their mean probability.

    Args:
        members: Modules from float32 [N, C, H, W] in [0, 1] to [N, classes].
    """

    def __init__(self, members: Sequence[nn.Module]) -> None:
        super().__init__()
        self.members = nn.ModuleList(members)

    def each(self, pixels: Tensor) -> Tensor:
        """Return the logits of every member, float32 [N, members, classes]."""
        return torch.stack([member(pixels).float() for member in self.members], dim=1)

    def forward(self, pixels: Tensor) -> Tensor:
        """Return the log of the mean probability, float32 [N, classes]."""
        members = self.each(pixels).log_softmax(dim=2)
        return members.logsumexp(dim=1) - math.log(len(self.members))

"""Several networks that are asked as one."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn


class EnsembleModule(nn.Module):
    """Networks on the same images; as a whole they answer the log of their mean probability.

    members: each float32 [N, C, H, W] in [0, 1] to [N, classes].
    """

    def __init__(self, members: Sequence[nn.Module]) -> None:
        super().__init__()
        self.members = nn.ModuleList(members)

    def each(self, pixels: Tensor) -> Tensor:
        """float32 [N, members, classes]: the logits of every member."""
        return torch.stack([member(pixels).float() for member in self.members], dim=1)

    def forward(self, pixels: Tensor) -> Tensor:
        """float32 [N, classes]."""
        members = self.each(pixels).log_softmax(dim=2)
        return members.logsumexp(dim=1) - math.log(len(self.members))

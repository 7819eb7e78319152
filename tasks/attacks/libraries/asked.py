"""A victim in the form that libraries of attacks take: a module."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from tasks.attacks.base import Victim


class Asked(nn.Module):
    """Gives a victim's logits; each call is a step."""

    def __init__(self, victim: Victim, device: torch.device) -> None:
        super().__init__()
        self._logits = victim.logits
        self.classes = victim.classes
        # libraries look at a model's weights to find its device
        self.nothing = nn.Parameter(torch.zeros(0, device=device), requires_grad=False)
        self.step = -1

    def forward(self, pixels: Tensor) -> Tensor:
        """float32 [N, C, H, W] in [0, 1] to float32 [N, classes]."""
        self.step += 1
        return self._logits(pixels, self.step)

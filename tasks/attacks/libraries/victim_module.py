"""A victim in the form that libraries of attacks take: a module."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from tasks.attacks.base import Victim


class _ContiguousGradient(torch.autograd.Function):
    """The identity, whose gradient is contiguous: a network in channels-last gives none such."""

    @staticmethod
    def forward(ctx: Any, pixels: Tensor) -> Tensor:  # noqa: ARG004
        return pixels.view_as(pixels)

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> Tensor:  # noqa: ARG004
        gradient: Tensor = gradients[0]
        return gradient.contiguous()


class VictimModule(nn.Module):
    """Gives a victim's logits; each call is a step. The gradients in its input are contiguous."""

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
        asked: Tensor = _ContiguousGradient.apply(pixels)
        return self._logits(asked, self.step)

"""A victim as an `nn.Module`, which libraries of attacks expect."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from tasks.attacks.base import Victim


class _ContiguousGradient(torch.autograd.Function):
    """Identity with a contiguous gradient, which a network in channels-last does not return."""

    @staticmethod
    def forward(ctx: Any, pixels: Tensor) -> Tensor:  # noqa: ARG004
        return pixels.view_as(pixels)

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> Tensor:  # noqa: ARG004
        gradient: Tensor = gradients[0]
        return gradient.contiguous()


class VictimModule(nn.Module):
    """Module that returns a victim's logits; each call counts as one step of the attack.

    Gradients with respect to its input are contiguous.
    """

    def __init__(self, victim: Victim, device: torch.device) -> None:
        super().__init__()
        self._logits = victim.logits
        self.classes = victim.classes
        # libraries find a model's device by its parameters
        self.nothing = nn.Parameter(torch.zeros(0, device=device), requires_grad=False)
        self.step = -1

    def forward(self, pixels: Tensor) -> Tensor:
        """Map float32 [N, C, H, W] in [0, 1] to logits, float32 [N, classes]."""
        self.step += 1
        asked: Tensor = _ContiguousGradient.apply(pixels)
        return self._logits(asked, self.step)

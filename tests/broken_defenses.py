"""Defenses with a planted fault, and defenses that are known to be broken."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from tasks import straight
from tasks.data.seeding import Rows
from tasks.defenses.base import Context, Defense
from tasks.defenses.transforms.descent import Descent, Scalar
from tasks.defenses.transforms.optimised import Optimised


class Detaching(Defense):
    """Noise on a detached input: no gradient leads back."""

    kind: Literal["detaching"] = "detaching"
    draws: int = 3

    def transform(self, pixels: Tensor, rows: Rows, context: Context) -> Tensor:
        noise = rows.normal("noise", pixels[0].numel()).view_as(pixels)
        return (pixels.detach() + 0.02 * noise).clamp(0, 1)


class Sharing(Defense):
    """The noise of a batch's first row on all of its rows."""

    kind: Literal["sharing"] = "sharing"
    draws: int = 3

    def transform(self, pixels: Tensor, rows: Rows, context: Context) -> Tensor:
        noise = rows[:1].normal("noise", pixels[0].numel()).view_as(pixels[:1])
        return straight.clip(pixels + 0.05 * noise)


class _Shattered(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, pixels: Tensor) -> Tensor:
        return pixels.clone()

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> Tensor:
        return torch.zeros_like(gradients[0])


class ZeroGradient(Defense):
    """The image as it is, with a gradient of zero."""

    kind: Literal["zero-gradient"] = "zero-gradient"

    def deterministic(self, classes: int) -> bool:
        return True

    def transform(self, pixels: Tensor, rows: Rows, context: Context) -> Tensor:
        return _Shattered.apply(pixels)


class FixedNoise(Defense):
    """Noise that is the same for every image and every draw, though it says that it draws."""

    kind: Literal["fixed-noise"] = "fixed-noise"
    draws: int = 3
    deviation: float = 0.1

    def transform(self, pixels: Tensor, rows: Rows, context: Context) -> Tensor:
        generator = torch.Generator().manual_seed(7)
        noise = torch.randn(pixels[:1].shape, generator=generator).to(pixels)
        return straight.clip(pixels + self.deviation * noise)


class Rounding(Defense):
    """Each pixel at the nearest of 256 values, straight through."""

    kind: Literal["rounding"] = "rounding"
    once: ClassVar[bool] = True

    def deterministic(self, classes: int) -> bool:
        return True

    def transform(self, pixels: Tensor, rows: Rows, context: Context) -> Tensor:
        return straight.round_to_8_bits(pixels)


class TowardsItsOwnClass(Optimised):
    """Large steps towards the class that an image is given anyway, where the loss is flat.

    The prediction is the network's own, and its gradient next to nothing.
    """

    kind: Literal["towards-its-own-class"] = "towards-its-own-class"
    steps: int = 2

    def descent(self) -> Descent:
        return Descent(self.steps, step_size=38 / 255)

    def value(self, pixels: Tensor, context: Context) -> Scalar:
        given = context.classifier.logits(pixels.detach()).argmax(dim=1)

        def value(moved: Tensor) -> Tensor:
            return nn.functional.cross_entropy(context.logits(moved), given, reduction="none")

        return value

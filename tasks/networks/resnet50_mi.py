"""The network that Mixup Inference's released code calls ResNet-50, most likely the paper's."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal

from tasks.networks.base import Network
from tasks.networks.families.multiplications import convolution, halved

if TYPE_CHECKING:
    from torch import nn


class ResNet50MI(Network):
    """Three stages of five bottleneck blocks without expansion: 4,752,586 weights, 0.7 GMAC."""

    version: ClassVar[int] = 1
    kind: Literal["resnet50-mi"] = "resnet50-mi"

    def module(self, channels: int, side: int, classes: int) -> nn.Module:  # noqa: ARG002
        """See `Network.module`."""
        from tasks.networks.modules.bottleneck import ThreeStageResNet

        return ThreeStageResNet(channels, classes, mean=self.mean, std=self.std)

    def multiplications(self, channels: int, side: int, classes: int) -> int:
        """See `Network.multiplications`."""
        total = convolution(channels, 64, kernel=5, side=side)
        entering = 64
        for width in (64, 128, 256):
            before, side = side, side if width == entering else halved(side)
            square = convolution(width, width, kernel=1, side=side)
            # The first 1x1 convolution is before the stride; a change of shape needs a projection.
            total += convolution(entering, width, kernel=1, side=before) + 9 * square
            total += 5 * convolution(width, width, kernel=3, side=side)
            if width != entering:
                total += convolution(entering, width, kernel=1, side=side)
            entering = width
        return total + 256 * classes

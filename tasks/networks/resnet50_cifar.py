"""torchvision's ResNet-50 with a stem for small images."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal

from tasks.networks.base import Network
from tasks.networks.families.multiplications import convolution, halved

if TYPE_CHECKING:
    from torch import nn


class ResNet50Cifar(Network):
    """torchvision's `resnet50` with a 3x3 convolution of stride 1 as stem, and no max-pooling."""

    version: ClassVar[int] = 1
    kind: Literal["resnet50-cifar"] = "resnet50-cifar"

    def module(self, channels: int, side: int, classes: int) -> nn.Module:  # noqa: ARG002
        """See `Network.module`."""
        from tasks.networks.modules.torchvision_resnet import SmallImageResNet50

        return SmallImageResNet50(channels, classes, mean=self.mean, std=self.std)

    def multiplications(self, channels: int, side: int, classes: int) -> int:
        """See `Network.multiplications`."""
        total = convolution(channels, 64, kernel=3, side=side)
        entering = 64
        for width, blocks in ((64, 3), (128, 4), (256, 6), (512, 3)):
            before, side = side, side if width == 64 else halved(side)
            leaving = 4 * width
            total += (
                # The first block: a 1x1 convolution before the stride, and a projection shortcut.
                convolution(entering, width, kernel=1, side=before)
                + convolution(entering, leaving, kernel=1, side=side)
                + (blocks - 1) * convolution(leaving, width, kernel=1, side=side)
                + blocks * convolution(width, width, kernel=3, side=side)
                + blocks * convolution(width, leaving, kernel=1, side=side)
            )
            entering = leaving
        return total + entering * classes

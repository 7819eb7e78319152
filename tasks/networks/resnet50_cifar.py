"""The common ResNet-50 with a stem for small images."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal

from tasks.networks.base import Network

if TYPE_CHECKING:
    from torch import nn


class ResNet50Cifar(Network):
    """torchvision's resnet50, its stem a 3x3 convolution of stride 1 without max-pooling."""

    version: ClassVar[int] = 1
    kind: Literal["resnet50-cifar"] = "resnet50-cifar"

    def module(self, channels: int, side: int, classes: int) -> nn.Module:  # noqa: ARG002
        """See `Network.module`."""
        from tasks.modules.torchvision_resnet import SmallImageResNet50

        return SmallImageResNet50(channels, classes, mean=self.mean, std=self.std)

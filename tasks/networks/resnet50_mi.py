"""The 'ResNet-50' of Mixup Inference's released code, most likely the paper's."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal

from tasks.networks.base import Network

if TYPE_CHECKING:
    from torch import nn


class ResNet50MI(Network):
    """Three stages of five bottleneck blocks without widening: 4,752,586 weights, 0.7 GMAC."""

    version: ClassVar[int] = 1
    kind: Literal["resnet50-mi"] = "resnet50-mi"

    def module(self, channels: int, side: int, classes: int) -> nn.Module:  # noqa: ARG002
        """See `Network.module`."""
        from tasks.modules.bottleneck import ThreeStageResNet

        return ThreeStageResNet(channels, classes, mean=self.mean, std=self.std)

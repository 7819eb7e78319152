"""ResNet-20 of He et al. 2016, section 4.2."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

from pydantic import Field

from tasks.multiplications import basic_resnet
from tasks.networks.base import Network
from tasks.specs import Positive

if TYPE_CHECKING:
    from torch import nn


class ResNet20(Network):
    """Three stages of 3 basic blocks with 16, 32 and 64 channels, option-A shortcuts.

    Normalised by default as the public CIFAR-10 checkpoints of this architecture are.
    """

    version: ClassVar[int] = 1
    kind: Literal["resnet20"] = "resnet20"
    mean: Annotated[tuple[float, ...], Field(strict=False, min_length=1)] = (0.485, 0.456, 0.406)
    std: Annotated[tuple[Positive, ...], Field(strict=False, min_length=1)] = (0.229, 0.224, 0.225)

    def module(self, channels: int, side: int, classes: int) -> nn.Module:  # noqa: ARG002
        """See `Network.module`."""
        from tasks.modules.basic import BasicResNet

        return BasicResNet(channels, classes, blocks=3, mean=self.mean, std=self.std)

    def multiplications(self, channels: int, side: int, classes: int) -> int:
        """See `Network.multiplications`."""
        return basic_resnet(channels, side, classes, blocks=3)

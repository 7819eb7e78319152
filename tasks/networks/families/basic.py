"""The residual networks for CIFAR of He et al. 2016, section 4.2, of any depth."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, ClassVar

from pydantic import Field

from tasks.networks.base import Network
from tasks.networks.families.multiplications import basic_resnet
from tasks.specs import Deviation, Mean

if TYPE_CHECKING:
    from torch import nn


class BasicNetwork(Network):
    """Three stages of basic blocks, normalised by default as the public checkpoints are."""

    blocks: ClassVar[int]
    """Blocks in each stage."""

    mean: Annotated[tuple[Mean, ...], Field(strict=False, min_length=1)] = (0.485, 0.456, 0.406)
    std: Annotated[tuple[Deviation, ...], Field(strict=False, min_length=1)] = (0.229, 0.224, 0.225)

    def module(self, channels: int, side: int, classes: int) -> nn.Module:  # noqa: ARG002
        """See `Network.module`."""
        from tasks.networks.modules.basic import BasicResNet

        return BasicResNet(channels, classes, blocks=self.blocks, mean=self.mean, std=self.std)

    def multiplications(self, channels: int, side: int, classes: int) -> int:
        """See `Network.multiplications`."""
        return basic_resnet(channels, side, classes, blocks=self.blocks)

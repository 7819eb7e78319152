"""A small network for CPUs and tiny images."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

from pydantic import Field

from tasks.networks.base import Network
from tasks.networks.families.multiplications import convolution, halved

if TYPE_CHECKING:
    from torch import nn


class Small(Network):
    """Five 3x3 convolutions with batch norm and ReLU, for images of 8 to 64 pixels.

    The first has `width` channels, the last four times as many. With a width of 16, an 8x8 image of
    one channel takes 0.45 million multiplications.
    """

    version: ClassVar[int] = 1
    kind: Literal["small"] = "small"
    width: Annotated[int, Field(ge=1, le=4096)] = 16
    """Channels of the first convolution."""

    def module(self, channels: int, side: int, classes: int) -> nn.Module:  # noqa: ARG002
        """See `Network.module`."""
        from tasks.networks.modules.small import SmallNetwork

        return SmallNetwork(channels, classes, width=self.width, mean=self.mean, std=self.std)

    def multiplications(self, channels: int, side: int, classes: int) -> int:
        """See `Network.multiplications`."""
        width, half, quarter = self.width, halved(side), halved(halved(side))
        return (
            convolution(channels, width, kernel=3, side=side)
            + convolution(width, 2 * width, kernel=3, side=half)
            + convolution(2 * width, 2 * width, kernel=3, side=half)
            + convolution(2 * width, 4 * width, kernel=3, side=quarter)
            + convolution(4 * width, 4 * width, kernel=3, side=quarter)
            + 4 * width * classes
        )

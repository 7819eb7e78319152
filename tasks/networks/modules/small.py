"""The small network: five convolutions, two of which halve the side."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn
from torch.nn import functional as F

from tasks.networks.modules.normalise import Normalise


class SmallNetwork(nn.Module):
    """Network from float32 [N, channels, H, W] in [0, 1], H and W at least 4, to [N, classes]."""

    def __init__(
        self,
        channels: int,
        classes: int,
        *,
        width: int,
        mean: Sequence[float],
        std: Sequence[float],
    ) -> None:
        super().__init__()
        self.normalise = Normalise(mean, std)
        self.layers = nn.Sequential(
            _layer(channels, width),
            _layer(width, 2 * width, stride=2),
            _layer(2 * width, 2 * width),
            _layer(2 * width, 4 * width, stride=2),
            _layer(4 * width, 4 * width),
        )
        self.linear = nn.Linear(4 * width, classes)

    def forward(self, pixels: Tensor) -> Tensor:
        """See the class."""
        features = self.layers(self.normalise(pixels))
        logits: Tensor = self.linear(F.adaptive_avg_pool2d(features, 1).flatten(1))
        return logits


def _layer(entering: int, leaving: int, stride: int = 1) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(entering, leaving, 3, stride=stride, padding=1, bias=False),
        nn.BatchNorm2d(leaving),
        nn.ReLU(inplace=True),
    )

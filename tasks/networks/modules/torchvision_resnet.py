"""torchvision's ResNet-50 adapted to small images."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn
from torchvision.models.resnet import Bottleneck, ResNet

from tasks.networks.modules.normalise import Normalise


class SmallImageResNet50(ResNet):  # type: ignore[misc]
    """ResNet-50 for small images, with torchvision's names of weights.

    Maps float32 [N, channels, H, W] in [0, 1] to [N, classes].
    """

    def __init__(
        self, channels: int, classes: int, *, mean: Sequence[float], std: Sequence[float]
    ) -> None:
        super().__init__(Bottleneck, [3, 4, 6, 3], num_classes=classes)
        self.normalise = Normalise(mean, std)
        self.conv1 = nn.Conv2d(channels, 64, 3, padding=1, bias=False)
        self.maxpool = nn.Identity()

    def forward(self, pixels: Tensor) -> Tensor:
        """See the class."""
        logits: Tensor = super().forward(self.normalise(pixels))
        return logits

"""The three-stage bottleneck network that Mixup Inference's code calls ResNet-50."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn
from torch.nn import functional as F

from tasks.networks.modules.normalise import Normalise


class Bottleneck(nn.Module):
    """1x1, 3x3 and 1x1 convolutions of equal width; the 3x3 one has the stride."""

    def __init__(self, entering: int, width: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(entering, width, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, stride=stride, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.conv3 = nn.Conv2d(width, width, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(width)
        self.downsample: nn.Module | None = None
        if stride != 1 or entering != width:
            projection = nn.Conv2d(entering, width, 1, stride=stride, bias=False)
            self.downsample = nn.Sequential(projection, nn.BatchNorm2d(width))

    def forward(self, features: Tensor) -> Tensor:
        """Map [N, entering, H, W] to [N, width, ceil(H / stride), ceil(W / stride)]."""
        shortcut = features if self.downsample is None else self.downsample(features)
        features = F.relu(self.bn1(self.conv1(features)), inplace=True)
        features = F.relu(self.bn2(self.conv2(features)), inplace=True)
        return F.relu(self.bn3(self.conv3(features)).add_(shortcut), inplace=True)


class ThreeStageResNet(nn.Module):
    """Bottleneck network from float32 [N, channels, H, W] in [0, 1] to [N, classes].

    Names of weights: conv1, bn1, layer{1,2,3}.N.{conv,bn}{1,2,3}, layer{2,3}.0.downsample.{0,1},
    fc_dense.
    """

    def __init__(
        self, channels: int, classes: int, *, mean: Sequence[float], std: Sequence[float]
    ) -> None:
        super().__init__()
        self.normalise = Normalise(mean, std)
        self.conv1 = nn.Conv2d(channels, 64, 5, padding=2, bias=False)
        self.bn1 = nn.BatchNorm2d(64)
        self.layer1 = _stage(64, 64, stride=1)
        self.layer2 = _stage(64, 128, stride=2)
        self.layer3 = _stage(128, 256, stride=2)
        self.fc_dense = nn.Linear(256, classes)

    def forward(self, pixels: Tensor) -> Tensor:
        """See the class."""
        features = F.relu(self.bn1(self.conv1(self.normalise(pixels))), inplace=True)
        features = self.layer3(self.layer2(self.layer1(features)))
        logits: Tensor = self.fc_dense(F.adaptive_avg_pool2d(features, 1).flatten(1))
        return logits


def _stage(entering: int, width: int, stride: int) -> nn.Sequential:
    later = (Bottleneck(width, width, 1) for _ in range(4))
    return nn.Sequential(Bottleneck(entering, width, stride), *later)

"""The CIFAR ResNets of He et al. 2016, section 4.2."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn
from torch.nn import functional as F

from tasks.networks.modules.normalise import Normalise


class BasicBlock(nn.Module):
    """Two 3x3 convolutions, and a shortcut without weights where the shape changes (option A)."""

    def __init__(self, entering: int, leaving: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(entering, leaving, 3, stride=stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(leaving)
        self.conv2 = nn.Conv2d(leaving, leaving, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(leaving)
        self.stride = stride
        self.missing = leaving - entering

    def forward(self, features: Tensor) -> Tensor:
        """Map [N, entering, H, W] to [N, leaving, ceil(H / stride), ceil(W / stride)]."""
        shortcut = features
        if self.missing:
            # Subsample, and pad the new channels with zeros, half of them on each side.
            before = self.missing // 2
            shortcut = features[:, :, :: self.stride, :: self.stride]
            shortcut = F.pad(shortcut, (0, 0, 0, 0, before, self.missing - before))
        features = F.relu(self.bn1(self.conv1(features)), inplace=True)
        return F.relu(self.bn2(self.conv2(features)).add_(shortcut), inplace=True)


class BasicResNet(nn.Module):
    """CIFAR ResNet with 6 * blocks + 2 layers.

    Maps float32 [N, channels, H, W] in [0, 1] to [N, classes]. Names of weights: conv1, bn1,
    layer{1,2,3}.N.{conv,bn}{1,2}, linear.
    """

    def __init__(
        self,
        channels: int,
        classes: int,
        *,
        blocks: int,
        mean: Sequence[float],
        std: Sequence[float],
    ) -> None:
        super().__init__()
        self.normalise = Normalise(mean, std)
        self.conv1 = nn.Conv2d(channels, 16, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(16)
        self.layer1 = _stage(16, 16, blocks, stride=1)
        self.layer2 = _stage(16, 32, blocks, stride=2)
        self.layer3 = _stage(32, 64, blocks, stride=2)
        self.linear = nn.Linear(64, classes)

    def forward(self, pixels: Tensor) -> Tensor:
        """See the class."""
        features = F.relu(self.bn1(self.conv1(self.normalise(pixels))), inplace=True)
        features = self.layer3(self.layer2(self.layer1(features)))
        logits: Tensor = self.linear(F.adaptive_avg_pool2d(features, 1).flatten(1))
        return logits


def _stage(entering: int, leaving: int, blocks: int, stride: int) -> nn.Sequential:
    later = (BasicBlock(leaving, leaving, 1) for _ in range(blocks - 1))
    return nn.Sequential(BasicBlock(entering, leaving, stride), *later)

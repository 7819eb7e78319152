"""ResNet-20 of He et al. 2016, section 4.2."""

from __future__ import annotations

from typing import ClassVar, Literal

from tasks.networks.families.basic import BasicNetwork


class ResNet20(BasicNetwork):
    """ResNet-20: three stages of 3 basic blocks with 16, 32 and 64 channels, option-A shortcuts.

    Normalised by default as the public CIFAR-10 checkpoints of this architecture are.
    """

    kind: Literal["resnet20"] = "resnet20"
    version: ClassVar[int] = 1
    blocks: ClassVar[int] = 3

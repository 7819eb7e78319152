"""ResNet-56 of He et al. 2016, section 4.2."""

from __future__ import annotations

from typing import ClassVar, Literal

from tasks.networks.families.basic import BasicNetwork


class ResNet56(BasicNetwork):
    """ResNet-56: three stages of 9 basic blocks with 16, 32 and 64 channels, option-A shortcuts.

    Normalised by default as the public CIFAR-10 checkpoints of this architecture are.
    """

    kind: Literal["resnet56"] = "resnet56"
    version: ClassVar[int] = 1
    blocks: ClassVar[int] = 9

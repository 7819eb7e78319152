"""Multiplications of layers, without building them; only convolutions and linear layers count."""

from __future__ import annotations


def convolution(entering: int, leaving: int, *, kernel: int, side: int) -> int:
    """Return those of an ungrouped convolution for one image; side: of the output, in pixels."""
    return entering * leaving * kernel**2 * side**2


def halved(side: int) -> int:
    """Return the side after a padded convolution of stride 2, which rounds up."""
    return -(-side // 2)


def basic_resnet(channels: int, side: int, classes: int, *, blocks: int) -> int:
    """Return those of `BasicResNet` for one image; its shortcuts have none."""
    total = convolution(channels, 16, kernel=3, side=side)
    entering = 16
    for width in (16, 32, 64):
        if width != entering:
            side = halved(side)
        total += convolution(entering, width, kernel=3, side=side)
        total += (2 * blocks - 1) * convolution(width, width, kernel=3, side=side)
        entering = width
    return total + 64 * classes

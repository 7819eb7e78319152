"""The contract of a network."""

from __future__ import annotations

import torch

from tasks.contract.conditions import require
from tasks.contract.samples import CLASSES, COUNT, sample_images
from tasks.data.arrays import as_float
from tasks.networks.base import Network


def check_network(spec: Network, *, channels: int = 1, side: int = 8) -> None:
    """Check a network: finite logits of the right shape for any batch size, and a finite gradient.

    Args:
        spec: The network; it is built for ten classes.
        channels: Channels of the test images.
        side: Side of the test images, in pixels.

    Raises:
        BrokenContract: If any of this does not hold.
    """
    module = spec.build(channels, side, CLASSES).eval()
    name = f"network {spec.kind}"
    for count in (1, COUNT):
        leaf = as_float(sample_images(channels, side).pixels[:count]).requires_grad_()
        logits = module(leaf)
        shape = tuple(logits.shape)
        require(shape == (count, CLASSES), f"{name}: gives {shape}, not {(count, CLASSES)}")
        require(bool(logits.isfinite().all()), f"{name}: gives logits that are not finite")
        (gradient,) = torch.autograd.grad(logits.sum(), leaf)
        require(bool(gradient.isfinite().all()), f"{name}: gives a gradient that is not finite")

"""Measures the speed of one CPU core of this machine, in a few seconds."""

from __future__ import annotations

import time

from tasks.specs import Precision

SECONDS = 2.0
"""Duration of the measurement, after a warm-up pass."""
ROWS = 32
FLOP = 2
"""Operations of a multiply-add."""


def calibrate(precision: Precision, seconds: float = SECONDS) -> float:
    """Floating-point operations a second of a ResNet-20 on 32 x 32 pixels, forward and backward.

    Measured on one thread, the default of a worker, as the processor time of the fastest pass, so
    that other programs do not affect it.
    """
    import torch

    from tasks.classifier.frozen import Frozen
    from tasks.networks.resnet20 import ResNet20

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        network = ResNet20(kind="resnet20")
        frozen = Frozen(network.build(3, 32, 10), classes=10, precision=precision)
        pixels = torch.full((ROWS, 3, 32, 32), 0.5)
        operations = FLOP * 2 * ROWS * network.multiplications(3, 32, 10)
        taken = []
        until = None
        while until is None or time.monotonic() < until or not taken:
            began = time.process_time()
            frozen.gradient(pixels, lambda logits: logits[:, 0])
            if until is None:
                until = time.monotonic() + seconds
            else:
                taken.append(time.process_time() - began)
    finally:
        torch.set_num_threads(threads)
    return operations / min(taken)

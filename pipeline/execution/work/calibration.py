"""How many operations a second one core of this machine's CPU reaches: some seconds of work."""

from __future__ import annotations

import time

from tasks.specs import Precision

SECONDS = 2.0
"""That are measured, after one pass that is not."""
ROWS = 32
FLOP = 2
"""Operations in a multiplication and the addition that goes with it."""


def calibrate(precision: Precision, seconds: float = SECONDS) -> float:
    """Floating-point operations a second of a ResNet-20 on 32 x 32 pixels, there and back.

    On one thread, as a worker by default has. Of its processor time, of the fastest pass: what
    else runs on this machine does not count.
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

"""Several answers about one image made into one."""

from __future__ import annotations

import math

from torch import Tensor


def log_mean(logits: Tensor) -> Tensor:
    """The log of the mean probability, whose cross-entropy is -log p of a class.

    logits: float [..., K, classes], one row for each answer; returns float [..., classes]. A single
    answer's logits are returned as they are, so that nothing to draw changes nothing, bit for bit.
    """
    count = logits.shape[-2]
    if count == 1:
        return logits[..., 0, :]
    return logits.log_softmax(dim=-1).logsumexp(dim=-2) - math.log(count)

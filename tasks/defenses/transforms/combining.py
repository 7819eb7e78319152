"""Combining several answers about one image into one."""

from __future__ import annotations

import math

from torch import Tensor


def log_mean(logits: Tensor) -> Tensor:
    """Return the log of the mean probability over answers.

    A single answer's logits are returned as they are, so that averaging one draw changes no bit.

    Args:
        logits: float [..., K, classes], of K answers.

    Returns:
        float [..., classes].
    """
    count = logits.shape[-2]
    if count == 1:
        return logits[..., 0, :]
    return logits.log_softmax(dim=-1).logsumexp(dim=-2) - math.log(count)


def levelled_median(logits: Tensor) -> Tensor:
    """Return the CrossMax scores of Fort and Lakshminarayanan (2024), as log-probabilities.

    Each answer's logits are reduced by their maximum over classes, then by the maximum of each
    class over answers. The result is the median over answers (the lower one of an even number).

    Args:
        logits: float [..., K, classes], of K answers.

    Returns:
        float [..., classes].
    """
    levelled = logits - logits.amax(dim=-1, keepdim=True)
    levelled = levelled - levelled.amax(dim=-2, keepdim=True)
    return levelled.median(dim=-2).values.log_softmax(dim=-1)

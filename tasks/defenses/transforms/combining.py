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


def levelled_median(logits: Tensor) -> Tensor:
    """The median over answers that were brought to one level twice, as log-probabilities.

    Of each answer its highest logit is subtracted, then of each class its highest over answers;
    of an even number of answers the lower middle is taken. logits: float [..., K, classes];
    returns float [..., classes]. Fort and Lakshminarayanan 2024, "CrossMax".
    """
    levelled = logits - logits.amax(dim=-1, keepdim=True)
    levelled = levelled - levelled.amax(dim=-2, keepdim=True)
    return levelled.median(dim=-2).values.log_softmax(dim=-1)

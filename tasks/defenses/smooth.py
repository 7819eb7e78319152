"""Randomised smoothing as a predictor (Cohen, Rosenfeld and Kolter, ICML 2019)."""

from __future__ import annotations

import math
from functools import cache
from typing import TYPE_CHECKING, ClassVar, Literal

from tasks.defenses.base import Context, Defense, GradientRule
from tasks.specs import Count, Fraction, Pixel255

if TYPE_CHECKING:
    from torch import Tensor

    from tasks.data.seeding import Rows

NO_VOTE = -87.0
"""Log-probability of a class without a vote, still representable in float32 as a probability."""


class Smooth(Defense):
    """Randomised smoothing: a majority vote over draws of Gaussian noise, with abstention.

    The noise is not clipped, so pixels leave [0, 1]. A prediction abstains if the votes for the
    first and the second class could come from a fair coin: if the two-sided binomial test has a
    p-value above `level`.
    """

    kind: Literal["smooth"] = "smooth"
    version: ClassVar[int] = 1

    draws: Count = 100
    standard_deviation_255ths: Pixel255 = 63.75
    """Standard deviation of the noise, in 1/255; the default, 0.25 of the pixel range, was
    published for networks trained with that noise."""
    level: Fraction = 0.001
    """Significance level of the binomial test."""

    def leaves_range(self) -> bool:
        """Always true: the networks were trained on noise that is not clipped."""
        return True

    def gradients(self) -> tuple[GradientRule, ...]:
        """Only through the surrogate, since a vote has no gradient."""
        return ("surrogate",)

    def transform(self, pixels: Tensor, rows: Rows, context: Context) -> Tensor:  # noqa: ARG002
        """Add the noise."""
        noise = rows.normal("noise", pixels[0].numel()).view_as(pixels)
        return pixels + self.standard_deviation_255ths / 255 * noise

    def combine(self, logits: Tensor) -> Tensor:
        """Return a vote: all probability on the class of the highest logit, the first if equal."""
        import torch
        from torch.nn.functional import one_hot

        votes = one_hot(logits[..., 0, :].argmax(dim=-1), logits.shape[-1])
        return torch.where(votes == 1, 0.0, NO_VOTE).to(logits.dtype)

    def abstains(self, probabilities: Tensor, draws: int) -> Tensor:
        """Return where the p-value of the first class against the second is above `level`."""
        import torch

        votes = (probabilities * draws).round().topk(2, dim=-1).values.to(torch.int64)
        pairs = votes.reshape(-1, 2).tolist()
        above = [fair_coin(first, second) > self.level for first, second in pairs]
        return torch.tensor(above, device=votes.device).reshape(votes.shape[:-1])


@cache
def fair_coin(first: int, second: int) -> float:
    """Return the two-sided binomial p-value, in [0, 1], of `first` heads and `second` tails.

    `first` is at least `second`.
    """
    count = first + second
    tail = sum(math.comb(count, heads) for heads in range(first, count + 1))
    return min(1.0, float(2 * tail / 2**count))

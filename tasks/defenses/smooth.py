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
"""The log of a probability that float32 still holds."""


class Smooth(Defense):
    """The class that most of the draws of Gaussian noise vote for, or none.

    The noise is not clipped, so pixels leave [0, 1]. A prediction abstains where the votes for the
    first class and for the second may well come from a fair coin: where the two-sided binomial test
    has a p above `level`. The deviation is in 1/255, 0.25 of the pixel range by default, as
    published for networks that were trained with it.
    """

    kind: Literal["smooth"] = "smooth"
    version: ClassVar[int] = 1

    draws: Count = 100
    standard_deviation_255ths: Pixel255 = 63.75
    """In 1/255 of the pixel range."""
    level: Fraction = 0.001
    """Of the binomial test."""

    def leaves_range(self) -> bool:
        """Always: the network was trained on noise that is not clipped."""
        return True

    def gradients(self) -> tuple[GradientRule, ...]:
        """The surrogate alone: a vote has no gradient."""
        return ("surrogate",)

    def transform(self, pixels: Tensor, rows: Rows, context: Context) -> Tensor:  # noqa: ARG002
        """Add the noise."""
        noise = rows.normal("noise", pixels[0].numel()).view_as(pixels)
        return pixels + self.standard_deviation_255ths / 255 * noise

    def combine(self, logits: Tensor) -> Tensor:
        """A vote: all of the probability for the first of the highest logits."""
        import torch
        from torch.nn.functional import one_hot

        votes = one_hot(logits[..., 0, :].argmax(dim=-1), logits.shape[-1])
        return torch.where(votes == 1, 0.0, NO_VOTE).to(logits.dtype)

    def abstains(self, probabilities: Tensor, draws: int) -> Tensor:
        """Where the test of the first against the second has a p above the level."""
        import torch

        votes = (probabilities * draws).round().topk(2, dim=-1).values.to(torch.int64)
        pairs = votes.reshape(-1, 2).tolist()
        above = [fair_coin(first, second) > self.level for first, second in pairs]
        return torch.tensor(above, device=votes.device).reshape(votes.shape[:-1])


@cache
def fair_coin(first: int, second: int) -> float:
    """The two-sided p-value of so many heads, of at least as many as tails, in [0, 1]."""
    count = first + second
    tail = sum(math.comb(count, heads) for heads in range(first, count + 1))
    return min(1.0, float(2 * tail / 2**count))

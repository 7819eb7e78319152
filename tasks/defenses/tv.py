"""Total variation minimisation (Guo et al., ICLR 2018)."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal

from tasks.defenses.base import Context, Defense
from tasks.specs import Count, Fraction, Positive

if TYPE_CHECKING:
    from torch import Tensor

    from tasks.data.seeding import Rows

TOUCHED = 62
"""Numbers that one iteration of the solver reads and writes for a pixel of a channel."""


class TV(Defense):
    """Total variation minimisation: the smoothest image that agrees with randomly kept pixels.

    It minimises the Euclidean distance to the kept pixels (not squared) plus `weight` times the
    isotropic total variation.
    """

    kind: Literal["tv"] = "tv"
    version: ClassVar[int] = 1

    draws: Count = 10
    keep: Fraction = 0.5
    """Probability of keeping a value, for each pixel and channel."""
    weight: Positive = 0.03
    """Weight of the total variation."""
    iterations: Count = 50
    """Steps of the primal-dual solver, which starts at the image."""

    def touched(self) -> int:
        """What the solver touches; it takes longer than a forward pass of a small network."""
        return TOUCHED * self.iterations

    def transform(self, pixels: Tensor, rows: Rows, context: Context) -> Tensor:  # noqa: ARG002
        """Minimise, with a straight-through gradient."""
        from tasks.defenses.transforms import straight
        from tasks.defenses.transforms.total_variation import minimised

        drawn = rows.uniform("mask", pixels[0].numel()).view_as(pixels)
        mask = (drawn < self.keep).to(pixels.dtype)
        found = minimised(pixels.detach(), mask, self.weight, self.iterations)
        return straight.through(pixels, found.clamp(0, 1))

"""Total variance minimisation (Guo et al., ICLR 2018)."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal

from tasks.defenses.base import Context, Defense
from tasks.specs import Count, Fraction, Positive

if TYPE_CHECKING:
    from torch import Tensor

    from tasks.data.seeding import Rows

TOUCHED = 62
"""Numbers that an iteration of the solver reads and writes for a pixel of a channel."""


class TV(Defense):
    """The smoothest image that agrees with randomly kept pixels.

    Of pixels and channels each is kept with the chance `keep`; the image then minimises the length
    of its difference to the kept ones, not squared, plus `weight` times its isotropic total
    variation: `iterations` steps of a primal-dual solver, from the image.
    """

    kind: Literal["tv"] = "tv"
    version: ClassVar[int] = 1

    draws: Count = 10
    keep: Fraction = 0.5
    """Chance of a pixel to be kept."""
    weight: Positive = 0.03
    """Of the total variation."""
    iterations: Count = 50
    """Of the solver."""

    def touched(self) -> int:
        """Those of the solver, which takes longer than a forward pass of a small network."""
        return TOUCHED * self.iterations

    def transform(self, pixels: Tensor, rows: Rows, context: Context) -> Tensor:  # noqa: ARG002
        """Minimise, the gradient passed straight through."""
        from tasks.defenses.transforms import straight
        from tasks.defenses.transforms.total_variation import minimised

        drawn = rows.uniform("mask", pixels[0].numel()).view_as(pixels)
        mask = (drawn < self.keep).to(pixels.dtype)
        found = minimised(pixels.detach(), mask, self.weight, self.iterations)
        return straight.through(pixels, found.clamp(0, 1))

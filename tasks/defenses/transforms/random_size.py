"""Random sizes and places, as used by the defenses of Guo et al. and Xie et al."""

from __future__ import annotations

from typing import TYPE_CHECKING, Self

from pydantic import model_validator

from tasks.defenses.base import Defense
from tasks.specs import Count, Fraction

if TYPE_CHECKING:
    from torch import Tensor

    from tasks.data.seeding import Rows


class RandomSize(Defense):
    """A defense that draws a size and a place for each row, both uniform over whole pixels."""

    draws: Count = 50
    smallest: Fraction = 24 / 32
    """Side of the smallest crop or resized image, as a fraction of the image's side."""
    largest: Fraction = 1.0
    """Side of the largest crop or resized image, as a fraction of the image's side."""
    round_to_8_bits: bool = False
    """Round pixels to multiples of 1/255 first."""

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if self.smallest > self.largest:
            raise ValueError(f"smallest {self.smallest} is above largest {self.largest}")
        return self

    def rounded(self, pixels: Tensor) -> Tensor:
        """Return the pixels, rounded to 8 bits if `round_to_8_bits` is set."""
        from tasks.defenses.transforms import straight

        return straight.round_to_8_bits(pixels) if self.round_to_8_bits else pixels

    def sizes(self, pixels: Tensor, rows: Rows) -> Tensor:
        """Return the side drawn for each row, int64 [M, 1], in pixels."""
        from tasks.defenses.transforms import warps

        side = warps.square_side(pixels)
        return rows.integers("size", *warps.size_range(self.smallest, self.largest, side))

    def places(self, name: str, pixels: Tensor, size: Tensor, rows: Rows) -> Tensor:
        """Return the place drawn for a square of each row's size: top and left, int64 [M, 2]."""
        from tasks.defenses.transforms import warps

        return rows.integers(name, 0, warps.square_side(pixels) - size, count=2)

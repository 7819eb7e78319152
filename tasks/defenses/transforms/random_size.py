"""Random sizes at random places: what the defenses of Guo et al. and of Xie et al. share."""

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
    """Side of the smallest window or version, as a share of the image's."""
    largest: Fraction = 1.0
    """Side of the largest window or version, as a share of the image's."""
    round_to_8_bits: bool = False
    """Round pixels to multiples of 1/255 first."""

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if self.smallest > self.largest:
            raise ValueError(f"smallest {self.smallest} is above largest {self.largest}")
        return self

    def rounded(self, pixels: Tensor) -> Tensor:
        """The pixels, rounded if that is asked for."""
        from tasks.defenses.transforms import straight

        return straight.round_to_8_bits(pixels) if self.round_to_8_bits else pixels

    def sizes(self, pixels: Tensor, rows: Rows) -> Tensor:
        """The side of each row, int64 [M], in pixels."""
        from tasks.defenses.transforms import warps

        side = warps.square_side(pixels)
        return rows.integers("size", *warps.size_range(self.smallest, self.largest, side))

    def places(self, name: str, pixels: Tensor, size: Tensor, rows: Rows) -> Tensor:
        """Where a square of each row's size lies in its image: top and left, int64 [M, 2]."""
        from tasks.defenses.transforms import warps

        return rows.integers(name, 0, warps.square_side(pixels) - size, count=2)

"""Random cropping and rescaling (Guo et al. 2018), a baseline of section V."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal, Self

from pydantic import model_validator

from tasks.defenses.base import Context, Defense
from tasks.specs import Count, Fraction

if TYPE_CHECKING:
    from torch import Tensor

    from tasks.seeding import Rows


class Guo(Defense):
    """A random window of the image, resized back to the whole side.

    The window's size is uniform over the whole pixels from `smallest` to `largest`, fractions
    of the side; its place is uniform.
    """

    kind: Literal["guo"] = "guo"
    version: ClassVar[int] = 1

    draws: Count = 50
    smallest: Fraction = 24 / 32
    """Side of the smallest window, as a share of the image's."""
    largest: Fraction = 1.0
    """Side of the largest window, as a share of the image's."""
    round_to_8_bits: bool = False
    """Round pixels to multiples of 1/255 first."""

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if self.smallest > self.largest:
            raise ValueError(f"smallest {self.smallest} is above largest {self.largest}")
        return self

    def transform(self, pixels: Tensor, rows: Rows, context: Context) -> Tensor:  # noqa: ARG002
        """Crop, then resize."""
        from tasks import straight, warps

        if self.round_to_8_bits:
            pixels = straight.round_to_8_bits(pixels)
        side = warps.square_side(pixels)
        size = rows.integers("size", *warps.size_range(self.smallest, self.largest, side))
        place = rows.integers("place", 0, side - size, count=2)
        return warps.crop_resize(pixels, size, place)

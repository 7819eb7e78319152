"""Random resizing and padding (Xie et al. 2018), a baseline of section V."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal, Self

from pydantic import model_validator

from tasks.defenses.base import Context, Defense
from tasks.specs import Count, Fraction

if TYPE_CHECKING:
    from torch import Tensor

    from tasks.seeding import Rows


class Xie(Defense):
    """A smaller version of the image at a random place on a black one.

    `resize-pad` resizes the whole image, as the cited paper does; `crop-pad` takes a window of
    it unscaled, as the code of Mixup Inference does. The size is uniform over the whole pixels
    from `smallest` to `largest`, fractions of the side.
    """

    kind: Literal["xie"] = "xie"
    version: ClassVar[int] = 1

    draws: Count = 50
    form: Literal["resize-pad", "crop-pad"] = "resize-pad"
    """Resize the image, or cut a window out of it."""
    smallest: Fraction = 24 / 32
    """Side of the smallest version, as a share of the image's."""
    largest: Fraction = 1.0
    """Side of the largest version, as a share of the image's."""
    round_to_8_bits: bool = False
    """Round pixels to multiples of 1/255 first."""

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if self.smallest > self.largest:
            raise ValueError(f"smallest {self.smallest} is above largest {self.largest}")
        return self

    def transform(self, pixels: Tensor, rows: Rows, context: Context) -> Tensor:  # noqa: ARG002
        """Resize or crop, then pad."""
        from tasks import straight, warps

        if self.round_to_8_bits:
            pixels = straight.round_to_8_bits(pixels)
        side = warps.square_side(pixels)
        size = rows.integers("size", *warps.size_range(self.smallest, self.largest, side))
        place = rows.integers("place", 0, side - size, count=2)
        if self.form == "resize-pad":
            return warps.resize_pad(pixels, size, place)
        window = rows.integers("window", 0, side - size, count=2)
        return warps.crop_pad(pixels, size, window, place)

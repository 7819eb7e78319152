"""Random resizing and padding (Xie et al. 2018), a baseline of section V."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal, Self

from pydantic import model_validator

from tasks.defenses.base import Context
from tasks.defenses.transforms.random_size import RandomSize

if TYPE_CHECKING:
    from torch import Tensor

    from tasks.data.seeding import Rows


class Xie(RandomSize):
    """Random resizing and padding: a smaller version of the image at a random place on black.

    The side is uniform over the whole pixels from `smallest` to `largest`.
    """

    kind: Literal["xie"] = "xie"
    version: ClassVar[int] = 1
    unset_is_left_out: ClassVar[frozenset[str]] = frozenset({"interpolation"})

    form: Literal["resize-pad", "crop-pad"] = "resize-pad"
    """`resize-pad` resizes the whole image, as in the cited paper; `crop-pad` takes a crop of it
    unscaled, as the code of Mixup Inference does."""
    interpolation: Literal["nearest", "bilinear", "antialiased"] = "bilinear"
    """For `resize-pad`: `nearest` as in the code that Xie et al. released, `bilinear` between the
    four nearest pixels, or `antialiased`, which averages over all pixels that a smaller one
    covers."""

    @model_validator(mode="after")
    def _resizes(self) -> Self:
        if self.form == "crop-pad" and self.interpolation != "bilinear":
            raise ValueError("interpolation: the form crop-pad resizes nothing; leave it out")
        return self

    def transform(self, pixels: Tensor, rows: Rows, context: Context) -> Tensor:  # noqa: ARG002
        """Resize or crop, then pad."""
        from tasks.defenses.transforms import warps

        pixels = self.rounded(pixels)
        size = self.sizes(pixels, rows)
        place = self.places("place", pixels, size, rows)
        if self.form == "resize-pad":
            return warps.resize_pad(pixels, size, place, self.interpolation)
        window = self.places("window", pixels, size, rows)
        return warps.crop_pad(pixels, size, window, place)

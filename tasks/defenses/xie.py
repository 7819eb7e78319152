"""Random resizing and padding (Xie et al. 2018), a baseline of section V."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal

from tasks.defenses.base import Context
from tasks.defenses.transforms.random_size import RandomSize

if TYPE_CHECKING:
    from torch import Tensor

    from tasks.data.seeding import Rows


class Xie(RandomSize):
    """A smaller version of the image at a random place on a black one.

    `resize-pad` resizes the whole image, as the cited paper does; `crop-pad` takes a window of
    it unscaled, as the code of Mixup Inference does. The size is uniform over the whole pixels
    from `smallest` to `largest`, fractions of the side.
    """

    kind: Literal["xie"] = "xie"
    version: ClassVar[int] = 1

    form: Literal["resize-pad", "crop-pad"] = "resize-pad"
    """Resize the image, or cut a window out of it."""

    def transform(self, pixels: Tensor, rows: Rows, context: Context) -> Tensor:  # noqa: ARG002
        """Resize or crop, then pad."""
        from tasks.defenses.transforms import warps

        pixels = self.rounded(pixels)
        size = self.sizes(pixels, rows)
        place = self.places("place", pixels, size, rows)
        if self.form == "resize-pad":
            return warps.resize_pad(pixels, size, place)
        window = self.places("window", pixels, size, rows)
        return warps.crop_pad(pixels, size, window, place)

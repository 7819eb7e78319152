"""Random cropping and rescaling (Guo et al. 2018), a baseline of section V."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal

from tasks.defenses.base import Context
from tasks.defenses.transforms.random_size import RandomSize

if TYPE_CHECKING:
    from torch import Tensor

    from tasks.data.seeding import Rows


class Guo(RandomSize):
    """Random crop of the image, resized back to its side.

    The crop's side is uniform over the whole pixels from `smallest` to `largest`, and its place
    uniform.
    """

    kind: Literal["guo"] = "guo"
    version: ClassVar[int] = 1

    def transform(self, pixels: Tensor, rows: Rows, context: Context) -> Tensor:  # noqa: ARG002
        """Crop, then resize."""
        from tasks.defenses.transforms import warps

        size = self.sizes(pixels, rows)
        place = self.places("place", pixels, size, rows)
        return warps.crop_resize(self.rounded(pixels), size, place)

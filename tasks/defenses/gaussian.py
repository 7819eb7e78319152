"""Gaussian noise, a baseline of Table III."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal

from tasks.defenses.base import Context, Defense
from tasks.specs import Count, Pixel255

if TYPE_CHECKING:
    from torch import Tensor

    from tasks.data.seeding import Rows


class Gaussian(Defense):
    """Independent Gaussian noise on every pixel and channel, then a clip to [0, 1]."""

    kind: Literal["gaussian"] = "gaussian"
    version: ClassVar[int] = 1

    draws: Count = 50
    standard_deviation_255ths: Pixel255 = 6.375
    """Standard deviation, in 1/255; the default is 0.05 of the range [-1, 1]."""

    def transform(self, pixels: Tensor, rows: Rows, context: Context) -> Tensor:  # noqa: ARG002
        """Add the noise and clip."""
        from tasks.defenses.transforms import straight

        noise = rows.normal("noise", pixels[0].numel()).view_as(pixels)
        return straight.clip(pixels + self.standard_deviation_255ths / 255 * noise)

"""Random rotation, a baseline of Table III."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

from pydantic import Field

from tasks.defenses.base import Context, Defense
from tasks.specs import Count

if TYPE_CHECKING:
    from torch import Tensor

    from tasks.data.seeding import Rows


class Rotation(Defense):
    """Rotation about the centre by a random angle, uniform within plus or minus `limit_deg`."""

    kind: Literal["rotation"] = "rotation"
    version: ClassVar[int] = 1

    draws: Count = 50
    limit_deg: Annotated[float, Field(gt=0, le=180)] = 20.0
    """Largest angle, in degrees."""
    round_to_8_bits: bool = False
    """Round pixels to multiples of 1/255 first."""

    def transform(self, pixels: Tensor, rows: Rows, context: Context) -> Tensor:  # noqa: ARG002
        """Rotate, with black outside the image."""
        from tasks.defenses.transforms import straight, warps

        if self.round_to_8_bits:
            pixels = straight.round_to_8_bits(pixels)
        return warps.rotate(pixels, self.limit_deg * (2 * rows.uniform("angle") - 1))

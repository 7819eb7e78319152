"""Reduction of the bit depth, the first of the feature squeezers (Xu et al., NDSS 2018)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

from pydantic import Field

from tasks.defenses.base import Context, Defense

if TYPE_CHECKING:
    from torch import Tensor

    from tasks.data.seeding import Rows


class Bits(Defense):
    """Bit-depth reduction: rounds every pixel to the nearest of evenly spaced levels."""

    kind: Literal["bits"] = "bits"
    version: ClassVar[int] = 1
    once: ClassVar[bool] = True

    bits: Annotated[int, Field(ge=1, le=16)] = 4
    """Bits for each pixel and channel: there are 2 to this power levels, from black to white."""

    def deterministic(self, classes: int) -> bool:  # noqa: ARG002
        """Always true."""
        return True

    def transform(self, pixels: Tensor, rows: Rows, context: Context) -> Tensor:  # noqa: ARG002
        """Round the pixels, with a straight-through gradient."""
        from tasks.defenses.transforms import straight

        steps = 2**self.bits - 1
        return straight.through(pixels, (pixels.detach() * steps).round() / steps)

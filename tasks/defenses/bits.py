"""Reduction of the bit depth, the first of the feature squeezers (Xu et al., NDSS 2018)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

from pydantic import Field

from tasks.defenses.base import Context, Defense

if TYPE_CHECKING:
    from torch import Tensor

    from tasks.data.seeding import Rows


class Bits(Defense):
    """Every pixel at the nearest of 2**bits even steps from black to white."""

    kind: Literal["bits"] = "bits"
    version: ClassVar[int] = 1
    once: ClassVar[bool] = True

    bits: Annotated[int, Field(ge=1, le=16)] = 4
    """Of each pixel and channel: 2 to this power levels."""

    def deterministic(self, classes: int) -> bool:  # noqa: ARG002
        """Always."""
        return True

    def transform(self, pixels: Tensor, rows: Rows, context: Context) -> Tensor:  # noqa: ARG002
        """Round, the gradient passed straight through."""
        from tasks.defenses.transforms import straight

        steps = 2**self.bits - 1
        return straight.through(pixels, (pixels.detach() * steps).round() / steps)

"""JPEG compression (Guo et al., ICLR 2018)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

from pydantic import Field

from tasks.defenses.base import Context, Defense, GradientRule

if TYPE_CHECKING:
    from torch import Tensor

    from tasks.data.seeding import Rows


class JPEG(Defense):
    """JPEG compression: encodes the image, with 4:2:0 chroma subsampling, and decodes it again."""

    kind: Literal["jpeg"] = "jpeg"
    version: ClassVar[int] = 1
    once: ClassVar[bool] = True

    quality: Annotated[int, Field(ge=1, le=95)] = 75
    """Quality setting of the encoder."""

    def deterministic(self, classes: int) -> bool:  # noqa: ARG002
        """Always true."""
        return True

    def gradients(self) -> tuple[GradientRule, ...]:
        """Straight-through, or through a JPEG in which only rounding is passed straight through."""
        return ("straight-through", "differentiable")

    def transform(self, pixels: Tensor, rows: Rows, context: Context) -> Tensor:  # noqa: ARG002
        """Encode and decode. The values are the encoder's under every gradient rule."""
        from tasks.defenses.transforms import jpeg_codec, straight

        read = jpeg_codec.encoded(pixels, self.quality)
        if context.rule == "differentiable":
            return straight.through(jpeg_codec.approximated(pixels, self.quality), read)
        return straight.through(pixels, read)

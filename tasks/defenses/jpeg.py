"""JPEG compression (Guo et al., ICLR 2018)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

from pydantic import Field

from tasks.defenses.base import Context, Defense, GradientRule

if TYPE_CHECKING:
    from torch import Tensor

    from tasks.data.seeding import Rows


class JPEG(Defense):
    """The image written as a JPEG file, with chroma at half the side, and read again."""

    kind: Literal["jpeg"] = "jpeg"
    version: ClassVar[int] = 1
    once: ClassVar[bool] = True

    quality: Annotated[int, Field(ge=1, le=95)] = 75
    """Of the encoder."""

    def deterministic(self, classes: int) -> bool:  # noqa: ARG002
        """Always."""
        return True

    def gradients(self) -> tuple[GradientRule, ...]:
        """Straight through, or that of a JPEG whose rounding alone is passed straight through."""
        return ("straight-through", "differentiable")

    def transform(self, pixels: Tensor, rows: Rows, context: Context) -> Tensor:  # noqa: ARG002
        """Write and read: the values are always the encoder's."""
        from tasks.defenses.transforms import jpeg_codec, straight

        read = jpeg_codec.encoded(pixels, self.quality)
        if context.rule == "differentiable":
            return straight.through(jpeg_codec.approximated(pixels, self.quality), read)
        return straight.through(pixels, read)

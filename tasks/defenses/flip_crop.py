"""Plain test-time augmentation: what the same number of passes buys without any defense."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

from pydantic import Field

from tasks.defenses.base import Context, Defense
from tasks.specs import Count

if TYPE_CHECKING:
    from torch import Tensor

    from tasks.data.seeding import Rows


class FlipCrop(Defense):
    """Each draw a random window of the zero-padded image, mirrored half of the time.

    padding: on each side, as a fraction of the side (4 of 32 pixels); flip: whether to mirror.
    The baseline that a defense's cost is held against.
    """

    kind: Literal["flip-crop"] = "flip-crop"
    version: ClassVar[int] = 1

    draws: Count = 10
    padding: Annotated[float, Field(ge=0, le=0.5)] = 4 / 32
    flip: bool = True

    def transform(self, pixels: Tensor, rows: Rows, context: Context) -> Tensor:  # noqa: ARG002
        """Pad, take a window of the old size, mirror."""
        import torch
        from torch.nn import functional

        from tasks.defenses.transforms import warps

        side = warps.square_side(pixels)
        room = round(self.padding * side)
        offsets = rows.integers("place", 0, 2 * room, count=2)
        steps = torch.arange(side, device=pixels.device)
        down, across = offsets[:, :1] + steps, offsets[:, 1:] + steps
        if self.flip:
            mirrored = rows.integers("flip", 0, 1) == 1
            across = torch.where(mirrored, across.flip(1), across)
        padded = functional.pad(pixels, (room,) * 4)
        image = torch.arange(len(pixels), device=pixels.device)[:, None, None]
        # Indices around a slice put the channels last: [M, H, W, C].
        windows = padded[image, :, down[:, :, None], across[:, None, :]]
        return windows.permute(0, 3, 1, 2).contiguous()

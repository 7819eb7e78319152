"""Plain test-time augmentation: the gain from as many forward passes without any defense."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, ClassVar, Literal, Self

from pydantic import Field

from tasks.defenses.base import Context, Defense
from tasks.specs import Count, Problem

if TYPE_CHECKING:
    from torch import Tensor

    from tasks.data.seeding import Rows


class FlipCrop(Defense):
    """Random crops of the zero-padded image, mirrored with probability 1/2 where classes allow it.

    This is the baseline of equal cost for other defenses.
    """

    kind: Literal["flip-crop"] = "flip-crop"
    version: ClassVar[int] = 1

    draws: Count = 10
    padding: Annotated[float, Field(ge=0, le=0.5)] = 4 / 32
    """Padding on each side, as a fraction of the image's side (4 of 32 pixels by default)."""
    flip: bool | None = None
    """Whether to mirror horizontally. By default, if mirrored images of the data set keep their
    class."""

    def resolved(self, problem: Problem) -> Self:
        """Return the defense with `flip` filled in."""
        flip = problem.mirrors if self.flip is None else self.flip
        return self.model_copy(update={"flip": flip})

    def transform(self, pixels: Tensor, rows: Rows, context: Context) -> Tensor:  # noqa: ARG002
        """Pad, crop to the original size, and mirror."""
        import torch
        from torch.nn import functional

        from tasks.defenses.transforms import warps

        side = warps.square_side(pixels)
        room = round(self.padding * side)
        offsets = rows.integers("place", 0, 2 * room, count=2)
        steps = torch.arange(side, device=pixels.device)
        down, across = offsets[:, :1] + steps, offsets[:, 1:] + steps
        if self.flip is not False:
            mirrored = rows.integers("flip", 0, 1) == 1
            across = torch.where(mirrored, across.flip(1), across)
        padded = functional.pad(pixels, (room,) * 4)
        image = torch.arange(len(pixels), device=pixels.device)[:, None, None]
        # Index tensors on both sides of a slice put the channels last: [M, H, W, C].
        windows = padded[image, :, down[:, :, None], across[:, None, :]]
        return windows.permute(0, 3, 1, 2).contiguous()

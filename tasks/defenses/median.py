"""Median smoothing, the second of the feature squeezers (Xu et al., NDSS 2018)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

from pydantic import Field

from tasks.defenses.base import Context, Defense, GradientRule

if TYPE_CHECKING:
    from torch import Tensor

    from tasks.data.seeding import Rows


class Median(Defense):
    """Median filter: every pixel becomes the median of its `size` x `size` window, in each channel.

    Borders are padded by reflection that repeats the edge. A window of even size extends one pixel
    farther up and left. The median of an even number of pixels is the lower of the two middle ones.
    """

    kind: Literal["median"] = "median"
    version: ClassVar[int] = 1
    once: ClassVar[bool] = True

    size: Annotated[int, Field(ge=2, le=15)] = 2
    """Side of the window, in pixels."""

    def deterministic(self, classes: int) -> bool:  # noqa: ARG002
        """Always true."""
        return True

    def gradients(self) -> tuple[GradientRule, ...]:
        """Straight-through, or to the pixel that is the median (`differentiable`)."""
        return ("straight-through", "differentiable")

    def transform(self, pixels: Tensor, rows: Rows, context: Context) -> Tensor:  # noqa: ARG002
        """Apply the filter."""
        import torch

        from tasks.defenses.transforms import straight

        before, side = self.size // 2, pixels.shape[-2:]
        lines = []
        for length in side:
            place = torch.arange(-before, length + self.size - 1 - before, device=pixels.device)
            place = place.remainder(2 * length)  # the period of an image and its mirror image
            lines.append(torch.minimum(place, 2 * length - 1 - place))
        padded = pixels[:, :, lines[0]][:, :, :, lines[1]]
        windows = padded.unfold(2, self.size, 1).unfold(3, self.size, 1)
        smoothed = windows.flatten(4).median(dim=4).values
        if context.rule == "differentiable":
            return smoothed
        return straight.through(pixels, smoothed)

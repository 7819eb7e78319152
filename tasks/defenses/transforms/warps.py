"""Geometric transforms with separate parameters for each row of a batch.

Pixels and results are float [M, C, side, side] in [0, 1]; sizes are int64 [M, 1]; places are int64
[M, 2], top and left, in pixels. All are differentiable in the pixels and have no loop over rows.
Interpolation is bilinear as in `interpolate(align_corners=False, antialias=False)`, unless
`resize_pad` is told otherwise. Outside an image all is black.

The four neighbours are gathered, instead of using `grid_sample`, whose gradient is not
deterministic on a GPU, or products with interpolation matrices, which a GPU may round to tf32.
Those would be faster on a CPU, but by far less than the time of a network's forward pass.
"""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor
from torch.nn.functional import pad

from tasks.data.arrays import require
from tasks.defenses.transforms import straight

Interpolation = Literal["nearest", "bilinear", "antialiased"]

_LEAST_WEIGHT = 1e-6


def square_side(pixels: Tensor) -> int:
    """Return the side of square images [M, C, side, side]; BadTensor for any other shape."""
    height, width = pixels.shape[-2:]
    require(height == width, f"square images are needed, got {height} x {width}")
    return width


def size_range(smallest: float, largest: float, side: int) -> tuple[int, int]:
    """Return fractions of the side in whole pixels: 24/32 and 1 of 32 are 24 and 32."""
    return max(1, round(smallest * side)), max(1, round(largest * side))


def crop_resize(pixels: Tensor, size: Tensor, place: Tensor) -> Tensor:
    """Crop `size` pixels at `place`, and resize the crop to the whole side."""
    side = square_side(pixels)
    local = (_axis(pixels) + 0.5) * (size / side) - 0.5
    local = torch.minimum(local.clamp(min=0), size - 1)  # [M, side]
    return _along_axes(pixels, local[:, None] + place[:, :, None])


def resize_pad(
    pixels: Tensor, size: Tensor, place: Tensor, interpolation: Interpolation = "bilinear"
) -> Tensor:
    """Resize the whole image to `size`, at most its side, and put it at `place` on black.

    Args:
        pixels: See the module, as are `size` and `place`.
        interpolation: `nearest` and `bilinear` as in torch's `interpolate`, `antialiased` as its
            bilinear mode with `antialias=True`.
    """
    side = square_side(pixels)
    local = _axis(pixels) - place[:, :, None]  # [M, 2, side]
    if interpolation == "antialiased":
        return _averaged(pixels, local, size)
    if interpolation == "nearest":
        sources = torch.floor(local * side / size[:, :, None])
    else:
        sources = (local + 0.5) * (side / size)[:, :, None] - 0.5
    return _along_axes(pixels, _within(local, size, sources.clamp(0, side - 1)))


def crop_pad(pixels: Tensor, size: Tensor, window: Tensor, place: Tensor) -> Tensor:
    """Crop `size` pixels at `window`, and put the crop, unscaled, at `place` on black."""
    square_side(pixels)
    local = _axis(pixels) - place[:, :, None]  # [M, 2, side]
    return _along_axes(pixels, _within(local, size, local + window[:, :, None]))


def rotate(pixels: Tensor, degrees: Tensor) -> Tensor:
    """Rotate each row counter-clockwise about its centre by `degrees`, float [M, 1]."""
    centre = (square_side(pixels) - 1) / 2
    angle = (degrees.to(pixels.dtype) * (math.pi / 180))[:, :, None]  # [M, 1, 1]
    down, across = (_axis(pixels) - centre)[:, None], (_axis(pixels) - centre)[None, :]
    return _read(
        pixels,
        angle.sin() * across + angle.cos() * down + centre,
        angle.cos() * across - angle.sin() * down + centre,
    )


def _averaged(pixels: Tensor, local: Tensor, size: Tensor) -> Tensor:
    """Shrink pixels to `size` by a triangular filter, two pixels of the result wide.

    local: float [M, 2, side], the place of each output row (0) and column (1) in the resized image;
    what lies outside of it is black.
    """
    side = square_side(pixels)
    scale = (side / size)[:, :, None]  # [M, 1, 1]
    inside = (local >= 0) & (local < size[:, :, None])
    centre = (local + 0.5) * scale
    first = (centre - scale).floor()
    taps = 2 * math.ceil(float(scale.max())) + 1
    index = first[..., None] + torch.arange(taps, dtype=first.dtype, device=first.device)
    weights = (1 - (index + 0.5 - centre[..., None]).abs() / scale[..., None]).clamp_min(0)
    weights = weights.where((index >= 0) & (index < side), 0.0)
    weights = weights / weights.sum(dim=-1, keepdim=True).clamp_min(_LEAST_WEIGHT)
    weights = weights.where(inside[..., None], 0.0)  # [M, 2, side, taps]
    index = index.clamp(0, side - 1).to(torch.int64)
    result = pixels
    for axis, dim in ((0, 2), (1, 3)):
        shape = [-1, 1, 1, 1]
        shape[dim] = side
        before, result = result, torch.zeros_like(result)
        for tap in range(taps):
            source = index[:, axis, :, tap].reshape(shape).expand_as(before)
            result = result + weights[:, axis, :, tap].reshape(shape) * before.gather(dim, source)
    return straight.clip(result)  # a sum of weights may pass 1 by a rounding error


def _axis(pixels: Tensor) -> Tensor:
    return torch.arange(pixels.shape[-1], dtype=pixels.dtype, device=pixels.device)


def _within(local: Tensor, size: Tensor, sources: Tensor) -> Tensor:
    """Return the sources where `local` is in 0..size-1, and a place outside the image elsewhere."""
    return sources.where((local >= 0) & (local < size[:, :, None]), -1.0)


def _along_axes(pixels: Tensor, sources: Tensor) -> Tensor:
    """Read as `_read` does, from the row (0) and column (1) of each output row and column.

    sources: float [M, 2, side].
    """
    return _read(pixels, sources[:, 0, :, None], sources[:, 1, None, :])


def _read(pixels: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """Read pixels at fractional places, by bilinear interpolation.

    rows, columns: float, broadcast to [M, side, side]; all is black at and beyond -1 and `side`.
    """
    count, channels, side, _ = pixels.shape
    width = side + 2
    framed = pad(pixels, (1, 1, 1, 1)).flatten(2)  # the black frame is what outside places read
    top, down = _cell(rows, side)
    left, right = _cell(columns, side)
    corner = (top * width + left).expand(count, side, side).reshape(count, 1, -1)

    def neighbour(offset: int) -> Tensor:
        index = (corner + offset).expand(count, channels, side * side)
        return framed.gather(2, index).view(pixels.shape)

    upper = torch.lerp(neighbour(0), neighbour(1), right[:, None])
    lower = torch.lerp(neighbour(width), neighbour(width + 1), right[:, None])
    return torch.lerp(upper, lower, down[:, None])


def _cell(places: Tensor, side: int) -> tuple[Tensor, Tensor]:
    """Return the padded pixel before each place, int64, and the way to the next, in 0..1."""
    framed = (places + 1).clamp(0, side + 1)
    before = framed.floor().clamp(max=side)
    return before.to(torch.int64), framed - before

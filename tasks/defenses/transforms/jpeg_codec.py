"""JPEG (ITU-T T.81), by an encoder and as a differentiable function.

The differentiable form is that of Shin and Song (2017), with straight-through rounding.
"""

from __future__ import annotations

import io
import math

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional

from tasks.data.arrays import require
from tasks.defenses.transforms import straight

BLOCK = 8
LUMINANCE = (
    (16, 11, 10, 16, 24, 40, 51, 61),
    (12, 12, 14, 19, 26, 58, 60, 55),
    (14, 13, 16, 24, 40, 57, 69, 56),
    (14, 17, 22, 29, 51, 87, 80, 62),
    (18, 22, 37, 56, 68, 109, 103, 77),
    (24, 35, 55, 64, 81, 104, 113, 92),
    (49, 64, 78, 87, 103, 121, 120, 101),
    (72, 92, 95, 98, 112, 100, 103, 99),
)
"""Quantisation of luminance, T.81, table K.1."""
CHROMINANCE = (
    (17, 18, 24, 47, 99, 99, 99, 99),
    (18, 21, 26, 66, 99, 99, 99, 99),
    (24, 26, 56, 99, 99, 99, 99, 99),
    (47, 66, 99, 99, 99, 99, 99, 99),
    *((99,) * 8,) * 4,
)
"""Quantisation of chrominance, T.81, table K.2."""
TO_YCBCR = (
    (0.299, 0.587, 0.114),
    (-0.168736, -0.331264, 0.5),
    (0.5, -0.418688, -0.081312),
)
TO_RGB = ((1.0, 0.0, 1.402), (1.0, -0.344136, -0.714136), (1.0, 1.772, 0.0))
CENTRE = 128.0


def encoded(pixels: Tensor, quality: int) -> Tensor:
    """Encode and decode images with Pillow, with 4:2:0 chroma subsampling for colour.

    Args:
        pixels: float32 [M, 1 or 3, H, W] in [0, 1], rounded to 8 bits first.
        quality: Quality setting, 1 to 95.

    Returns:
        float32 of the same shape, multiples of 1/255.

    Raises:
        BadTensor: For another number of channels.
    """
    _require_channels(pixels)
    stored = (pixels.detach() * 255).round().to(torch.uint8).cpu().permute(0, 2, 3, 1).numpy()
    found = [_through_a_file(each, quality) for each in stored]
    back = torch.from_numpy(np.stack(found)).reshape(stored.shape).permute(0, 3, 1, 2)
    return (back.to(torch.float32) / 255.0).contiguous().to(pixels.device)


def _through_a_file(image: np.ndarray, quality: int) -> np.ndarray:
    """Encode and decode one image, uint8 [H, W, channels]."""
    target = io.BytesIO()
    grey = image.shape[2] == 1
    shown = Image.fromarray(image[:, :, 0] if grey else image)
    shown.save(target, format="JPEG", quality=quality, subsampling=-1 if grey else "4:2:0")
    with Image.open(target) as read:
        return np.asarray(read)


def approximated(pixels: Tensor, quality: int) -> Tensor:
    """Compute the same as a differentiable function, with straight-through rounding.

    Sides that are no multiple of a block are padded by repeating the last pixels.
    """
    _require_channels(pixels)
    levels = 255 * pixels
    if pixels.shape[1] == 1:
        return straight.clip(_compressed(levels, LUMINANCE, quality) / 255)
    ycbcr = _mixed(levels, TO_YCBCR)
    luma, chroma = ycbcr[:, :1], ycbcr[:, 1:] + CENTRE
    height, width = pixels.shape[-2:]
    halved = functional.avg_pool2d(_filled(chroma, 2), 2)
    chroma = _compressed(halved, CHROMINANCE, quality)
    chroma = chroma.repeat_interleave(2, dim=2).repeat_interleave(2, dim=3)[..., :height, :width]
    found = torch.cat((_compressed(luma, LUMINANCE, quality), chroma - CENTRE), dim=1)
    return straight.clip(_mixed(found, TO_RGB) / 255)


def table(entries: tuple[tuple[int, ...], ...], quality: int) -> Tensor:
    """Return the quantisation table of a quality, float64 [8, 8], scaled as by the reference."""
    scale = 5000 / quality if quality < 50 else 200 - 2 * quality
    scaled = (torch.tensor(entries, dtype=torch.float64) * scale + 50) / 100
    return scaled.floor().clamp(1, 255)


def _compressed(plane: Tensor, entries: tuple[tuple[int, ...], ...], quality: int) -> Tensor:
    """Quantise planes of levels 0..255, [M, P, H, W], in blocks."""
    height, width = plane.shape[-2:]
    filled = _filled(plane, BLOCK) - CENTRE
    blocks = filled.unfold(2, BLOCK, BLOCK).unfold(3, BLOCK, BLOCK)  # [M, P, h, w, 8, 8]
    basis = _basis().to(plane)
    steps = table(entries, quality).to(plane)
    coefficients = basis @ blocks @ basis.T / steps
    rounded = straight.through(coefficients, coefficients.detach().round())
    back = basis.T @ (rounded * steps) @ basis + CENTRE
    joined = back.transpose(3, 4).reshape(*filled.shape)
    return joined[..., :height, :width]


def _basis() -> Tensor:
    """Return the orthonormal discrete cosine transform of 8 values, float64 [frequency, place]."""
    place = torch.arange(BLOCK, dtype=torch.float64)
    angles = (2 * place[None, :] + 1) * place[:, None] * (math.pi / (2 * BLOCK))
    basis = angles.cos() * math.sqrt(2 / BLOCK)
    basis[0] /= math.sqrt(2)
    return basis


def _filled(plane: Tensor, multiple: int) -> Tensor:
    down, across = (-size % multiple for size in plane.shape[-2:])
    return functional.pad(plane, (0, across, 0, down), mode="replicate")


def _mixed(planes: Tensor, matrix: tuple[tuple[float, ...], ...]) -> Tensor:
    weights = torch.tensor(matrix, dtype=planes.dtype, device=planes.device)
    return torch.einsum("oc,mchw->mohw", weights, planes)


def _require_channels(pixels: Tensor) -> None:
    channels = pixels.shape[1]
    require(channels in {1, 3}, f"jpeg: images have 1 or 3 channels, not {channels}")

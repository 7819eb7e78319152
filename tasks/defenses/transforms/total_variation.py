"""Total variation minimisation by the primal-dual algorithm of Chambolle and Pock (2011)."""

from __future__ import annotations

import torch
from torch import Tensor

NORM_SQUARED = 9.0
"""Upper bound of the operator's squared norm: 1 of the mask, and 8 of the differences to the pixels
below and to the right."""
PRIMAL_STEP = 0.5
"""Primal step size. After 50 iterations the objective is at most 0.7 % above its minimum, on
photographs of 32 pixels."""


def minimised(pixels: Tensor, mask: Tensor, weight: float, iterations: int) -> Tensor:
    """Minimise |M (z - x)|_2 + weight * TV(z) for each image x, by `iterations` steps from x.

    The first norm is over an image and not squared. TV is isotropic: the sum over pixels and
    channels of the length of the differences to the pixel below and to the one on the right.

    Args:
        pixels: float [M, C, H, W], the images x.
        mask: Of the same shape, 1 where a value is kept and 0 elsewhere.
        weight: Weight of the total variation.
        iterations: Number of steps.

    Returns:
        z, of the pixels' shape; it may leave [0, 1] by the remaining error.
    """
    dual_step = 1 / (NORM_SQUARED * PRIMAL_STEP)
    kept = dual_step * mask * pixels
    found, ahead = pixels.clone(), pixels.clone()
    fidelity, down, across = (torch.zeros_like(pixels) for _ in range(3))
    # in place throughout, since the time goes into memory traffic
    for _ in range(iterations):
        fidelity.addcmul_(mask, ahead, value=dual_step).sub_(kept)
        fidelity.div_(_length(fidelity).clamp_min_(1))
        down[..., :-1, :].add_(ahead[..., 1:, :] - ahead[..., :-1, :], alpha=dual_step)
        across[..., :-1].add_(ahead[..., 1:] - ahead[..., :-1], alpha=dual_step)
        lengths = torch.addcmul(down.square(), across, across).sqrt_()
        lengths.div_(weight).clamp_min_(1)
        down.div_(lengths)
        across.div_(lengths)
        move = mask * fidelity
        move[..., :-1, :].sub_(down[..., :-1, :])
        move[..., 1:, :].add_(down[..., :-1, :])
        move[..., :-1].sub_(across[..., :-1])
        move[..., 1:].add_(across[..., :-1])
        found.sub_(move, alpha=PRIMAL_STEP)
        torch.sub(found, move, alpha=PRIMAL_STEP, out=ahead)
    return found


def objective(z: Tensor, pixels: Tensor, mask: Tensor, weight: float) -> Tensor:
    """Return the objective that `minimised` lowers, [M]."""
    apart = _length(mask * (z - pixels)).flatten()
    variation = _differences(z).square().sum(dim=0).sqrt().flatten(1).sum(dim=1)
    return apart + weight * variation


def _length(values: Tensor) -> Tensor:
    lengths: Tensor = values.flatten(1).norm(dim=1)
    return lengths.reshape(-1, 1, 1, 1)


def _differences(z: Tensor) -> Tensor:
    """Return the differences down and across, [2, M, C, H, W]; 0 at the last row and column."""
    slopes = torch.zeros(2, *z.shape, dtype=z.dtype, device=z.device)
    slopes[0, ..., :-1, :] = z[..., 1:, :] - z[..., :-1, :]
    slopes[1, ..., :-1] = z[..., 1:] - z[..., :-1]
    return slopes

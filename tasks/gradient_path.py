"""Whether a gradient comes back through a defense, without which an adaptive attack is blind."""

from __future__ import annotations

import torch
from torch import Tensor

from tasks.defenses.base import Context, Defense
from tasks.seeding import Rows


def gradient_fault(defense: Defense, context: Context, pixels: Tensor, rows: Rows) -> str | None:
    """The first stage through which no gradient comes back, in one line; None where all do.

    pixels: float32 [N, C, H, W] in [0, 1]; rows: of their N images. A defense that has no useful
    gradient passes it straight through (`tasks.straight`); one that detaches its result, or works
    it out under `no_grad`, only looks robust.
    """
    for scope, stage in defense.stages():
        with torch.enable_grad():
            leaf = pixels.detach().clone().requires_grad_()
            result = stage.transform(leaf, rows.within(scope), context)
            reached = result.requires_grad and (
                torch.autograd.grad(result.sum(), leaf, allow_unused=True)[0] is not None
            )
        if not reached:
            return (
                f"defense {stage.kind}: no gradient comes back through its transform; "
                "return straight.through(pixels, result)"
            )
        pixels = result.detach()
    return None

"""What a defense makes of images before the classifier sees them, to be looked at."""

from __future__ import annotations

import torch
from torch import Tensor

from tasks.defenses.base import Context, Defense
from tasks.seeding import Rows


def first_draw(
    defense: Defense, context: Context, pixels: Tensor, ids: Tensor, *, seed: int
) -> Tensor:
    """The images as the first draw of the first redraw of `tasks.defend.defend` transforms them.

    pixels: float32 [N, C, H, W] in [0, 1]; ids: int64 [N]. Returns the shape and range of pixels.
    """
    rows = Rows(seed, ids, torch.zeros_like(ids)).within("defend")
    with torch.no_grad():
        for scope, stage in defense.stages():
            pixels = stage.transform(pixels, rows.within(scope), context)
    return pixels

"""One image before and after an attack and a defense, as data."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

SPAN = 0.5
"""The share of the pixel range that the largest change is magnified to."""


Pixels = NDArray[np.float32]


@dataclass(frozen=True)
class Change:
    """What was added to an image, magnified around grey: float32 [H, W, C] in [0, 1]."""

    pixels: Pixels
    times: float


@dataclass(frozen=True)
class Exhibit:
    """An image of class `label` at a place of the test set, and what became of it.

    clean, adversarial, after: float32 [H, W, C] in [0, 1]; clean_answer, attacked_answer: the
    bare model's, defended_answer: the defended model's first redraw, float32 [classes].
    """

    place: int
    label: int
    clean: Pixels
    adversarial: Pixels
    after: Pixels
    clean_answer: Pixels
    attacked_answer: Pixels
    defended_answer: Pixels

    @property
    def perturbation(self) -> Change:
        """What the attack added."""
        return _change(self.clean, self.adversarial)

    @property
    def countered(self) -> Change:
        """What the defense added."""
        return _change(self.adversarial, self.after)


def _change(before: Pixels, after: Pixels) -> Change:
    change = after - before
    largest = float(np.abs(change).max())
    times = SPAN / largest if largest > 0 else 1.0
    times = float(np.floor(times)) if times >= 2 else round(times, 1)
    return Change(np.clip(0.5 + times * change, 0, 1).astype(np.float32), times)

"""One image before and after an attack and a defense, as data."""

from __future__ import annotations

import math
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
        return change_between(self.clean, self.adversarial)

    @property
    def countered(self) -> Change:
        """What the defense added."""
        return change_between(self.adversarial, self.after)


def _magnification(largest: float) -> float:
    """How many times a change is shown magnified, so that its largest pixel spans half the range.

    largest: in the pixel range [0, 1]. A whole number from 2 on, else one with one decimal.
    """
    times = SPAN / largest if largest > 0 else 1.0
    # a change of 8/255 in float32 is a little more or less than that
    return float(math.floor(times + 1e-6)) if times >= 2 else round(times, 1)


def change_between(before: Pixels, after: Pixels) -> Change:
    """What was added to an image, magnified."""
    change = after - before
    times = _magnification(float(np.abs(change).max()))
    return Change(np.clip(0.5 + times * change, 0, 1).astype(np.float32), times)

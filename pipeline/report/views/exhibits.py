"""Images before and after an attack and a defense, as data."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

SPAN = 0.5
"""Share of the pixel range to which the largest change is magnified."""


Pixels = NDArray[np.float32]


@dataclass(frozen=True)
class Change:
    """What was added to an image, magnified around grey: float32 [H, W, C] in [0, 1]."""

    pixels: Pixels
    times: float


@dataclass(frozen=True)
class Exhibit:
    """A test image of class `label` at index `place`, and what the attack and defense did to it.

    Attributes:
        clean, adversarial, after: Images, float32 [H, W, C] in [0, 1].
        clean_answer, attacked_answer: Probabilities of the bare model, float32 [classes].
        defended_answer: Probabilities of the defended model's first redraw.
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
        """The change made by the attack."""
        return change_between(self.clean, self.adversarial)

    @property
    def countered(self) -> Change:
        """The change made by the defense."""
        return change_between(self.adversarial, self.after)


def _magnification(largest: float) -> float:
    """Factor by which a change is magnified, so that its maximum spans half of the pixel range.

    largest: in the pixel range [0, 1]. Factors from 2 on are integers, others have one decimal.
    """
    times = SPAN / largest if largest > 0 else 1.0
    # 8/255 is not exact in float32
    return float(math.floor(times + 1e-6)) if times >= 2 else round(times, 1)


def change_between(before: Pixels, after: Pixels) -> Change:
    """The difference between two images, magnified."""
    change = after - before
    times = _magnification(float(np.abs(change).max()))
    return Change(np.clip(0.5 + times * change, 0, 1).astype(np.float32), times)

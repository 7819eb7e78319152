"""What a defense is worth on a network, in one word, from the gain that an attack leaves it.

The gain is that of the worst case: each image under the candidate that fails most often on the
attacker's draws, counted on redraws that no attack has seen, with the defense and without, both
attacked with the same budget. Its interval is that of its images, at 99 %, and corrected for
nothing, so that no verdict depends on which other defenses are listed beside it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from tasks.evaluation.statistics import sign_flip_interval, summed_shares

CONFIDENCE = 0.99
NEGLIGIBLE = 3.0
"""Points of a gain up to which there is none worth the name."""
FALLEN = 1.0
"""Percent that a bare network is left with, at and below which nothing is said of a defense."""
FEWEST_CANDIDATES = 2
FEWEST_DIFFERING = 8
"""Images that differ, all to one side, which the sign-flip test at 1 % needs: 2 / 2**8 < 0.01."""

Word = Literal["holds", "harms", "no gain", "undecided", "cannot tell"]
Right = NDArray[np.bool_]


@dataclass(frozen=True)
class Change:
    """A difference of two accuracies over the same images, in points, with its 99 % interval."""

    points: float
    low: float
    high: float
    images: int

    @property
    def rises(self) -> bool:
        """Whether it is above zero beyond chance."""
        return self.low > 0

    @property
    def falls(self) -> bool:
        """Whether it is below zero beyond chance."""
        return self.high < 0


@dataclass(frozen=True)
class DefenseVerdict:
    """What a defense on a network is worth.

    why: of `cannot tell`, the reason; needed: of `undecided`, about how many images would decide
    if the gain stayed what it is, None where no number would; fallen: whether the only reason is
    that the bare network is left with too little for anything to be told on it.
    """

    word: Word
    why: str = ""
    needed: int | None = None
    fallen: bool = False


def change(more: Sequence[Right], less: Sequence[Right]) -> Change:
    """How much higher the sum of the accuracies `more` is than that of `less`.

    Each is bool [N, R], right or not at each redraw of the same N images. ValueError without
    images, or where they are not as many.
    """
    differences, unit = summed_shares(more, less)
    most = 100.0 * max(len(more), len(less))
    low, high = sign_flip_interval(differences, confidence=CONFIDENCE)
    return Change(
        points=100 * float(differences.mean()) / unit,
        low=max(-most, 100 * low / unit),
        high=min(most, 100 * high / unit),
        images=len(differences),
    )


def judged(
    gain: Change, *, bare: float, candidates: int, failed: str | None = None
) -> DefenseVerdict:
    """The verdict of a gain in the worst case.

    bare: accuracy without the defense under the same budget, in percent; candidates: how many the
    attack on the defended model chooses from; failed: what a failed integrity card found.
    """
    if why := _silent(candidates, failed):
        return DefenseVerdict("cannot tell", why)
    if bare <= FALLEN:
        why = f"accuracy without it is {bare:.1f} %, and a verdict needs more than {FALLEN:g} %"
        return DefenseVerdict("cannot tell", why, fallen=True)
    return _told(gain)


def _told(gain: Change) -> DefenseVerdict:
    if gain.rises:
        return DefenseVerdict("holds")
    if gain.falls:
        return DefenseVerdict("harms")
    if gain.high <= NEGLIGIBLE:
        return DefenseVerdict("no gain")
    return DefenseVerdict("undecided", needed=deciding_images(gain))


def _silent(candidates: int, failed: str | None) -> str:
    """Why an attack says nothing of a defense; empty where it does."""
    if candidates < FEWEST_CANDIDATES:
        return f"the attack chooses from {candidates} candidate, and two are the fewest"
    return failed or ""


def deciding_images(gain: Change) -> int | None:
    """About how many images decide a gain that stays as it is, its interval narrowing.

    The ends of an interval come nearer by the square root of the number of images; and no fewer
    images than `FEWEST_DIFFERING` that all differ to one side tell a gain or a loss from none. More
    than the images that did not decide. Rounded up to two digits.
    """
    above, below = gain.high - gain.points, gain.points - gain.low
    found = []
    if gain.points != 0:  # it holds, or harms
        far = below if gain.points > 0 else above
        size = abs(gain.points)
        found.append(max(gain.images * (far / size) ** 2, 100 * FEWEST_DIFFERING / size))
    if gain.points < NEGLIGIBLE:  # it gains nothing
        found.append(gain.images * (above / (NEGLIGIBLE - gain.points)) ** 2)
    if not found:
        return None
    needed = max(min(found), gain.images + 1)
    scale = int(10 ** max(0, math.floor(math.log10(needed)) - 1))
    return scale * math.ceil(needed / scale)

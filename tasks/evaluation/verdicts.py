"""Verdict on a defense of a network, in one word, from the gain that an attack leaves it.

The gain is that of the worst case: each image under the candidate that fails most often on the
attacker's draws, and correctness counted on redraws that no attack has seen, with the defense minus
without, both attacked with the same budget. Its 99 % interval is over images. It is not corrected
for multiple comparisons, so that no verdict depends on the other defenses in a table.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from tasks.evaluation.statistics import gain_interval, summed_shares

CONFIDENCE = 0.99
NEGLIGIBLE = 3.0
"""Gain, in percentage points, up to which there is none worth the name."""
FALLEN = 1.0
"""Accuracy of the bare network, in percent, at and below which there is no verdict."""
FEWEST_CANDIDATES = 2
FEWEST_DIFFERING = 8
"""Images with a difference, all of one sign, that the sign-flip test at 1 % needs: 2 / 2**8 <
0.01."""

Word = Literal["holds", "harms", "no gain", "undecided", "cannot tell"]
Right = NDArray[np.bool_]


@dataclass(frozen=True)
class Change:
    """A difference of accuracies on the same images, in percentage points, with a 99 % interval."""

    points: float
    low: float
    high: float
    images: int

    @property
    def rises(self) -> bool:
        """Whether the interval is above zero."""
        return self.low > 0

    @property
    def falls(self) -> bool:
        """Whether the interval is below zero."""
        return self.high < 0


@dataclass(frozen=True)
class DefenseVerdict:
    """What a defense is worth on a network."""

    word: Word
    why: str = ""
    """Reason of `cannot tell`; of another word, why the gain is an upper bound, if it is."""
    needed: int | None = None
    """For `undecided`, about how many images would decide if the gain stayed the same; None if none
    would."""
    fallen: bool = False
    """Whether the only reason is that the bare network has too little accuracy left for a
    verdict."""


def change(more: Sequence[Right], less: Sequence[Right]) -> Change:
    """Return the sum of the accuracies `more` minus the sum of the accuracies `less`.

    Args:
        more: Arrays of bool [N, R], whether each redraw of the same N images is right.
        less: As `more`.

    Raises:
        ValueError: If there are no images, or if their numbers differ.
    """
    differences, unit = summed_shares(more, less)
    most = unit * max(len(more), len(less))
    low, high = gain_interval(differences, most=most, confidence=CONFIDENCE)
    return Change(
        points=100 * float(differences.mean()) / unit,
        low=100 * low / unit,
        high=100 * high / unit,
        images=len(differences),
    )


def judged(
    gain: Change,
    *,
    bare: float,
    candidates: int,
    failed: str | None = None,
    weak: str | None = None,
) -> DefenseVerdict:
    """Return the verdict on a gain in the worst case.

    Args:
        gain: The gain, with its interval.
        bare: Accuracy without the defense under the same budget, in percent.
        candidates: Number of candidates of the attack on the defended model.
        failed: What a failed integrity card found.
        weak: What a failed card found if it shows no more than that the attack on the defended
            model is too weak. The gain is then an upper bound, from which `harms` and `no gain`
            follow, and nothing else does.
    """
    if why := _silent(candidates, failed):
        return DefenseVerdict("cannot tell", why)
    if (uninformative := fallen(bare)) is not None:
        return uninformative
    found = _told(gain)
    if weak:
        sure = found.word in {"harms", "no gain"}
        return DefenseVerdict(found.word if sure else "cannot tell", weak)
    return found


def fallen(bare: float) -> DefenseVerdict | None:
    """Return the verdict on any defense of a network that has too little accuracy left.

    Args:
        bare: Accuracy of the network without a defense, in percent.

    Returns:
        `cannot tell`; None if there is enough for a verdict.
    """
    if bare > FALLEN:
        return None
    why = f"accuracy without it is {bare:.1f} %, and a verdict needs more than {FALLEN:g} %"
    return DefenseVerdict("cannot tell", why, fallen=True)


def _told(gain: Change) -> DefenseVerdict:
    if gain.rises:
        return DefenseVerdict("holds")
    if gain.falls:
        return DefenseVerdict("harms")
    if gain.high <= NEGLIGIBLE:
        return DefenseVerdict("no gain")
    return DefenseVerdict("undecided", needed=deciding_images(gain))


def _silent(candidates: int, failed: str | None) -> str:
    """Return why an attack says nothing about a defense; "" if it does."""
    if candidates < FEWEST_CANDIDATES:
        return f"the attack chooses from {candidates} candidate, and two are the fewest"
    return failed or ""


def deciding_images(gain: Change) -> int | None:
    """Return about how many images would decide if the gain stayed the same.

    The interval is taken to narrow with the square root of the number of images. At least
    `FEWEST_DIFFERING` images must differ with the same sign to tell a gain or a loss from none. The
    result is larger than the number of images that did not decide, and rounded up to two digits.
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

"""Intervals and tests whose unit is the image.

A gain is tested by the signs of the per-image differences: under the null hypothesis either
defense could have had either result on an image. All tests are exact, so nothing is seeded.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray


def wilson_interval(
    successes: float, count: int, *, confidence: float = 0.95
) -> tuple[float, float]:
    """The Wilson score interval of a rate, both ends in [0, 1].

    successes: 0..count, a sum of per-image shares and so not always whole. The lower end is
    exactly 0 without a success, and the upper end exactly 1 where all are successes: there the
    formula gives these, and its floating-point evaluation may miss them by a rounding error.
    """
    if count < 1 or not 0 <= successes <= count:
        raise ValueError(f"{successes:g} successes of {count}")
    z = NormalDist().inv_cdf((1 + confidence) / 2)
    rate = successes / count
    centre = (rate + z * z / (2 * count)) / (1 + z * z / count)
    half = z * math.sqrt(rate * (1 - rate) / count + (z / (2 * count)) ** 2) / (1 + z * z / count)
    low = max(0.0, centre - half) if successes > 0 else 0.0
    high = min(1.0, centre + half) if successes < count else 1.0
    return low, high


def paired_differences(first: NDArray[np.bool_], second: NDArray[np.bool_]) -> NDArray[np.int64]:
    """How much more often `first` is right than `second`, image by image.

    first: bool [N, R], right or not at each redraw; second: bool [N, Q], the same images.
    Returns int64 [N], the difference of the shares in units of 1 / lcm(R, Q).
    """
    if len(first) != len(second):
        raise ValueError(f"{len(first)} images cannot be paired with {len(second)}")
    common = math.lcm(first.shape[1], second.shape[1])
    more: NDArray[np.int64] = first.sum(axis=1, dtype=np.int64) * (common // first.shape[1])
    less: NDArray[np.int64] = second.sum(axis=1, dtype=np.int64) * (common // second.shape[1])
    return more - less


def sign_flip_test(differences: NDArray[np.int64]) -> float:
    """The two-sided p-value of per-image differences, over all 2**N flips of their signs.

    differences: int64 [N], in any unit. The number of flips that reach each sum is counted by
    adding one image at a time, not sampled. With differences of -1, 0 and 1, one draw each,
    this is the exact McNemar test. 1 without a difference.
    """
    differing = differences[differences != 0]
    if not len(differing):
        return 1.0
    if not differing.sum():
        return 1.0  # every flip is as extreme; the sum below may miss 1 by a rounding error
    differing = differing // np.gcd.reduce(differing)
    sizes = np.abs(differing)
    total = int(sizes.sum())
    # chance[t] is the probability that the images with a positive sign add up to t.
    chance = np.zeros(total + 1)
    chance[0] = 1.0
    reached = 0
    for size in sizes.tolist():
        grown = 0.5 * chance[: reached + size + 1]
        grown[size:] += 0.5 * chance[: reached + 1]
        reached += size
        chance[: reached + 1] = grown
    sums = 2 * np.arange(total + 1) - total
    return min(1.0, float(chance[np.abs(sums) >= abs(differing.sum())].sum()))


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm's adjusted p-values of one table, in the order given."""
    adjusted = [0.0] * len(p_values)
    highest = 0.0
    for rank, index in enumerate(sorted(range(len(p_values)), key=p_values.__getitem__)):
        highest = max(highest, min(1.0, (len(p_values) - rank) * p_values[index]))
        adjusted[index] = highest
    return adjusted


def smallest_gain(
    images: int, *, comparisons: int = 1, discordant: float = 0.1, level: float = 0.05
) -> float | None:
    """The smallest gain, in points of percent, that a table could call significant.

    That is, one that passes the exact McNemar test at the first, strictest level of Holm's
    procedure, when the share `discordant` of the images differs. None where no gain could.
    """
    count = round(images * discordant)
    smallest = None
    tail = 0.0
    for wins in range(count, count // 2, -1):
        tail += math.exp(
            math.lgamma(count + 1)
            - math.lgamma(wins + 1)
            - math.lgamma(count - wins + 1)
            - count * math.log(2)
        )
        if 2 * tail > level / comparisons:
            break
        smallest = 100 * (2 * wins - count) / images
    return smallest


def images_needed(
    points: float, *, comparisons: int = 1, discordant: float = 0.1, level: float = 0.05
) -> int:
    """How many images it takes to call a gain of `points` percent significant.

    See `smallest_gain`. Whole numbers of images make that a saw, so this is near the least
    number and not always the least.
    """

    def visible(images: int) -> bool:
        gain = smallest_gain(images, comparisons=comparisons, discordant=discordant, level=level)
        return gain is not None and gain <= points

    if points <= 0 or discordant <= 0:
        raise ValueError(f"a gain of {points:g} points where a share of {discordant:g} differs")
    most = 1
    while not visible(most):
        most *= 2
    least = most // 2
    while most - least > 1:
        middle = (least + most) // 2
        least, most = (least, middle) if visible(middle) else (middle, most)
    return most

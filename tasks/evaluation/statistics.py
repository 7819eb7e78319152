"""Intervals and tests whose unit is the image.

A gain is tested by the signs of the per-image differences: under the null hypothesis either
defense could have had either result on an image. The interval of a gain holds those that this test
does not reject. Both are exact, except for an interval too large to be counted out, which is
sampled with a fixed seed.
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
    return summed_shares([first], [second])[0]


def summed_shares(
    more: Sequence[NDArray[np.bool_]], less: Sequence[NDArray[np.bool_]]
) -> tuple[NDArray[np.int64], int]:
    """Of each image the shares of right redraws of `more`, less those of `less`.

    Each is bool [N, R], the same images and any R. Returns int64 [N] and the unit: so many of
    it are a share of one.
    """
    count, *others = (len(right) for right in (*more, *less))
    for other in others:
        if other != count:
            raise ValueError(f"{count} images cannot be paired with {other}")
    unit = math.lcm(*(right.shape[1] for right in (*more, *less)))
    total = np.zeros(count, dtype=np.int64)
    for sign, each in ((1, more), (-1, less)):
        for right in each:
            total += sign * right.sum(axis=1, dtype=np.int64) * (unit // right.shape[1])
    return total, unit


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


COUNTED_OUT = 10**8
"""Additions up to which the interval of a gain is exact; half a second or so."""
SAMPLES = 100_000
"""Sets of images that a sampled interval is made of: its tails to a twentieth of their size."""


def sign_flip_interval(
    differences: NDArray[np.int64],
    *,
    confidence: float = 0.99,
    counted_out: int = COUNTED_OUT,
    seed: int = 0,
) -> tuple[float, float]:
    """The mean differences that `sign_flip_test` does not reject at 1 - `confidence`.

    differences: int64 [N], in any unit, which is the interval's as well. A mean of m is tested by
    flipping the signs of the differences less m. Flipping those of a set of images leaves no less
    than their sum if and only if the mean over that set is at most m. So the p-value of m, one
    side of it, is the share of all 2**N sets whose mean is at most m (the empty one always
    counts), and the ends of the interval are quantiles of the means of sets: of random
    subsamples in the sense of Hartigan (1969).

    These are counted out, by the number of images in a set and its sum, unless this takes more
    than `counted_out` additions; then `SAMPLES` sets are drawn by `seed`, in time linear in N.
    An end is infinite where too few images make every mean possible.
    """
    if not len(differences):
        raise ValueError("an interval of no images")
    tail = (1 - confidence) / 2
    counted = np.count_nonzero(differences)
    work = counted * (counted + len(differences)) * (int(np.abs(differences).sum()) + 1)
    if work <= counted_out:
        means, weights, empty = _counted_sets(differences)
    else:
        means, weights, empty = _sampled_sets(differences, seed)
    return _quantile(means, weights, empty, tail), -_quantile(-means, weights, empty, tail)


def _quantile(
    means: NDArray[np.float64], weights: NDArray[np.float64], empty: float, tail: float
) -> float:
    """The least mean up to which there is more than `tail`; -inf where `empty` is more."""
    order = np.argsort(means, kind="stable")
    reached = empty + np.cumsum(weights[order])
    if empty > tail * (1 + _ROUNDING):
        return -math.inf
    place = int(np.searchsorted(reached, tail * (1 + _ROUNDING), side="right"))
    return float(means[order][min(place, len(means) - 1)])


_ROUNDING = 1e-9


def _counted_sets(
    differences: NDArray[np.int64],
) -> tuple[NDArray[np.float64], NDArray[np.float64], float]:
    """The mean of each kind of set, its chance, and the chance of the empty set."""
    nonzero = differences[differences != 0].tolist()
    lowest = sum(value for value in nonzero if value < 0)
    width = sum(map(abs, nonzero)) + 1
    # chance[n, s] is the probability of a set with n of the images that differ and the sum s
    chance = np.zeros((len(nonzero) + 1, width))
    chance[0, -lowest] = 1.0
    for known, value in enumerate(nonzero):
        chance[: known + 2] *= 0.5
        grown = chance[: known + 1].copy()
        if value > 0:
            chance[1 : known + 2, value:] += grown[:, :-value]
        else:
            chance[1 : known + 2, :value] += grown[:, -value:]
    equal = len(differences) - len(nonzero)
    if equal:
        # images without a difference make sets larger and no sum another
        without = _binomial(equal)
        sizes = np.zeros((len(differences) + 1, width))
        for count, row in enumerate(chance):
            sizes[count : count + equal + 1] += without[:, None] * row
        chance = sizes
    empty = float(chance[0, -lowest])
    counts, sums = np.nonzero(chance[1:])
    return (sums + lowest) / (counts + 1), chance[1:][counts, sums], empty


def _sampled_sets(
    differences: NDArray[np.int64], seed: int
) -> tuple[NDArray[np.float64], NDArray[np.float64], float]:
    """As `_counted_sets`, of random sets; the flip that was observed, of nobody, is among them."""
    random = np.random.Generator(np.random.Philox(seed))
    counts, sums = np.zeros(SAMPLES, dtype=np.int64), np.zeros(SAMPLES, dtype=np.int64)
    for value, images in zip(*np.unique(differences, return_counts=True), strict=True):
        reached = np.cumsum(_binomial(int(images)))[:-1]
        drawn = np.searchsorted(reached, random.random(SAMPLES), side="right")
        counts += drawn
        sums += value * drawn
    some = counts > 0
    each = 1 / (SAMPLES + 1)
    means = sums[some] / counts[some]
    return means, np.full(len(means), each), 1 - each * len(means)


def _binomial(count: int) -> NDArray[np.float64]:
    """float64 [count + 1]: the chance of each number of heads of `count` coins."""
    logs = [
        math.lgamma(count + 1) - math.lgamma(k + 1) - math.lgamma(count - k + 1)
        for k in range(count + 1)
    ]
    chances: NDArray[np.float64] = np.exp(np.array(logs) - count * math.log(2))
    return chances


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

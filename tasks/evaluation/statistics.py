"""Confidence intervals and tests with the image as unit.

A gain is tested by a sign-flip test of the per-image differences: under the null hypothesis, either
defense could have had either result on an image. The interval of a gain holds the values that this
test does not reject. Both are exact, except for intervals that are too expensive to enumerate,
which are sampled with a fixed seed. Where few images differ, the interval is widened by the exact
binomial bound (`gain_interval`).
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
    """Return the Wilson score interval of a rate, both ends in [0, 1].

    The lower end is exactly 0 without successes and the upper end exactly 1 with successes only,
    where rounding errors could miss these values.

    Args:
        successes: 0 to `count`; a sum of shares per image, so not always an integer.
        count: Number of images, at least 1.
        confidence: Confidence level.

    Raises:
        ValueError: If an argument is out of range.
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
    """Return by how much more often `first` is right than `second`, image by image.

    Args:
        first: bool [N, R], whether each redraw is right.
        second: bool [N, Q], for the same images.

    Returns:
        int64 [N], the difference of the shares in units of 1 / lcm(R, Q).
    """
    return summed_shares([first], [second])[0]


def summed_shares(
    more: Sequence[NDArray[np.bool_]], less: Sequence[NDArray[np.bool_]]
) -> tuple[NDArray[np.int64], int]:
    """Return, for each image, the summed shares of right redraws in `more` minus those in `less`.

    Args:
        more: Arrays of bool [N, R], for the same images, each with any R.
        less: As `more`.

    Returns:
        int64 [N], and how many of its units make a share of one.

    Raises:
        ValueError: If the numbers of images differ.
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
    """Return the two-sided p-value of per-image differences over all 2**N flips of their signs.

    The flips that reach each sum are counted exactly, by dynamic programming over images. With
    differences of -1, 0 and 1, from one draw each, this is the exact McNemar test. 1 if all are
    zero.

    Args:
        differences: int64 [N], in any unit.
    """
    differing = differences[differences != 0]
    if not len(differing):
        return 1.0
    if not differing.sum():
        return 1.0  # every flip is as extreme; below, a rounding error could give less than 1
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
"""Additions up to which the interval of a gain is exact, about half a second."""
SAMPLES = 100_000
"""Sets of images in a sampled interval, which give its tails to a twentieth of their size."""


def sign_flip_interval(
    differences: NDArray[np.int64],
    *,
    confidence: float = 0.99,
    counted_out: int = COUNTED_OUT,
    seed: int = 0,
) -> tuple[float, float]:
    """Return the interval of mean differences that `sign_flip_test` does not reject.

    A mean m is tested by flipping signs of the differences minus m. Flipping those of a set of
    images leaves at least their sum if and only if the mean over that set is at most m. So the
    one-sided p-value of m is the share of all 2**N sets whose mean is at most m (the empty set
    always counts), and the ends of the interval are quantiles of the means of sets: of random
    subsamples as in Hartigan (1969).

    The sets are enumerated by their number of images and their sum, unless this takes more than
    `counted_out` additions. Then `SAMPLES` sets are drawn, in time linear in N. An end is infinite
    if there are too few images to exclude any mean.

    Args:
        differences: int64 [N], in any unit, which is also that of the interval.
        confidence: Confidence level.
        counted_out: Limit of the exact computation.
        seed: Seed of the sampled sets.

    Raises:
        ValueError: If there are no images.
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


def gain_interval(
    differences: NDArray[np.int64], *, most: int, confidence: float = 0.99
) -> tuple[float, float]:
    """Return the interval of a mean difference, with its coverage also where few images differ.

    The sign-flip test takes differences to be symmetric around their mean. If few images differ,
    they are not: 20 equal results leave an interval of one point, although a gain on one image in
    ten would leave them so in one of eight samples. Therefore the upper end is at least the exact
    upper bound of Clopper and Pearson (Biometrika 1934) on the share that is won, minus the share
    that was lost; the lower end likewise. From about one image in ten that differs, this changes
    little.

    Args:
        differences: int64 [N], in any unit, which is also that of the interval.
        most: The largest difference possible, in that unit.
        confidence: Confidence level.

    Raises:
        ValueError: If there are no images, or a difference exceeds `most`.
    """
    low, high = sign_flip_interval(differences, confidence=confidence)
    if np.abs(differences).max() > most:
        raise ValueError(f"a difference of more than {most}")
    count = len(differences)
    won = int(differences.clip(min=0).sum())
    lost = int(-differences.clip(max=0).sum())
    tail = (1 - confidence) / 2
    least = won / count - most * _binomial_bound(lost / most, count, tail)
    largest = most * _binomial_bound(won / most, count, tail) - lost / count
    return max(-float(most), min(low, least)), min(float(most), max(high, largest))


def _binomial_bound(successes: float, count: int, tail: float) -> float:
    """Return the exact upper bound of a rate that is exceeded with probability `tail`."""
    from scipy.special import betaincinv  # type: ignore[import-untyped]

    if successes >= count:
        return 1.0
    return float(betaincinv(successes + 1, count - successes, 1 - tail))


def _quantile(
    means: NDArray[np.float64], weights: NDArray[np.float64], empty: float, tail: float
) -> float:
    """Return the least mean at which the cumulated weight exceeds `tail`; -inf if `empty` does."""
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
    """Return the mean of each kind of set, its probability, and that of the empty set."""
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
        # images without a difference make sets larger but do not change their sums
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
    """Return the same as `_counted_sets` for random sets and the observed, empty one."""
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
    """Return the probability of each number of heads of `count` coins, float64 [count + 1]."""
    logs = [
        math.lgamma(count + 1) - math.lgamma(k + 1) - math.lgamma(count - k + 1)
        for k in range(count + 1)
    ]
    chances: NDArray[np.float64] = np.exp(np.array(logs) - count * math.log(2))
    return chances


def holm(p_values: Sequence[float]) -> list[float]:
    """Return Holm's adjusted p-values of one table, in the given order."""
    adjusted = [0.0] * len(p_values)
    highest = 0.0
    for rank, index in enumerate(sorted(range(len(p_values)), key=p_values.__getitem__)):
        highest = max(highest, min(1.0, (len(p_values) - rank) * p_values[index]))
        adjusted[index] = highest
    return adjusted


def smallest_gain(
    images: int, *, comparisons: int = 1, discordant: float = 0.1, level: float = 0.05
) -> float | None:
    """Return the smallest gain, in percentage points, that a table could call significant.

    That is a gain that passes the exact McNemar test at the first, strictest level of Holm's
    procedure. None if no gain could.

    Args:
        images: Number of images.
        comparisons: Number of comparisons in the table.
        discordant: Share of the images on which the results differ.
        level: Significance level.
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
    """Return about how many images make a gain of `points` percentage points significant.

    See `smallest_gain` for the arguments. Since that is not monotonic in the number of images, the
    result is near the least such number, but not always it.

    Raises:
        ValueError: If `points` or `discordant` is not positive.
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

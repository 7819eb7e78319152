"""Timing of contenders side by side: each once, then again, so that a machine's moods hit all."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Comparison:
    """Contenders that do the same work.

    name: of the rows that it gives; what: the work, in a sentence; amount, unit: how much of it
    one call does, such as 250 images; contenders: their names and the calls; ours: the names of
    this project's own, the others are peers; beside: whom the others are compared with, the
    fastest peer by default; apart: names of those that run in a process of their own, as their
    users run them; warm_ups: calls before any is timed; flop: floating point operations
    a unit, where a share of the machine's peak is to be told; told: further findings, in
    sentences, that `contenders` left while they ran.
    """

    name: str
    what: str
    amount: float
    unit: str
    contenders: Mapping[str, Callable[[], object]]
    ours: Sequence[str]
    beside: str | None = None
    apart: Sequence[str] = ()
    warm_ups: int = 1
    flop: float | None = None
    told: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Timing:
    """One call. `rate` is in units a second."""

    comparison: str
    contender: str
    repeat: int
    seconds: float
    rate: float


@dataclass(frozen=True)
class Ratio:
    """How many times as fast one is as another: the median of the repeats, the least, the most."""

    median: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.median:.2f} ({self.low:.2f} to {self.high:.2f})"


def timed(
    comparison: Comparison, repeats: int, elsewhere: Callable[[str], float]
) -> Iterator[Timing]:
    """Call each contender untimed, as a warm-up, then all of them in turn, `repeats` times.

    elsewhere: calls one of those that run apart and gives its seconds.
    """

    def seconds(name: str) -> float:
        if name in comparison.apart:
            return elsewhere(name)
        began = time.perf_counter()
        comparison.contenders[name]()
        return time.perf_counter() - began

    for name in comparison.contenders:
        for _ in range(comparison.warm_ups):
            seconds(name)
    for repeat in range(1, repeats + 1):
        for name in comparison.contenders:
            taken = seconds(name)
            yield Timing(comparison.name, name, repeat, taken, comparison.amount / taken)


def median_rate(timings: Sequence[Timing], contender: str) -> float:
    """Units a second."""
    return statistics.median(_rates(timings, contender))


def ratio(timings: Sequence[Timing], contender: str, other: str) -> Ratio:
    """Of rates that were measured one after the other."""
    pairs = zip(_rates(timings, contender), _rates(timings, other), strict=True)
    ratios = [first / second for first, second in pairs]
    return Ratio(statistics.median(ratios), min(ratios), max(ratios))


def fastest(timings: Sequence[Timing], among: Sequence[str]) -> str:
    """The one whose median rate is highest."""
    return max(among, key=lambda name: median_rate(timings, name))


def _rates(timings: Sequence[Timing], contender: str) -> list[float]:
    return [timing.rate for timing in timings if timing.contender == contender]

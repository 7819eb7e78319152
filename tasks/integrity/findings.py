"""What an integrity card says: findings, and how counts of right answers are compared."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Literal

from pydantic import BaseModel, ConfigDict

from tasks.evaluation.statistics import wilson_interval

Verdict = Literal["pass", "warn", "fail", "skipped"]


class Finding(BaseModel):
    """What one check found: its name, its verdict, what was measured, and that in one line.

    A `fail` says that a number of the model cannot be believed, a `warn` that it may be less
    than it seems; `skipped` that the check was not made.
    """

    model_config = ConfigDict(frozen=True)

    check: str
    verdict: Verdict
    measured: Mapping[str, float] = {}
    words: str


def overall(findings: Iterable[Finding]) -> Verdict:
    """The gravest verdict of a card; `skipped` where nothing was checked."""
    return gravest(finding.verdict for finding in findings)


def gravest(verdicts: Iterable[Verdict]) -> Verdict:
    """A failure before a warning before a pass."""
    found = set(verdicts)
    order: tuple[Verdict, ...] = ("fail", "warn", "pass")
    return next((verdict for verdict in order if verdict in found), "skipped")


def beyond_interval(right: float, earlier: float, images: int) -> bool:
    """Whether an accuracy is above the 95 % Wilson interval of an earlier one.

    right, earlier: numbers of right answers about the same `images` images.
    """
    return right > images * wilson_interval(earlier, images)[1]


def margin(images: int) -> int:
    """By how many images two attacks may differ: 0.2 % of them, below 500 images one."""
    return max(1, round(0.002 * images))


def grows(rights: Sequence[float], images: int) -> bool:
    """Whether one of the numbers is beyond the interval of the one before it."""
    return any(
        beyond_interval(later, earlier, images) for earlier, later in itertools.pairwise(rights)
    )


def found(
    check: str,
    measured: Mapping[str, float],
    words: str,
    *,
    fails: bool = False,
    warns: bool = False,
) -> Finding:
    """A finding that fails, or else warns, or else passes.

    What could not be measured, and so is no finite number, is left out.
    """
    verdict: Verdict = "fail" if fails else "warn" if warns else "pass"
    measured = {name: value for name, value in measured.items() if math.isfinite(value)}
    return Finding(check=check, verdict=verdict, measured=measured, words=words)


def skipped(check: str, words: str) -> Finding:
    """A check that was not made, and why."""
    return Finding(check=check, verdict="skipped", words=f"not made: {words}")

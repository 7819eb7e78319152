"""Findings of an integrity card, and comparisons of counts of correct answers."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Literal

from pydantic import BaseModel, ConfigDict

from tasks.evaluation.statistics import wilson_interval

Verdict = Literal["pass", "warn", "fail", "skipped"]
OF_STRENGTH = frozenset(
    ("gradient", "steps", "epsilon", "chance", "corners", "frozen-draw", "square", "adaptive")
)
"""Checks that fail if an attack is too weak, so that the accuracy under it is an upper bound.

If another check fails, the accuracy may be too low as well: the examples are not in their ball, or
the answers are not those of this model to these images alone.
"""


class Finding(BaseModel):
    """Result of one check.

    `fail` means that a number of the model cannot be trusted, `warn` that it may be less than it
    seems, and `skipped` that the check was not made.
    """

    model_config = ConfigDict(frozen=True)

    check: str
    """Name of the check."""
    verdict: Verdict
    measured: Mapping[str, float] = {}
    """What was measured."""
    words: str
    """The result in one line."""

    @property
    def line(self) -> str:
        """The name of the check and its result."""
        return f"{self.check}: {self.words}"


def overall(findings: Iterable[Finding]) -> Verdict:
    """Return the most serious verdict of a card; `skipped` if nothing was checked."""
    return gravest(finding.verdict for finding in findings)


def gravest(verdicts: Iterable[Verdict]) -> Verdict:
    """Return `fail` before `warn` before `pass`; `skipped` if there is none of them."""
    found = set(verdicts)
    order: tuple[Verdict, ...] = ("fail", "warn", "pass")
    return next((verdict for verdict in order if verdict in found), "skipped")


def beyond_interval(right: float, earlier: float, images: int) -> bool:
    """Return whether an accuracy is above the 95 % Wilson interval of an earlier one.

    Args:
        right: Number of correct answers.
        earlier: Number of correct answers on the same images before.
        images: Number of images.
    """
    return right > images * wilson_interval(earlier, images)[1]


def margin(images: int) -> int:
    """Return by how many images two attacks may differ: 0.2 % of them, at least one."""
    return max(1, round(0.002 * images))


def grows(rights: Sequence[float], images: int) -> bool:
    """Return whether one of the numbers is above the interval of the one before it."""
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
    """Return a finding that fails, or else warns, or else passes.

    Measured values that are not finite are left out.
    """
    verdict: Verdict = "fail" if fails else "warn" if warns else "pass"
    measured = {name: value for name, value in measured.items() if math.isfinite(value)}
    return Finding(check=check, verdict=verdict, measured=measured, words=words)


def skipped(check: str, words: str) -> Finding:
    """Return the finding of a check that was not made, with the reason."""
    return Finding(check=check, verdict="skipped", words=f"not made: {words}")

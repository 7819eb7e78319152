"""The ways by which an attacker's gradient passes a defense, chosen from what that declares.

Straight through alone says little of a defense with an optimiser inside (Croce et al., ICML 2022,
section 4): such a one is climbed by each of its ways, and an image keeps the worst.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from tasks.defenses.base import Defense, GradientRule

SHORT = 5
"""Steps of the shorter copy of a defense with an optimiser inside, as of Croce et al."""


@dataclass(frozen=True)
class Way:
    """How a gradient passes a defense: see `tasks.evaluation.specs.CraftSpec`.

    extra: it is one of several ways through what hides a gradient, and begins at the best so far.
    """

    smoothing: float | None = None
    rule: GradientRule | None = None
    inner_steps: int | None = None
    extra: bool = False
    relu_width: float | None = None

    @property
    def suffix(self) -> str:
        """What it adds to the name of a candidate."""
        inner = "" if self.inner_steps is None else f"-inner{self.inner_steps}"
        smoothed = "" if self.smoothing is None else f"-smoothed{self.smoothing:g}"
        curved = "" if self.relu_width is None else f"-relu{self.relu_width:g}"
        return f"{inner}{'' if self.rule is None else f'-{self.rule}'}{smoothed}{curved}"


def ways(
    defense: Defense, smoothing: float | None, relu_width: float | None = None
) -> Iterator[Way]:
    """Those that a defense declares, from cheap to dear; the first is that of its first rule.

    relu_width: of those that go back through a gradient. An optimiser inside is passed by all
    rules and by those of a shorter copy, a smoothed sign in the copy alone: a gradient through
    the signs of every step would be of more and more noise.
    """
    yield Way()
    _, *others = defense.gradients()
    long = defense.inner_steps() > SHORT
    smooth = smoothing if defense.smooths() else None
    if smooth is not None and not long:
        yield Way(smoothing=smooth, relu_width=relu_width)
    short = [Way(inner_steps=SHORT, extra=True)] if long else []
    yield from short
    for rule in others:
        curved = relu_width if rule == "unrolled" else None
        yield Way(rule=rule, extra=True, relu_width=curved)
    if smooth is not None and long:
        yield Way(smoothing=smooth, inner_steps=SHORT, extra=True, relu_width=relu_width)


def aimed_ways(
    defense: Defense, smoothing: float | None, relu_width: float | None = None
) -> Iterator[Way]:
    """Those by which a climb leads to one wrong class: straight through, and smoothed."""
    found = list(ways(defense, smoothing, relu_width))
    yield found[0]
    yield from (way for way in found if way.smoothing is not None)

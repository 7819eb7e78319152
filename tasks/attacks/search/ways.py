"""Ways to pass a gradient through a defense, derived from what the defense declares.

Straight-through gradients alone say little about a defense with an optimiser inside (Croce et al.,
ICML 2022, section 4). Such a defense is attacked in each of its ways, and an image keeps the worst.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from tasks.defenses.base import Defense, GradientRule

SHORT = 5
"""Steps of the shorter copy of a defense with an inner optimiser, as in Croce et al."""


@dataclass(frozen=True)
class Way:
    """How a gradient passes a defense; for the fields see `tasks.evaluation.specs.CraftSpec`."""

    smoothing: float | None = None
    rule: GradientRule | None = None
    inner_steps: int | None = None
    extra: bool = False
    """Whether this is one of several ways through a defense that hides its gradient. Such a
    candidate starts at the best example so far."""
    relu_width: float | None = None

    @property
    def suffix(self) -> str:
        """What the way adds to the name of a candidate."""
        inner = "" if self.inner_steps is None else f"-inner{self.inner_steps}"
        smoothed = "" if self.smoothing is None else f"-smoothed{self.smoothing:g}"
        curved = "" if self.relu_width is None else f"-relu{self.relu_width:g}"
        return f"{inner}{'' if self.rule is None else f'-{self.rule}'}{smoothed}{curved}"


def ways(
    defense: Defense, smoothing: float | None, relu_width: float | None = None
) -> Iterator[Way]:
    """Yield the ways that a defense declares, from cheap to expensive, its first rule first.

    A defense with a long inner optimiser is passed by all its rules and by a shorter copy of it;
    signs are smoothed in the copy alone, since a gradient through the signs of every step is mostly
    noise.

    Args:
        defense: The defense under attack.
        smoothing: See `tasks.defenses.base.Context`; None for no smoothed signs.
        relu_width: See `Context`; used by the ways that differentiate a gradient of the network.
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
    """Yield the ways for targeted runs: the first one, and those with smoothed signs."""
    found = list(ways(defense, smoothing, relu_width))
    yield found[0]
    yield from (way for way in found if way.smoothing is not None)

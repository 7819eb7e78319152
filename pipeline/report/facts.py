"""Reading of facts, such as those of a score."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

Facts = Mapping[str, object]


def number(facts: Facts, key: str) -> float | None:
    """A fact as a number; None if it is not one."""
    value = facts.get(key)
    if isinstance(value, int | float) and not isinstance(value, bool):
        return float(value)
    return None


def interval(facts: Facts) -> tuple[float, float] | None:
    """The confidence interval of a score in percent; None if there is none.

    The bounds are set to exactly 0 or 100 if no image or every image is right; scores of earlier
    versions have rounding errors there.
    """
    value = facts.get("interval")
    if isinstance(value, Sequence) and not isinstance(value, str) and len(value) == 2:
        accuracy = number(facts, "accuracy")
        low = 0.0 if accuracy == 0 else float(value[0])
        high = 100.0 if accuracy == 100 else float(value[1])
        return low, high
    return None

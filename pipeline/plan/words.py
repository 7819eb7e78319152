"""Formatting of counts and durations for people."""

from __future__ import annotations


def counted(count: int, noun: str) -> str:
    """`1 cell`, `2 cells`."""
    return f"{count} {noun}" + ("" if count == 1 else "s")


def roughly(seconds: float) -> str:
    """An estimated duration, rounded in steps: `8 s`, `3 min 20 s`, `49 min`, `6 h 10 min`."""
    steps = ((60, 1), (600, 10), (3600, 60), (36_000, 600))
    step = next((step for below, step in steps if seconds < below), 3600)
    return duration(step * round(seconds / step))


def roughly_between(least_s: float, most_s: float) -> str:
    """A range such as `20 min to 3 h`; a single duration if both ends read the same."""
    least, most = roughly(least_s), roughly(most_s)
    return most if least == most else f"{least} to {most}"


def duration(seconds: float) -> str:
    """`8 s`, `3 min 20 s`, `2 h 5 min`, `3 d 4 h`."""
    whole = max(0, round(seconds))
    for size, name, smaller, smaller_name in (
        (86400, "d", 3600, "h"),
        (3600, "h", 60, "min"),
        (60, "min", 1, "s"),
    ):
        if whole >= size:
            rest = whole % size // smaller
            return f"{whole // size} {name}" + (f" {rest} {smaller_name}" if rest else "")
    return f"{whole} s"

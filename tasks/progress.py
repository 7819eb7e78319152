"""What a long task tells while it works."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True)
class Progress:
    """`done` of `total` units of the task's own (images, epochs), with a short note."""

    done: float
    total: float
    note: str = ""


Tell = Callable[[Progress], None]


def silent(progress: Progress) -> None:
    """A `Tell` for when nobody listens."""

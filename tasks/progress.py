"""Progress reports of a long task."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True)
class Progress:
    """Progress of a task: `done` of `total` of its own units (images, epochs), and a note."""

    done: float
    total: float
    note: str = ""


Tell = Callable[[Progress], None]


def silent(progress: Progress) -> None:
    """A `Tell` that ignores progress."""

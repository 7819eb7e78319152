"""Whatever is said in one line: mistakes of a user, failures of a system, text made fit to show."""

from pipeline.problems.errors import (
    NO_ROOM,
    REFUSED,
    BadInput,
    Unwritable,
    reason_of,
    regular,
    shown,
    suggestion,
    writing_to,
)

__all__ = [
    "NO_ROOM",
    "REFUSED",
    "BadInput",
    "Unwritable",
    "reason_of",
    "regular",
    "shown",
    "suggestion",
    "writing_to",
]

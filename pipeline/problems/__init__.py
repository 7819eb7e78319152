"""Error classes with one-line messages, and sanitising of text that is shown to people."""

from pipeline.problems.errors import (
    REFUSED,
    BadInput,
    Unwritable,
    reader_gone,
    reason_of,
    regular,
    shown,
    suggestion,
    unreachable,
    unwritable,
    writing_to,
)

__all__ = [
    "REFUSED",
    "BadInput",
    "Unwritable",
    "reader_gone",
    "reason_of",
    "regular",
    "shown",
    "suggestion",
    "unreachable",
    "unwritable",
    "writing_to",
]

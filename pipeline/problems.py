"""What is wrong with the input, in one line that says where and what would be right."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class BadInput(Exception):
    """A user's mistake. Its message is the one line that is printed; the exit code is 2."""

    def __init__(self, message: str) -> None:
        # Names and values of a user's, which messages quote, may hold line breaks.
        super().__init__(" ".join(message.splitlines()))


def suggestion(name: str, known: Iterable[str]) -> str:
    """`; did you mean 'x'?`, or the known names where none is near."""
    names = sorted(known)
    near = difflib.get_close_matches(name, names, n=1, cutoff=0.6)
    if near:
        return f"; did you mean '{near[0]}'?"
    return f"; known: {', '.join(names)}" if names else ""

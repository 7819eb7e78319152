"""A process that stops after its n-th operation on files, for tests."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path

EVENTS = frozenset(
    {
        "os.link",
        "os.mkdir",
        "os.remove",
        "os.rename",
        "os.rmdir",
        "os.truncate",
        "os.utime",
        "shutil.rmtree",
    }
)
"""What Python tells its audit hooks of changes to a disk; besides these, files opened to write."""
STOPPED = 77
"""The exit code of a process that was stopped."""


class Stop:
    """Ends this process, at once, before its n-th operation. It cannot be taken back."""

    def __init__(self, number: int, below: Path) -> None:
        self._left = number
        self._below = str(below)
        sys.addaudithook(self._hook)

    def _hook(self, event: str, words: tuple[object, ...]) -> None:
        if event == "open":
            path, _, flags = words
            changes = isinstance(flags, int) and flags & (os.O_WRONLY | os.O_RDWR)
        else:
            path, changes = (words or ("",))[0], event in EVENTS
        if changes and str(path).startswith(self._below):
            self._left -= 1
            if self._left < 0:
                os._exit(STOPPED)


def stopped(action: Callable[[Path], object], place: Path, number: int) -> bool:
    """Do something in a process of its own that ends before its n-th operation, if it gets there.

    Returns whether it was stopped; it must not fail otherwise.
    """
    process = os.fork()
    if process == 0:
        code = 1
        try:
            Stop(number, place)
            action(place)
            code = 0
        finally:
            os._exit(code)
    _, status = os.waitpid(process, 0)
    code = os.waitstatus_to_exitcode(status)
    assert code in {0, STOPPED}
    return code == STOPPED

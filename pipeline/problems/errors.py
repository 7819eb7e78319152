"""What is wrong with the input, in one line that says where and what would be right."""

from __future__ import annotations

import contextlib
import difflib
import errno
import os
import stat
from collections.abc import Iterable, Iterator
from pathlib import Path

from pipeline.problems.sanitize import clean

NO_ROOM = frozenset({errno.ENOSPC, errno.EDQUOT})
REFUSED = NO_ROOM | {errno.EROFS, errno.EACCES, errno.EPERM, errno.EIO}
"""What a folder answers that can no longer be written: not the fault of what is written."""


class BadInput(Exception):
    """A user's mistake. Its message is the one line that is printed; the exit code is 2."""

    def __init__(self, message: str) -> None:
        # Names and values of a user's, which messages quote, may hold anything.
        super().__init__(clean(message))


class Unwritable(Exception):
    """A folder that ran full or became read-only in mid-run, in one line; the exit code is 1."""

    def __init__(self, message: str) -> None:
        super().__init__(clean(message))


@contextlib.contextmanager
def writing_to(folder: str, codes: frozenset[int] = REFUSED) -> Iterator[None]:
    """Turn errors of the system with these codes into Unwritable, which names the folder."""
    try:
        yield
    except OSError as error:
        if error.errno not in codes:
            raise
        reason = os.strerror(error.errno).lower()
        raise Unwritable(f"{folder}: {reason}") from error


def regular(path: Path) -> Path:
    """The path of a file or a folder; OSError for a pipe or a device, whose reading never ends."""
    mode = path.stat().st_mode
    if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):
        raise OSError(errno.EINVAL, "a pipe or a device, not a file", str(path))
    return path


def reason_of(error: BaseException) -> str:
    """What the system said of an error, in lower case: `no space left on device`."""
    return (getattr(error, "strerror", None) or str(error) or type(error).__name__).lower()


def suggestion(name: str, known: Iterable[str]) -> str:
    """`; did you mean 'x'?`, or the known names where none is near."""
    names = sorted(known)
    near = difflib.get_close_matches(name, names, n=1, cutoff=0.6)
    if near:
        return f"; did you mean '{near[0]}'?"
    return f"; known: {', '.join(names)}" if names else ""


def shown(path: Path) -> str:
    """A path as a person reads it: relative to the current folder where it lies in it."""
    try:
        return str(path.resolve().relative_to(Path.cwd()))
    except ValueError:
        return str(path)

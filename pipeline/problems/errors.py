"""Exceptions for users' mistakes and system failures, with one-line messages."""

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
"""errno codes that mean a folder can no longer be written to, whatever is written."""


UNREACHABLE = frozenset({errno.EACCES, errno.ENAMETOOLONG})
"""errno codes that mean that a path cannot be looked at, whatever is there."""


class BadInput(Exception):
    """A user's mistake. Its message, one line, is printed; the exit code is 2."""

    def __init__(self, message: str) -> None:
        # messages quote names and values from the user, which may contain anything
        super().__init__(clean(message))


class Unwritable(Exception):
    """A folder became full or read-only during a run. One-line message; the exit code is 1."""

    def __init__(self, message: str) -> None:
        super().__init__(clean(message))


@contextlib.contextmanager
def writing_to(folder: str, codes: frozenset[int] | None = REFUSED) -> Iterator[None]:
    """Convert OSErrors with these codes, or all, into Unwritable, which names the folder."""
    try:
        yield
    except OSError as error:
        if codes is not None and error.errno not in codes:
            raise
        raise Unwritable(f"{folder}: {reason_of(error)}") from error


def unreachable(error: BaseException) -> str | None:
    """Which path could not be looked at, and why; None for other errors.

    Python 3.11's `Path.exists` and its like raise such errors instead of returning False.
    """
    if isinstance(error, OSError) and error.errno in UNREACHABLE and error.filename is not None:
        return f"{error.filename}: {reason_of(error)}"
    return None


def reader_gone(error: BaseException) -> bool:
    """Whether it says that the reader of stdout, such as `head`, is gone.

    Rich replaces a BrokenPipeError by a SystemExit with the exit code 1.
    """
    return isinstance(error, BrokenPipeError) or (
        isinstance(error, SystemExit) and isinstance(error.__context__, BrokenPipeError)
    )


def regular(path: Path) -> Path:
    """Return the path if it is a file or a folder.

    Raises:
        OSError: For pipes and devices, whose reading might never end.
    """
    mode = path.stat().st_mode
    if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):
        raise OSError(errno.EINVAL, "a pipe or a device, not a file", str(path))
    return path


def reason_of(error: BaseException) -> str:
    """The system's message of an error in lower case, such as `no space left on device`."""
    return (getattr(error, "strerror", None) or str(error) or type(error).__name__).lower()


def unwritable(folder: Path) -> str | None:
    """Why a folder cannot be written to, or created; None if it can. Creates nothing."""
    try:
        places = (folder.absolute(), *folder.absolute().parents)
        existing = next(place for place in places if place.exists())
        if not existing.is_dir():
            return f"{existing} is no folder"
        return None if os.access(existing, os.W_OK | os.X_OK) else "permission denied"
    except OSError as error:
        return reason_of(error)


def suggestion(name: str, known: Iterable[str]) -> str:
    """`; did you mean 'x'?`, or the list of known names if none is similar."""
    names = sorted(known)
    near = difflib.get_close_matches(name, names, n=1, cutoff=0.6)
    if near:
        return f"; did you mean '{near[0]}'?"
    return f"; known: {', '.join(names)}" if names else ""


def shown(path: Path) -> str:
    """A path for messages: relative to the current folder if it is inside it."""
    try:
        return str(path.resolve().relative_to(Path.cwd()))
    except ValueError:
        return str(path)

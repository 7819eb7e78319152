"""The program's standard streams, which may be closed or go away at any time."""

from __future__ import annotations

import io
import os
import sys
from pathlib import Path
from typing import Any


class _Lossy(io.FileIO):
    """A file that discards what cannot be written: to a closed pipe, a terminal that is gone."""

    def write(self, data: Any, /) -> int:
        try:
            return super().write(data)
        except OSError:
            return memoryview(data).nbytes


def keep_streams() -> None:
    """Replace closed standard streams by the null device, and stderr by one that never fails.

    Results are what counts: messages that cannot be written must not end the work.
    """
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            # gets the lowest number that is free, so that no other file does
            os.open(os.devnull, os.O_RDWR)
    if sys.stdout is None:
        sys.stdout = Path(os.devnull).open("w", encoding="utf-8")  # noqa: SIM115  until the end
    if sys.stderr is None:
        sys.stderr = Path(os.devnull).open("w", encoding="utf-8")  # noqa: SIM115  until the end
    elif (own := sys.__stderr__) is not None and sys.stderr is own:
        sys.stderr = io.TextIOWrapper(
            io.BufferedWriter(_Lossy(own.fileno(), "w", closefd=False)),
            own.encoding,
            errors="backslashreplace",
            line_buffering=True,
        )

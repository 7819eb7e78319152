"""Ctrl-C, or a batch system's SIGTERM: the first ends a run in order, the second at once."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

STOPPED = 130
"""The exit code of what was stopped."""
SIGNALS = (signal.SIGINT, signal.SIGTERM)


@contextmanager
def stopping(say: Callable[[str], object]) -> Iterator[None]:
    """Inside, the first signal raises KeyboardInterrupt and the second ends the process.

    say: told in a line what happens. What is in the store is whole in either case.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    asked = False

    def stop(number: int, frame: FrameType | None) -> None:  # noqa: ARG001  the system's form
        nonlocal asked
        if asked:
            say("stopped at once; the same command goes on from what is finished")
            os._exit(STOPPED)
        asked = True
        say("stopping in order; once more stops at once")
        raise KeyboardInterrupt

    before = {number: signal.signal(number, stop) for number in SIGNALS}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)

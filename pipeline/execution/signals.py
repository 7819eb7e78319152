"""Ctrl-C, or a batch system's SIGTERM: the first ends a run in order, the second at once.

Also what ends a node of this process that tells nothing for too long.
"""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

STOPPED = 130
"""The exit code of what was stopped."""
SIGNALS = (signal.SIGINT, signal.SIGTERM)
POLL_S = 0.1


class Interrupted(KeyboardInterrupt):
    """A signal came. A plain KeyboardInterrupt is one that somebody's code raised."""


class Silent(BaseException):
    """A node of this process has told nothing for longer than it may."""


@contextmanager
def stopping(say: Callable[[str], object]) -> Iterator[None]:
    """Inside, the first signal raises Interrupted and the second ends the process.

    say: told in a line what happens. What is in the store is whole in either case. The second
    ends the process also where the main thread is in code that is not Python's and never returns.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    came = 0

    def stop(number: int, frame: FrameType | None) -> None:  # noqa: ARG001  the system's form
        nonlocal came
        came += 1
        if came == 1:
            say("stopping in order; once more stops at once")
            raise Interrupted

    def watch() -> None:
        seen = 0
        while number := os.read(reader, 1):
            seen += number[0] in SIGNALS
            if seen > 1:
                say("stopped at once; the same command goes on from what is finished")
                os._exit(STOPPED)

    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    before = {number: signal.signal(number, stop) for number in SIGNALS}
    waking = signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
    watcher = threading.Thread(target=watch, name="signals", daemon=True)
    watcher.start()
    try:
        yield
    finally:
        signal.set_wakeup_fd(waking)
        for number, handler in before.items():
            signal.signal(number, handler)
        os.close(writer)
        watcher.join()
        os.close(reader)


@contextmanager
def interruptible() -> Iterator[None]:
    """Inside, a Ctrl-C that nobody else handles raises Interrupted."""

    def stop(number: int, frame: FrameType | None) -> None:  # noqa: ARG001  the system's form
        raise Interrupted

    main = threading.current_thread() is threading.main_thread()
    if not main or signal.getsignal(signal.SIGINT) is not signal.default_int_handler:
        yield
        return
    signal.signal(signal.SIGINT, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def wait_for(ended: Callable[[float], object], over: Callable[[], bool]) -> None:
    """Wait in pieces: in one long wait, a library's handler may keep signals from being seen.

    ended: waits for so many seconds; over: whether there is nothing to wait for any more.
    """
    while not over():
        ended(POLL_S)


@contextmanager
def ended_when_silent(seconds: float | None) -> Iterator[Callable[[], None]]:
    """Inside, Silent is raised where what is given was not called for so many seconds.

    It is raised again each second, since somebody's code may catch it. Only where signals are
    handled, in the main thread, and once code that is not Python's returns.
    """
    main = threading.current_thread() is threading.main_thread()
    if seconds is None or not main:
        yield lambda: None
        return
    limit = seconds

    def stop(number: int, frame: FrameType | None) -> None:  # noqa: ARG001  the system's form
        raise Silent

    def told() -> None:
        signal.setitimer(signal.ITIMER_REAL, limit, 1.0)

    began = time.monotonic()
    left, interval = signal.setitimer(signal.ITIMER_REAL, 0.0)
    before = signal.signal(signal.SIGALRM, stop)
    told()
    try:
        yield told
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0.0)
        signal.signal(signal.SIGALRM, before)
        if left:
            # somebody else's alarm goes off when it would have
            rest = max(left - (time.monotonic() - began), 0.001)
            signal.setitimer(signal.ITIMER_REAL, rest, interval)

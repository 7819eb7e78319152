"""Handling of Ctrl-C and SIGTERM: the first stops a run in order, the second at once.

Also the timeout of a node in this process that reports no progress.
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
"""Exit code of a program that was stopped by a signal."""
SIGNALS = (signal.SIGINT, signal.SIGTERM)
POLL_S = 0.1


class Interrupted(KeyboardInterrupt):
    """A signal was received. Unlike a plain KeyboardInterrupt it was not raised by user code."""


class Silent(BaseException):
    """A node of this process has reported no progress for longer than allowed."""


@contextmanager
def stopping(say: Callable[[str], object]) -> Iterator[None]:
    """Context manager: the first signal raises Interrupted, the second ends the process.

    The store is consistent in either case. The second signal works even if the main thread is stuck
    in code that is not Python's.

    Args:
        say: Called with a line that tells the user what happens.
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
def deferred() -> Iterator[None]:
    """Context manager: what the signals' handlers raise in the block is raised after it.

    Handlers that the block installs do not remain.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    raised: list[BaseException] = []

    def holding(handler: Callable[[int, FrameType | None], object]) -> Callable[..., None]:
        def hold(number: int, frame: FrameType | None) -> None:
            try:
                handler(number, frame)
            except BaseException as error:  # noqa: BLE001  it is raised after the block
                raised.append(error)

        return hold

    before = {number: signal.getsignal(number) for number in SIGNALS}
    handlers = {number: handler for number, handler in before.items() if callable(handler)}
    for number, handler in handlers.items():
        signal.signal(number, holding(handler))
    try:
        yield
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
    if raised:
        raise raised[0]


@contextmanager
def interruptible() -> Iterator[None]:
    """Context manager: a Ctrl-C that nobody else handles raises Interrupted."""

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
    """Wait in short intervals, since a library's handler may hide signals during one long wait.

    Args:
        ended: Waits for the given number of seconds.
        over: Whether there is nothing left to wait for.
    """
    while not over():
        ended(POLL_S)


@contextmanager
def ended_when_silent(seconds: float | None) -> Iterator[Callable[[], None]]:
    """Context manager: raise Silent if the yielded function is not called for `seconds`.

    Silent is raised again each second, since user code may catch it. This works only in the main
    thread, where signals are handled, and only when code that is not Python's returns.
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
            # restore another alarm that was pending, so that it goes off in time
            rest = max(left - (time.monotonic() - began), 0.001)
            signal.setitimer(signal.ITIMER_REAL, rest, interval)

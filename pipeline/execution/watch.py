"""Watchdog: reports running nodes that have reported no progress for some time."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

from pipeline.execution.events import (
    Event,
    NodeDone,
    NodeFailed,
    NodeProgress,
    NodeRetried,
    NodeSilent,
    NodeStarted,
    RunFinished,
)
from pipeline.grid.graph import Node

SILENT_S = 60.0
"""Time without progress after which a node is reported; doubled each time."""


@dataclass
class _Heard:
    when: float
    told_at: float = SILENT_S


class Watch:
    """An observer that sends NodeSilent events for nodes without progress.

    `close` stops its thread.

    Args:
        notify: Receives the events.
        limit_s: Time after which such a node is terminated, if it is; part of the event.
    """

    def __init__(
        self,
        notify: Callable[[Event], None],
        *,
        limit_s: float | None = None,
        clock: Callable[[], float] = time.monotonic,
        every_s: float = 1.0,
    ) -> None:
        self._notify = notify
        self._limit_s = limit_s
        self._clock = clock
        self._nodes: dict[str, Node] = {}
        self._heard: dict[str, _Heard] = {}
        self._lock = threading.Lock()
        self._over = threading.Event()
        self._thread = threading.Thread(
            target=self._work, args=(every_s,), name="watch", daemon=True
        )
        self._thread.start()

    def notify(self, event: Event) -> None:
        """Record that a node started, made progress or ended."""
        with self._lock:
            match event:
                case NodeStarted(node=node):
                    self._nodes[node.digest] = node
                case NodeProgress(digest=digest) if digest in self._nodes:
                    self._heard[digest] = _Heard(self._clock())
                case NodeDone(node=node) | NodeFailed(node=node) | NodeRetried(node=node):
                    self._heard.pop(node.digest, None)
                case RunFinished():
                    self._over.set()
                case _:
                    pass

    def close(self) -> None:
        """Stop watching."""
        self._over.set()
        self._thread.join()

    def look(self) -> None:
        """Send an event for each node that is due."""
        found = []
        with self._lock:
            for digest, heard in self._heard.items():
                silent = self._clock() - heard.when
                if silent >= heard.told_at:
                    heard.told_at *= 2
                    found.append(NodeSilent(self._nodes[digest], silent, self._limit_s))
        for event in found:
            self._notify(event)

    def _work(self, every_s: float) -> None:
        while not self._over.wait(every_s):
            self.look()

"""Where nodes run: the protocol, and the executor that runs them here.

The inline executor has the interface of the big one, so a node that fails on a cluster can be
stepped through in a debugger.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Protocol

from pipeline.events import Done, Failure, Stopped
from pipeline.graph import Node
from pipeline.settings import Settings
from pipeline.store import Store
from tasks.progress import Progress

Report = Callable[[str, Progress], None]
"""Digest of a node and how far it is."""


class Executor(Protocol):
    """Runs nodes whose parents are in the store."""

    @property
    def name(self) -> str:
        """What a person calls it: `inline`, `ray (local, 2 CPUs)`."""

    @property
    def capacity(self) -> int:
        """How many nodes are worth having submitted at once."""

    def submit(self, node: Node, *, replace: bool = False) -> None:
        """Take a node; with `replace` its artifact is computed even if it is there."""

    def next(self) -> Done | Failure | Stopped:
        """Wait for one submitted node to end, in whatever order they do."""

    def close(self) -> None:
        """Drop what has not begun, stop what has, give resources back."""


class InlineExecutor:
    """Runs nodes in this process, one at a time, in the order of submission."""

    name = "inline"
    capacity = 1

    def __init__(
        self, store: Store, settings: Settings, report: Report, *, until: float | None = None
    ) -> None:
        self._store = store
        self._settings = settings
        self._report = report
        self._until = until
        self._waiting: deque[tuple[Node, bool]] = deque()

    def submit(self, node: Node, *, replace: bool = False) -> None:
        """Put a node at the end of the line."""
        self._waiting.append((node, replace))

    def next(self) -> Done | Failure | Stopped:
        """Perform the first node in line."""
        from pipeline.work import attempt

        node, replace = self._waiting.popleft()

        def tell(progress: Progress) -> None:
            self._report(node.digest, progress)

        return attempt(node, self._store, self._settings, tell, replace=replace, until=self._until)

    def close(self) -> None:
        """Forget what waits."""
        self._waiting.clear()

"""The inline executor: computes nodes in this process, one at a time."""

from __future__ import annotations

import sys
from collections import deque
from contextlib import redirect_stdout

from pipeline.execution.events import Failure, Result, Retry
from pipeline.execution.executors.base import BEGUN, Report, Smaller, silent_for
from pipeline.execution.settings import Settings
from pipeline.execution.signals import Silent, ended_when_silent
from pipeline.grid.graph import Node
from pipeline.store.store import Store
from tasks.progress import Progress


class InlineExecutor:
    """Computes nodes in this process, in the order of submission."""

    name = "inline"
    capacity = 1

    def __init__(
        self, store: Store, settings: Settings, report: Report, *, until: float | None = None
    ) -> None:
        self._store = store
        self._settings = Smaller(settings)
        self._report = report
        self._until = until
        self._waiting: deque[tuple[Node, bool]] = deque()

    def submit(self, node: Node, *, replace: bool = False) -> None:
        """Append a node to the queue."""
        self._waiting.append((node, replace))

    def next(self, patience_s: float | None = None) -> Result:  # noqa: ARG002  it works meanwhile
        """Compute the first node of the queue."""
        from pipeline.execution.work.attempt import attempt

        node, replace = self._waiting.popleft()

        settings = self._settings.of(node)
        self._report(node.digest, BEGUN)
        try:
            # output of user code goes to stderr, since stdout is for results
            with ended_when_silent(settings.node_timeout_s) as told, redirect_stdout(sys.stderr):

                def tell(progress: Progress) -> None:
                    told()
                    self._report(node.digest, progress)

                result = attempt(
                    node, self._store, settings, tell, replace=replace, until=self._until
                )
        except Silent:
            result = Failure(node.digest, silent_for(settings))
        if isinstance(result, Retry):
            result = self._settings.after(node, result)
        if isinstance(result, Retry):
            self._waiting.appendleft((node, replace))
        return result

    def close(self) -> None:
        """Discard the queue."""
        self._waiting.clear()

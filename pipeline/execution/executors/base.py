"""The executor protocol, and what all executors share.

The inline executor has the same interface as the Ray executor, so a node that fails on a cluster
can be run in a debugger.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from pipeline.execution.events import Failure, Result, Retry
from pipeline.execution.settings import Settings
from pipeline.grid.graph import Node
from tasks.progress import Progress

Report = Callable[[str, Progress], None]
"""Callback for progress: digest of the node, and its progress."""


class Executor(Protocol):
    """Computes nodes whose parents are in the store."""

    @property
    def name(self) -> str:
        """Name for people, such as `inline` or `ray (local, 2 CPUs)`."""

    @property
    def capacity(self) -> int:
        """Number of nodes that should be submitted at the same time to keep it busy."""

    def submit(self, node: Node, *, replace: bool = False) -> None:
        """Queue a node. With `replace` its artifact is computed even if the store has it."""

    def next(self, patience_s: float | None = None) -> Result | None:
        """Wait until an attempt at any submitted node ends.

        After a `Retry` the node remains submitted.

        Args:
            patience_s: Return None if no attempt ended in this time. An executor that does the work
                in this call may take longer.
        """

    def close(self) -> None:
        """Discard queued nodes, stop running ones and release resources."""


BEGUN = Progress(0.0, 1.0, "begun")
"""Progress that an executor reports when a node begins to run."""


def silent_for(settings: Settings) -> str:
    """Failure reason of a node that was terminated by `node_timeout_s`."""
    return f"ended: it reported nothing for {settings.node_timeout_s:g} s (node_timeout_s)"


class Smaller:
    """Settings for each node; the batch size is halved after a node ran out of memory."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._own: dict[str, Settings] = {}

    def of(self, node: Node) -> Settings:
        """The settings for the next attempt at a node."""
        return self._own.get(node.digest, self._settings)

    def after(self, node: Node, again: Retry) -> Retry | Failure:
        """Decide what follows an out-of-memory error: a smaller attempt, or failure."""
        size = self.of(node).of(node.kind).batch_size
        smaller = self.of(node).smaller(node.kind)
        if smaller is None:
            tried = f" with {size} images at once" if node.info.batched else ""
            return Failure(node.digest, f"{again.reason}{tried}", again.reason)
        self._own[node.digest] = smaller
        return Retry(node.digest, f"{again.reason}; now with half the memory", smaller=True)

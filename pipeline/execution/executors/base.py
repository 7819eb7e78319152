"""Where nodes run: the protocol, and the executor that runs them here.

The inline executor has the interface of the big one, so a node that fails on a cluster can be
stepped through in a debugger.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from pipeline.execution.events import Failure, Result, Retry
from pipeline.execution.settings import Settings
from pipeline.grid.graph import Node
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

    def next(self, patience_s: float | None = None) -> Result | None:
        """Wait for an attempt at a submitted node to end, in whatever order they do.

        After `Retry` the node is still submitted. patience_s: None comes back where nothing ended
        for so long; an executor that works while it is asked may take longer.
        """

    def close(self) -> None:
        """Drop what has not begun, stop what has, give resources back."""


BEGUN = Progress(0.0, 1.0, "begun")
"""What an executor tells of a node when its work begins."""


def silent_for(settings: Settings) -> str:
    """Why a node was ended that told nothing."""
    return f"ended: it told nothing for {settings.node_timeout_s:g} s (node_timeout_s)"


class Smaller:
    """With which settings each node runs: what ran out of memory, with half the batch size."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._own: dict[str, Settings] = {}

    def of(self, node: Node) -> Settings:
        """The settings for a node's next attempt."""
        return self._own.get(node.digest, self._settings)

    def after(self, node: Node, again: Retry) -> Retry | Failure:
        """What follows from having run out of memory: a smaller attempt, or none."""
        size = self.of(node).of(node.kind).batch_size
        smaller = self.of(node).smaller(node.kind)
        if smaller is None:
            tried = f" with {size} images at once" if node.info.batched else ""
            return Failure(node.digest, f"{again.reason}{tried}", again.reason)
        self._own[node.digest] = smaller
        return Retry(node.digest, f"{again.reason}; now with half the memory", smaller=True)

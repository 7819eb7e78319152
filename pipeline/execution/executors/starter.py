"""Creates the executors of a run: a local one, and the one that was chosen."""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass

from pipeline.execution.events import NodeProgress
from pipeline.execution.executors.base import Executor
from pipeline.execution.executors.inline import InlineExecutor
from pipeline.execution.settings import Settings
from pipeline.grid.kinds import NODE_KINDS, NodeKind
from pipeline.store.store import Store
from tasks.progress import Progress


@dataclass(frozen=True, kw_only=True)
class Starter:
    """Creates executors.

    Attributes:
        notify: Receives progress events.
        inline: Compute in this process instead of on Ray.
        address: Address of a running Ray cluster.
        workers: Number of CPUs of a local Ray.
        until: Time limit of the run, Unix time in seconds.
        kinds: The kinds of node that the run may compute.
    """

    store: Store
    settings: Settings
    notify: Callable[[NodeProgress], object]
    inline: bool = False
    address: str | None = None
    workers: int | None = None
    until: float | None = None
    kinds: Collection[NodeKind] = NODE_KINDS

    def local(self) -> Executor:
        """An executor in this process, for nodes that read the user's own files."""
        settings = self.settings
        if self.address is not None:
            # the GPUs are the cluster's, and this machine may have none
            settings = settings.model_copy(update={"device": "auto"})
        return InlineExecutor(self.store, settings, self._report, until=self.until)

    def chosen(self) -> Executor:
        """The executor that the options ask for."""
        if self.inline:
            return self.local()
        from pipeline.execution.executors.ray import RayExecutor

        return RayExecutor(
            self.store,
            self.settings,
            self._report,
            address=self.address,
            workers=self.workers,
            until=self.until,
            kinds=self.kinds,
        )

    def _report(self, digest: str, progress: Progress) -> None:
        self.notify(NodeProgress(digest, progress))

"""Which executors a run uses: one on the user's machine, and the one that was asked for."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from pipeline.execution.events import NodeProgress
from pipeline.execution.executors.base import Executor
from pipeline.execution.executors.inline import InlineExecutor
from pipeline.execution.settings import Settings
from pipeline.store.store import Store
from tasks.progress import Progress


@dataclass(frozen=True, kw_only=True)
class Starter:
    """Starts executors.

    notify: told how far nodes are. inline: in this process instead of on Ray; address: of a
    running Ray cluster; workers: CPUs of a local one; until: Unix time, s, to stop at.
    """

    store: Store
    settings: Settings
    notify: Callable[[NodeProgress], object]
    inline: bool = False
    address: str | None = None
    workers: int | None = None
    until: float | None = None

    def local(self) -> Executor:
        """One in this process, for what reads the user's own files."""
        return InlineExecutor(self.store, self.settings, self._report, until=self.until)

    def chosen(self) -> Executor:
        """The one that was asked for."""
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
        )

    def _report(self, digest: str, progress: Progress) -> None:
        self.notify(NodeProgress(digest, progress))

"""What Ray costs where nodes take no time: 2,000 of them whose artifact is already there."""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from harness import Comparison

from pipeline.commands.session import open_session
from pipeline.execution.events import Done
from pipeline.execution.executors.base import Executor
from pipeline.execution.executors.inline import InlineExecutor
from pipeline.execution.executors.ray import RayExecutor
from pipeline.execution.settings import Settings
from pipeline.grid.graph import Node
from tasks.progress import Progress

NODES = 2_000


def comparisons(device: str) -> Iterator[Comparison]:
    """On a local Ray that has started, beside this process."""
    with tempfile.TemporaryDirectory() as folder:
        session = open_session("demo", store=Path(folder) / "store")
        session.store.prepare()
        settings = Settings(device="cpu")
        (node,) = {found.parent("dataset") for found in _models(session.scores.values())}
        inline = InlineExecutor(session.store, settings, _ignore)
        _through(inline, node, 1)
        began = time.perf_counter()
        ray = RayExecutor(session.store, settings, _ignore, workers=os.cpu_count())
        started = time.perf_counter() - began
        calls: dict[str, Callable[[], object]] = {
            "Ray": lambda: _through(ray, node, NODES),
            "inline": lambda: _through(inline, node, NODES),
        }
        try:
            yield Comparison(
                name="ray-overhead",
                what=f"{NODES:,} nodes with nothing to compute",
                amount=NODES,
                unit="nodes",
                contenders=calls,
                ours=tuple(calls),
                told=[f"Ray took {started:.1f} s to start, with {os.cpu_count()} workers"],
            )
        finally:
            ray.close()


def _models(scores: Iterator[Node]) -> Iterator[Node]:
    return (score.parents[0][1].parent("model") for score in scores)


def _through(executor: Executor, node: Node, count: int) -> None:
    """Submit a node so often, never more at once than the executor holds."""
    submitted = ended = 0
    while ended < count:
        while submitted < count and submitted - ended < executor.capacity:
            executor.submit(node)
            submitted += 1
        result = executor.next()
        if not isinstance(result, Done):
            raise RuntimeError(f"the node ended with {result}")  # noqa: TRY004  not a caller's mistake
        ended += 1


def _ignore(digest: str, progress: Progress) -> None:
    """Nobody looks at the progress of a benchmark's nodes."""

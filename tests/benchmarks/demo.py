"""The main job from nothing, `pipeline run --grid demo`: on a local Ray, and in one process."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from functools import partial

from harness import Comparison

WAYS = {"a local Ray": (), "one process": ("--inline",)}


def comparisons(device: str) -> Iterator[Comparison]:
    """Each run in an empty folder: its start, its MLflow database and its report are counted."""
    calls: dict[str, Callable[[], object]] = {
        name: partial(_run, *options) for name, options in WAYS.items()
    }
    yield Comparison(
        name="demo",
        what="the demo grid, from an empty folder to its report",
        amount=1,
        unit="runs",
        contenders=calls,
        ours=("a local Ray",),
        beside="one process",
        warm_ups=0,
    )


def _run(*options: str) -> None:
    with tempfile.TemporaryDirectory(prefix="demo-") as folder:
        command = [sys.executable, "-m", "pipeline", "run", "--grid", "demo", *options]
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"the demo ended with {done.returncode}: {done.stderr[-500:]}")

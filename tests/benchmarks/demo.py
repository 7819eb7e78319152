"""The main job, `pipeline run --grid demo`: on a local Ray and in one process; as estimated."""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

from harness import Comparison

from pipeline.commands.session import open_session
from pipeline.execution.events import Observers

WAYS = {"a local Ray": (), "one process": ("--inline",)}
AGAIN = ("model=demo-mixup", "attack=untargeted-*")


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
    told: list[str] = []
    with tempfile.TemporaryDirectory(prefix="demo-") as folder:
        yield Comparison(
            name="estimate",
            what="defending again what a first run has timed, beside the plan's estimate",
            amount=1,
            unit="runs",
            contenders={"one process": partial(_again, Path(folder), told)},
            ours=("one process",),
            told=told,
        )


def _run(*options: str) -> None:
    with tempfile.TemporaryDirectory(prefix="demo-") as folder:
        command = [sys.executable, "-m", "pipeline", "run", "--grid", "demo", *options]
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"the demo ended with {done.returncode}: {done.stderr[-500:]}")


def _again(folder: Path, told: list[str]) -> None:
    """The defenses of some of the demo's cells, computed again; tell how well that was foreseen."""
    session = open_session("demo", store=folder / "store", only=AGAIN)
    session.store.prepare()
    first = not any(session.store.each())
    forced = session.forced("defend")
    foreseen_s = session.estimate(session.plan(forced)).wall_s
    began = time.monotonic()
    session.run(Observers([]), inline=True, address=None, workers=None, forced=forced)
    took_s = time.monotonic() - began
    if not first:
        told.append(f"estimated {foreseen_s:.1f} s, took {took_s:.1f} s.")

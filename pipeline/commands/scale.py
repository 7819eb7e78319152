"""`pipeline scale`: simulates how a grid scales with the number of workers, and where it stops.

Nothing is computed. The whole grid is simulated as if nothing were stored.
"""

from __future__ import annotations

import csv
import io
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from pipeline.commands.session import Session
from pipeline.grid.kinds import KINDS
from pipeline.observers.tally import Tally
from pipeline.plan.estimate import Estimate
from pipeline.plan.simulation import Overhead, Replay, Task, longest_chain, replay, tasks_of
from pipeline.plan.words import counted, duration
from pipeline.problems import BadInput, writing_to
from pipeline.problems.sanitize import markdown
from pipeline.report.formats.figures.scale import draw_scale

COSTS = Overhead(task_s=0.5, driver_s=0.01)
"""Assumed overhead: start, reading and writing of a task; the driver's time for each task."""
WORSE = (Overhead(task_s=0.1, driver_s=0.002), COSTS, Overhead(task_s=2.0, driver_s=0.05))
SHARDS = (1, 2, 5, 20)
DOUBLED = tuple(1 << power for power in range(11))
STOPS = 1.05
"""Speed-up from doubling the workers below which more of them are useless."""


@dataclass(frozen=True)
class Scaling:
    """Results of simulating a grid with various numbers of workers and sizes of tasks."""

    grid: str
    estimate: Estimate
    asked: tuple[int, ...]
    runs: dict[tuple[int, int], Replay]
    """Simulation by (shards in a task, workers), with the assumed overhead."""
    costly: dict[tuple[Overhead, int], Replay]
    trained: dict[int, Replay]
    """Simulation by number of workers, as if all trainings were done."""
    chain: list[tuple[str, Task]]
    """The critical path: names and tasks of the longest chain."""

    @property
    def chain_s(self) -> float:
        """Duration of the critical path, in seconds."""
        return sum(task.seconds for _, task in self.chain)

    def said(self, workers: int) -> str:
        """One simulation in a line."""
        run = self.runs[1, workers]
        return (
            f"{counted(workers, 'worker')}: {duration(run.wall_s)}, "
            f"{self.runs[1, 1].wall_s / run.wall_s:.1f} times as fast as one, "
            f"{100 * run.use:.0f} % at work"
        )

    def stop(self) -> int:
        """The number of workers beyond which doubling hardly helps."""
        for workers in DOUBLED[:-1]:
            if self.runs[1, workers].wall_s < STOPS * self.runs[1, 2 * workers].wall_s:
                return workers
        return DOUBLED[-1]


def scaling(session: Session, *, device: str | None, workers: Sequence[int]) -> Scaling:
    """Simulate the selected cells of a session; BadInput if no node's duration is known."""
    plan = session.plan(forced={node.digest for node in session.graph})
    estimate = session.estimate(plan, device=device)
    if not estimate.work_s:
        raise BadInput(
            f"nothing tells how long grid '{session.grid.name}' takes on {estimate.device}"
        )
    asked = tuple(sorted(set(workers)))
    tasks = {shards: tasks_of(session.graph, estimate.by_node, shards=shards) for shards in SHARDS}
    runs = {(1, count): replay(tasks[1], count, COSTS) for count in {*DOUBLED, *asked}}
    for shards in SHARDS:
        runs |= {(shards, count): replay(tasks[shards], count, COSTS) for count in asked}
    costly = {(costs, count): replay(tasks[1], count, costs) for costs in WORSE for count in asked}
    rest = {
        digest: 0.0 if session.graph[digest].info.trains else taken
        for digest, taken in estimate.by_node.items()
    }
    untrained = tasks_of(session.graph, rest, shards=1)
    trained = {count: replay(untrained, count, COSTS) for count in asked}
    tally = Tally(time.monotonic, grid=session.grid)
    scores = {node.digest: f"score {name}" for name, node in session.chosen.items()}
    chain = [
        (scores.get(task.nodes[0].digest) or tally.name(task.nodes[0]), task)
        for task in longest_chain(tasks[1], COSTS)
    ]
    return Scaling(session.grid.name, estimate, asked, runs, costly, trained, chain)


def write_scaling(scaling: Scaling, reports: Path) -> Path:
    """Write the page, the numbers and the figure into `reports`/scale; returns the page's path."""
    folder = reports / "scale"
    files: dict[str, Callable[[Path], object]] = {
        "README.md": partial(_write, markdown("\n".join(_page(scaling)) + "\n")),
        "scale.csv": partial(_write, _table(scaling)),
    }
    curve = [(count, scaling.runs[1, count].wall_s / 3600) for count in DOUBLED]
    title = f"Grid '{scaling.grid}' on {scaling.estimate.device}, simulated"
    files["scale.svg"] = partial(draw_scale, curve, scaling.chain_s / 3600, title)
    with writing_to(f"reports {folder}", None):
        folder.mkdir(parents=True, exist_ok=True)
        for name, write in files.items():
            write(folder / name)
    return folder / "README.md"


def _write(text: str, path: Path) -> None:
    path.write_text(text, encoding="utf-8")


def _table(scaling: Scaling) -> str:
    sink = io.StringIO()
    rows = csv.writer(sink, lineterminator="\n")
    rows.writerow(["shards_per_task", "workers", "hours", "speed_up", "use_of_workers"])
    for (shards, workers), run in sorted(scaling.runs.items()):
        speed = scaling.runs[1, 1].wall_s / run.wall_s
        rows.writerow(
            [shards, workers, f"{run.wall_s / 3600:.4f}", f"{speed:.3f}", f"{run.use:.4f}"]
        )
    return sink.getvalue()


def _page(scaling: Scaling) -> Iterator[str]:
    estimate = scaling.estimate
    yield f"# How grid `{scaling.grid}` scales on {estimate.device}"
    yield ""
    yield (
        f"Simulated, not measured: {counted(len(estimate.by_node), 'node')} replayed in the order "
        f"of the real runner, as if nothing were stored. A worker is one device. Written by "
        f"`pipeline scale --grid {scaling.grid}`; numbers in [scale.csv](scale.csv)."
    )
    yield ""
    yield from (f"- {scaling.said(workers)}" for workers in scaling.asked)
    yield ""
    yield "![time against workers](scale.svg)"
    yield ""
    yield "## Where it stops, and why"
    yield ""
    yield from _why(scaling)
    yield ""
    yield "The longest chain, each part of which waits for the one before it:"
    yield ""
    yield from _rows(["node", "time"])
    for name, task in scaling.chain:
        yield "| {} | {} |".format(name.replace("|", "\\|"), duration(task.seconds))
    yield ""
    yield "## How many shards make a task"
    yield ""
    yield from _by_shards(scaling)
    yield ""
    yield "## What it assumes"
    yield ""
    yield from _assumptions(scaling)


def _why(scaling: Scaling) -> Iterator[str]:
    stop = scaling.stop()
    chain = scaling.chain_s
    train = sum(task.seconds for _, task in scaling.chain if KINDS[task.kind].trains)
    one, last = scaling.runs[1, 1], scaling.runs[1, scaling.asked[-1]]
    yield (
        f"Beyond {counted(stop, 'worker')} twice as many are less than {100 * STOPS - 100:.0f} % "
        f"faster. The longest chain takes {duration(chain)}, {100 * train / chain:.0f} % of it one "
        f"training, and no number of workers shortens that: with {last.workers} workers the whole "
        f"grid takes {duration(last.wall_s)}. One worker takes {duration(one.wall_s)}, so the "
        f"chain alone allows at most {one.wall_s / chain:.1f} times its speed."
    )
    yield ""
    if train:
        yield (
            "A training is one node on one device. What would help is a training spread over "
            "several devices, which changes its numbers, or weights that are there already "
            "(`--weights`, `pipeline import`). Then only attacking and defending are left, which "
            "share out until the one driver, which hands out the tasks, is the limit:"
        )
        yield ""
        for workers, run in scaling.trained.items():
            speed = scaling.trained[scaling.asked[0]].wall_s / run.wall_s
            yield (
                f"- {counted(workers, 'worker')}: {duration(run.wall_s)}, {speed:.1f} times as "
                f"fast as {scaling.asked[0]}, {100 * run.use:.0f} % at work"
            )


def _by_shards(scaling: Scaling) -> Iterator[str]:
    yield from _rows(["shards in a task", *(counted(count, "worker") for count in scaling.asked)])
    for shards in SHARDS:
        times = [duration(scaling.runs[shards, count].wall_s) for count in scaling.asked]
        yield f"| {shards} | {' | '.join(times)} |"
    yield ""
    most = scaling.asked[-1]
    gains = {
        count: 1
        - min(scaling.runs[shards, count].wall_s for shards in SHARDS)
        / scaling.runs[1, count].wall_s
        for count in scaling.asked
    }
    best = max(gains, key=lambda count: gains[count])
    yield (
        f"A Ray task is one shard. More in a task would save at most {100 * gains[best]:.0f} % "
        f"({counted(best, 'worker')}) and {100 * gains[most]:.1f} % with {most}, and would lose "
        "more work with each worker that dies."
    )


def _assumptions(scaling: Scaling) -> Iterator[str]:
    for words in scaling.estimate.basis:
        yield f"- Node times: {words}."
    yield (
        f"- A task costs {COSTS.task_s:g} s on its worker beside its nodes (start, reading, "
        f"writing) and {COSTS.driver_s:g} s of the one driver; assumed, not measured. Other costs "
        "are in the table below."
    )
    yield "- Workers are alike, never lost, and share nothing that fills up: no network, no disk."
    yield "- Sharing a device among several nodes neither gains nor loses."
    yield ""
    yield from _rows(
        ["cost of a task, of the driver", *(counted(count, "worker") for count in scaling.asked)]
    )
    for costs in WORSE:
        times = [duration(scaling.costly[costs, count].wall_s) for count in scaling.asked]
        yield f"| {costs.task_s:g} s, {costs.driver_s:g} s | {' | '.join(times)} |"


def _rows(heads: Sequence[str]) -> Iterator[str]:
    yield f"| {' | '.join(heads)} |"
    yield f"| --- |{' ---: |' * (len(heads) - 1)}"

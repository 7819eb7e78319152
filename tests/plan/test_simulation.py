"""Replaying a graph on simulated workers."""

from __future__ import annotations

import csv
import re
from pathlib import Path

import pytest
from click.testing import CliRunner
from tiny import Tiny, write_configs

from pipeline.commands.cli import main
from pipeline.commands.session import open_session
from pipeline.grid.graph import Graph, Node
from pipeline.plan.simulation import Overhead, longest_chain, replay, tasks_of
from tasks.specs import Shard

FREE = Overhead(task_s=0.0, driver_s=0.0)


def node(kind: str, number: int, *parents: Node) -> Node:
    roles = tuple((f"role{place}", parent) for place, parent in enumerate(parents))
    return Node(kind, Shard(start=number, stop=number + 1), roles)  # type: ignore[arg-type]


MODEL = node("train", 0)
CRAFTS = [node("craft", number, MODEL) for number in range(1, 5)]
SCORE = node("score", 9, *CRAFTS)
GRAPH = Graph([SCORE])
SECONDS = {MODEL.digest: 10.0, SCORE.digest: 1.0, **{craft.digest: 4.0 for craft in CRAFTS}}


@pytest.mark.parametrize(("workers", "wall_s"), [(1, 27.0), (2, 19.0), (3, 19.0), (4, 15.0)])
def test_workers_share_what_is_ready_and_no_number_of_them_shortens_the_chain(
    workers: int, wall_s: float
) -> None:
    tasks = tasks_of(GRAPH, SECONDS, shards=1)
    found = replay(tasks, workers, FREE)
    assert found.wall_s == wall_s
    assert found.busy_s == 27.0
    assert found.use == pytest.approx(27 / workers / wall_s)
    assert replay(tasks, 100, FREE).wall_s == 15.0
    assert [task.kind for task in longest_chain(tasks, FREE)] == ["train", "craft", "score"]


def test_tasks_cost_time_and_the_driver_hands_them_out_one_by_one() -> None:
    tasks = tasks_of(GRAPH, SECONDS, shards=1)
    assert replay(tasks, 4, Overhead(task_s=0.5, driver_s=0.0)).wall_s == 16.5
    # the fourth of the crafts is handed out after four times the driver's share
    assert replay(tasks, 4, Overhead(task_s=0.0, driver_s=1.0)).wall_s == 11 + 8 + 2


def test_what_is_stored_costs_nothing_and_nothing_at_all_takes_no_time() -> None:
    left = {SCORE.digest: 1.0}
    assert replay(tasks_of(GRAPH, left, shards=1), 1, FREE).wall_s == 1.0
    empty = tasks_of(GRAPH, {}, shards=1)
    assert (replay(empty, 3, FREE).wall_s, longest_chain(empty, FREE)) == (0.0, [])


@pytest.fixture
def tiny(tmp_path: Path) -> Tiny:
    return Tiny(write_configs(tmp_path / "configs"), tmp_path / "store")


def test_shards_of_the_same_work_share_a_task_and_nothing_is_lost(tmp_path: Path) -> None:
    grid = {
        "grids/wide.yaml": "images: 2200\nredraws: 1\ntables:\n  - name: t\n    models: [wide]\n"
        "    attacks: [pgd]\n    defenses: [none, guo]\n",
        "models/wide.yaml": "dataset: cifar10\nnetwork: {kind: small, width: 4}\nrecipe: short\n",
    }
    configs = write_configs(tmp_path / "configs", grid)
    session = open_session("wide", store=tmp_path / "store", configs=[configs])
    seconds = {node.digest: 1.0 for node in session.graph}
    for shards in (1, 2, 3, 10):
        tasks = tasks_of(session.graph, seconds, shards=shards)
        sizes = {1: [1] * 5, 2: [1, 2, 2], 3: [2, 3], 10: [5]}[shards]
        assert sorted(len(task.nodes) for task in tasks if task.kind == "craft") == sizes
        defends = sorted(len(task.nodes) for task in tasks if task.kind == "defend")
        assert defends == sorted(2 * sizes)
        assert sum(len(task.nodes) for task in tasks) == len(seconds)
        for number, task in enumerate(tasks):
            assert all(before < number for before in task.after)
        assert replay(tasks, 1, FREE).wall_s == len(seconds)


def test_the_command_writes_a_page_that_says_where_it_stops_and_what_it_assumes(
    tiny: Tiny, tmp_path: Path
) -> None:
    words = ["scale", "--grid", "tiny", "--configs", str(tiny.folder), "--store", str(tiny.store)]
    words += ["--for-device", "NVIDIA H100", "--reports", str(tmp_path / "reports")]
    done = CliRunner().invoke(main, words, catch_exceptions=False)
    assert done.exit_code == 0, done.stderr
    assert [line.split(":")[0] for line in done.stdout.splitlines()[:4]] == [
        "1 worker",
        "8 workers",
        "64 workers",
        "512 workers",
    ]
    page = (tmp_path / "reports" / "scale" / "README.md").read_text(encoding="utf-8")
    for words_of_it in ("Simulated, not measured", "Beyond ", "assumed", "train mixed"):
        assert words_of_it in page
    reached = [float(times) for times in re.findall(r"([\d.]+) times as fast as one", page)]
    (allowed,) = re.findall(r"allows at most ([\d.]+) times", page)
    assert len(reached) == 4
    assert max(reached) <= float(allowed)
    with (tmp_path / "reports" / "scale" / "scale.csv").open(encoding="utf-8") as handle:
        rows = list(csv.DictReader(handle))
    assert {"1", "8", "64", "512"} <= {row["workers"] for row in rows}
    assert all(0 < float(row["use_of_workers"]) <= 1 for row in rows)
    assert (tmp_path / "reports" / "scale" / "scale.svg").read_text().startswith("<?xml")
    assert not tiny.store.exists()

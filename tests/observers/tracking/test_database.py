"""MLflow's database: made whole or not at all, and known from any other."""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import shutil
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from stopped import stopped
from test_tracker import GRID, Bench, run

from pipeline.observers.tracking import database
from pipeline.observers.tracking.database import (
    follow_artifacts,
    identity_of,
    make,
    wrong_with_database,
)
from pipeline.observers.tracking.server import default_uri, name_in_ledger, pages, wrong_with
from pipeline.observers.tracking.view import TAG, saved_view


@pytest.fixture
def bench(tmp_path: Path, mlflow_template: Path) -> Bench:
    shutil.copy(mlflow_template, tmp_path / "mlflow.db")
    return Bench(tmp_path)


def whole(address: str, tick: Callable[[str], object] | None = None) -> None:
    """What `make` is given to fill a draft with. tick: called before each statement."""
    path = database.database_path(address)
    assert path is not None
    with sqlite3.connect(path) as made:
        made.set_trace_callback(tick)
        made.execute("CREATE TABLE alembic_version (version_num TEXT)")
        made.execute("CREATE TABLE experiments (name TEXT)")
        made.execute("CREATE TABLE runs (name TEXT)")
        made.execute("INSERT INTO alembic_version VALUES ('head')")
    made.close()


def test_a_database_is_made_beside_its_place_and_nothing_else_is_left(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "mlflow.db"
    seen: list[bool] = []

    def fill(address: str) -> None:
        whole(address)
        seen.append(path.exists())

    assert make(path, fill)
    assert seen == [False]
    assert [entry.name for entry in path.parent.iterdir()] == ["mlflow.db"]
    assert wrong_with_database(path) is None


@pytest.mark.parametrize("dies", ["raise KeyboardInterrupt", "os._exit(9)", "1 / 0"])
def test_a_process_that_dies_while_it_makes_one_leaves_none(tmp_path: Path, dies: str) -> None:
    path = tmp_path / "mlflow.db"
    script = (
        "import os, sqlite3\nfrom pathlib import Path\n"
        "from pipeline.observers.tracking.database import database_path, make\n"
        "def fill(address):\n"
        "    made = sqlite3.connect(database_path(address))\n"
        "    made.execute('CREATE TABLE experiments (name TEXT)')\n    made.commit()\n"
        f"    {dies}\n"
        f"make(Path({str(path)!r}), fill)\n"
    )
    subprocess.run([sys.executable, "-c", script], check=False, capture_output=True, timeout=120)
    assert not path.exists()
    assert wrong_with_database(path) is None
    for left in tmp_path.iterdir():  # of the one that could not tidy up; the next does, in time
        os.utime(left, (0, 0))
    assert make(path, whole)
    assert [entry.name for entry in tmp_path.iterdir()] == ["mlflow.db"]


def make_counting(place: Path) -> None:
    """Make a database, each of whose statements counts as an operation on files."""
    ticks = place / "ticks"
    make(place / "mlflow.db", partial(whole, tick=lambda _: ticks.write_text(".")))


def test_wherever_its_making_is_stopped_there_is_none_or_a_whole_one(tmp_path: Path) -> None:
    stops = 0
    for number in itertools.count():
        place = tmp_path / str(number)
        place.mkdir()
        if not stopped(make_counting, place, number):
            break
        stops += 1
        path = place / "mlflow.db"
        assert wrong_with_database(path) is None
        assert make(path, whole) or path.exists()
        assert wrong_with_database(path) is None
        with contextlib.closing(sqlite3.connect(path)) as connection:
            assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
    assert stops > 6


@pytest.mark.parametrize("links", [True, False])
def test_of_two_that_make_one_at_once_the_first_stands(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, links: bool
) -> None:
    path = tmp_path / "mlflow.db"
    if not links:

        def refused(*_: object) -> None:
            raise OSError("no links here")

        monkeypatch.setattr(os, "link", refused)

    def slow(address: str) -> None:
        whole(address)
        assert make(path, whole)

    assert not make(path, slow)
    assert wrong_with_database(path) is None
    assert [entry.name for entry in tmp_path.iterdir()] == ["mlflow.db"]


def test_an_empty_file_is_no_database_yet_and_becomes_one(tmp_path: Path) -> None:
    path = tmp_path / "mlflow.db"
    path.touch()
    assert wrong_with_database(path) is None
    assert make(path, whole)
    assert not database.is_empty(path)


def _garbage(path: Path) -> None:
    path.write_bytes(b"no database" * 1000)


def _truncated(path: Path) -> None:
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 3])


def _interrupted(path: Path) -> None:
    path.unlink()
    with sqlite3.connect(path) as made:
        made.execute("CREATE TABLE experiments (name TEXT)")
    made.close()


def _unstamped(path: Path) -> None:
    with sqlite3.connect(path) as made:
        made.execute("DELETE FROM alembic_version")
    made.close()


def _half_migrated(path: Path) -> None:
    with sqlite3.connect(path) as made:
        made.execute("UPDATE alembic_version SET version_num = '451aebb31d03'")
    made.close()


def _of_another(path: Path) -> None:
    path.unlink()
    with sqlite3.connect(path) as made:
        made.execute("CREATE TABLE bookmarks (url TEXT)")
    made.close()


def _folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


def _pipe(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (_garbage, "is broken: file is not a database; move it away, and the next run makes"),
        (_truncated, "move it away, and the next run makes a new one"),
        (_interrupted, "is not whole: its making was interrupted; move it away"),
        (_unstamped, "is not whole: its making was interrupted; move it away"),
        (_half_migrated, "is of another version of MLflow: `mlflow db upgrade sqlite:////"),
        (_of_another, "is a database of another program; name another file"),
        (_folder, "is a folder; name a file, such as"),
        (_pipe, "is a pipe or a device, not a file"),
    ],
)
def test_a_database_that_cannot_be_used_is_named_with_the_way_out_and_results_wait(
    bench: Bench, spoil: Any, said: str
) -> None:
    path = bench.folder / "mlflow.db"
    spoil(path)
    began = time.monotonic()
    problem = run(bench, GRID.cells[0]).problem
    assert time.monotonic() - began < 60  # an import of MLflow is in it
    assert problem is not None
    assert said in problem
    assert str(path) in problem
    assert problem.endswith("; 1 cell waits in the store and is logged by the next run")
    assert "\n" not in problem
    # the way out
    path.rmdir() if path.is_dir() else path.unlink()
    assert run(bench).problem is None
    assert len(bench.runs(GRID.cells[0])) == 1


def test_a_folder_in_which_no_database_can_be_created_is_named(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = bench.folder / "mlflow.db"
    path.unlink()
    monkeypatch.setattr("os.access", lambda place, _: place != bench.folder)
    assert run(bench, GRID.cells[0]).problem == (
        f"MLflow at {path} cannot be created: permission denied in {bench.folder}; 1 cell waits "
        "in the store and is logged by the next run"
    )


def test_a_place_below_a_file_is_refused_within_seconds(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    began = time.monotonic()
    problem = wrong_with(default_uri(tmp_path / "file"))
    assert problem is not None
    assert "is no folder, so no database can be made in it" in problem
    for scheme in ("postgresql", "mysql+pymysql", "mssql"):
        said = wrong_with(f"{scheme}://me:hunter2@127.0.0.1:1/x")
        assert said is not None
        assert "does not answer" in said
        assert "hunter2" not in said
    assert time.monotonic() - began < 10


def test_a_deleted_database_at_the_same_address_is_owed_everything_again(bench: Bench) -> None:
    run(bench, *GRID.cells)
    first = identity_of(bench.folder / "mlflow.db")
    assert first is not None
    assert not bench.tracker().owes()
    (bench.folder / "mlflow.db").unlink()
    assert bench.tracker().owes()
    assert run(bench).problem is None
    assert [len(bench.runs(cell)) for cell in GRID.cells] == [1, 1, 1]
    assert identity_of(bench.folder / "mlflow.db") not in {None, first}
    assert not bench.tracker().owes()


def test_another_database_at_the_same_address_is_owed_what_it_was_not_told(
    bench: Bench, mlflow_template: Path
) -> None:
    run(bench, GRID.cells[0])
    kept = bench.folder / "kept.db"
    shutil.copy(bench.folder / "mlflow.db", kept)
    shutil.copy(mlflow_template, bench.folder / "mlflow.db")
    run(bench, GRID.cells[1])
    assert [len(bench.runs(cell)) for cell in GRID.cells[:2]] == [1, 1]
    # and the first one back again knows its own
    shutil.copy(kept, bench.folder / "mlflow.db")
    run(bench)
    assert [len(bench.runs(cell)) for cell in GRID.cells[:2]] == [1, 1]
    assert name_in_ledger(bench.uri, bench.ledger).endswith(str(identity_of(kept)))


def test_two_stores_on_one_database_log_each_result_once(bench: Bench, tmp_path: Path) -> None:
    other = Bench(tmp_path / "other", uri=bench.uri)
    run(bench, *GRID.cells[:2])
    run(other, *GRID.cells)
    assert [len(bench.runs(cell)) for cell in GRID.cells] == [1, 1, 1]
    assert len(bench.trainings()) == 1


def test_two_stores_that_log_at_the_same_time_log_each_result_once(
    bench: Bench, tmp_path: Path
) -> None:
    others = [Bench(tmp_path / name, uri=bench.uri) for name in ("one", "two")]
    threads = [threading.Thread(target=run, args=(each, *GRID.cells)) for each in others]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [len(bench.runs(cell)) for cell in GRID.cells] == [1, 1, 1]
    assert len(bench.trainings()) == 1


@pytest.mark.slow
def test_two_drivers_that_start_on_one_absent_database_both_succeed(tmp_path: Path) -> None:
    script = (
        "import sys\nfrom pipeline.observers.tracking.client import Server\n"
        f"server = Server({default_uri(tmp_path)!r}, 'grid', 'a title')\n"
        "server.begin('run', {'command': 'c'}, 0.0)\nserver.end([], None, 'FINISHED', '', {})\n"
        "print(server.identity)\n"
    )
    command = [sys.executable, "-c", script]
    both = [
        subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        for _ in range(2)
    ]
    said = [process.communicate(timeout=280) for process in both]
    assert [process.returncode for process in both] == [0, 0], said
    assert said[0][0] == said[1][0]
    assert wrong_with_database(tmp_path / "mlflow.db") is None


@pytest.fixture
def report(tmp_path: Path) -> Path:
    """The folder of a report with one file."""
    folder = tmp_path / "report"
    folder.mkdir()
    (folder / "table.md").write_text("| a |", encoding="utf-8")
    return folder


def test_a_folder_that_was_moved_finds_its_artifacts_and_its_runs_go_on(
    bench: Bench, report: Path, tmp_path: Path
) -> None:
    run(bench, *GRID.cells[:1], report=report)
    moved = tmp_path / "elsewhere with a space"
    moved.mkdir()
    for name in ("mlflow.db", "mlartifacts", "store"):
        (tmp_path / name).rename(moved / name)
    after = Bench(moved)
    run(after, *GRID.cells[1:2])
    first, second = after.parents()
    (folder,) = after.client.list_artifacts(first.info.run_id, "report")
    assert folder.path == "report/table.md"
    assert second.info.artifact_uri.startswith((moved / "mlartifacts").as_uri())
    assert after.client.get_experiment_by_name("small").artifact_location == (
        (moved / "mlartifacts").as_uri()
    )


def test_a_copy_leaves_the_addresses_of_what_is_still_there(bench: Bench, tmp_path: Path) -> None:
    run(bench, *GRID.cells[:1])
    copy = tmp_path / "copy"
    copy.mkdir()
    shutil.copy(tmp_path / "mlflow.db", copy)
    for folder in (copy, tmp_path):
        (folder / "mlartifacts").mkdir(exist_ok=True)
    assert not follow_artifacts(copy / "mlflow.db", copy / "mlartifacts")


def test_a_copy_with_its_artifacts_logs_into_its_own_folder(
    bench: Bench, report: Path, tmp_path: Path
) -> None:
    run(bench, *GRID.cells[:1], report=report)
    copy = tmp_path / "copy"
    copy.mkdir()
    shutil.copy(tmp_path / "mlflow.db", copy)
    shutil.copytree(tmp_path / "store", copy / "store")
    shutil.copytree(tmp_path / "mlartifacts", copy / "mlartifacts")
    before = sorted((tmp_path / "mlartifacts").rglob("*"))
    after = Bench(copy)
    run(after, *GRID.cells[1:2], report=report)
    assert sorted((tmp_path / "mlartifacts").rglob("*")) == before
    for each in after.parents():
        assert each.info.artifact_uri.startswith((copy / "mlartifacts").as_uri())
        assert after.client.list_artifacts(each.info.run_id, "report")


def test_the_pages_to_open_first_are_known_without_mlflow(bench: Bench) -> None:
    assert pages(bench.uri, 5001) == {}
    run(bench, *GRID.cells[:1])
    run(bench, *GRID.cells[1:2])
    newest = bench.parents()[-1].info
    experiment = f"http://127.0.0.1:5001/#/experiments/{newest.experiment_id}"
    asked = "workflowType=machine_learning"
    cells = f"{experiment}/runs?{asked}&viewStateShareKey=cells"
    assert pages(bench.uri, 5001) == {
        "cells": cells,
        "last run": f"{experiment}/runs/{newest.run_id}?{asked}",
    }
    # of an earlier version, which saved no view: MLflow would say that there is none
    bench.client.delete_experiment_tag(newest.experiment_id, TAG)
    assert pages(bench.uri, 5001)["cells"] == f"{experiment}/runs?{asked}"


def test_the_view_of_cells_is_renewed_until_somebody_changes_it(bench: Bench) -> None:
    run(bench, GRID.cells[0])
    experiment = bench.client.get_experiment_by_name("small")
    assert experiment.tags[TAG] == saved_view()
    assert len(saved_view()) < 5000  # MLflow takes no more
    older = json.dumps({"name": "Cells", "createdAt": 1, "updatedAt": 1, "state": "{}"})
    theirs = json.dumps({"name": "Cells", "createdAt": 1, "updatedAt": 2, "state": "{}"})
    for cell, found, left in (
        (GRID.cells[1], older, saved_view()),
        (GRID.cells[2], theirs, theirs),
    ):
        bench.client.set_experiment_tag(experiment.experiment_id, TAG, found)
        run(bench, cell)
        assert bench.client.get_experiment_by_name("small").tags[TAG] == left


def test_an_experiment_of_an_earlier_version_opens_as_trainings_too(bench: Bench) -> None:
    run(bench, *GRID.cells[:1])
    experiment = bench.client.get_experiment_by_name("small")
    bench.client.delete_experiment_tag(experiment.experiment_id, "mlflow.experimentKind")
    run(bench, *GRID.cells[1:2])
    tags = bench.client.get_experiment_by_name("small").tags
    assert tags["mlflow.experimentKind"] == "custom_model_development"


OF_MLFLOW_3_1 = """
import sys
from alembic import command
from mlflow.store.db.utils import _get_alembic_config
from mlflow.store.tracking.dbmodels.initial_models import Base
from sqlalchemy import create_engine
Base.metadata.create_all(create_engine(sys.argv[1]))
command.upgrade(_get_alembic_config(sys.argv[1]), "cbc13b556ace")
"""
"""Makes a database as MLflow 3.1 did, the earliest that this program takes."""


@pytest.mark.slow
def test_a_database_of_mlflow_3_1_is_migrated_by_the_first_run_that_logs_to_it(
    tmp_path: Path,
) -> None:
    bench = Bench(tmp_path)
    subprocess.run([sys.executable, "-c", OF_MLFLOW_3_1, bench.uri], check=True, timeout=240)
    version = "SELECT version_num FROM alembic_version"
    with contextlib.closing(sqlite3.connect(tmp_path / "mlflow.db")) as made:
        assert made.execute(version).fetchall() == [("cbc13b556ace",)]
    assert run(bench, GRID.cells[0]).problem is None
    assert len(bench.runs(GRID.cells[0])) == 1
    with contextlib.closing(sqlite3.connect(tmp_path / "mlflow.db")) as made:
        assert made.execute(version).fetchall() != [("cbc13b556ace",)]

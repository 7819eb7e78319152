"""What is told of a run that did not end as it should: in its report, in MLflow, in a notebook."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from tiny import write_configs

import pipeline
from pipeline.commands import run as run_module
from pipeline.commands.cli import main
from pipeline.execution.outcomes import NOT_AGAIN
from pipeline.execution.signals import Interrupted
from pipeline.observers.tracking import tracker as tracker_module
from pipeline.observers.tracking.server import default_uri

MINE = """from pathlib import Path
from tasks.defenses.base import Defense


class Mine(Defense):
    def transform(self, pixels, rows, context):
        if rows.images[0] >= 500 and Path("broken").exists():
            raise OSError("broken")
        return pixels
"""
"""A defense that fails on the second shard of a grid, if a file is there."""
CELL = "mixed/clean/mine"
FAILED = "defense mine: OSError: broken (mine.py:8)"


@pytest.fixture
def folder(working_folder: Path) -> Path:
    """A working folder with the tiny grid, `mine.py` and an empty MLflow database."""
    (working_folder / "mine.py").write_text(MINE)
    write_configs(working_folder / "configs")
    return working_folder


def run(*words: str, **how: Any) -> Result:
    typed = ["run", "--grid", "tiny", "--inline", "--quiet", "--add", "defense=mine.py"]
    chosen = ["--only", "attack=clean", "--only", "defense=mine"]
    return CliRunner().invoke(main, [*typed, *chosen, *words], **how)


def parents(folder: Path) -> list[Any]:
    """The runs of invocations in MLflow, oldest first."""
    from mlflow import MlflowClient

    client = MlflowClient(tracking_uri=default_uri(folder))
    experiment = client.get_experiment_by_name("tiny")
    order = ["attributes.start_time ASC"]
    found = client.search_runs([experiment.experiment_id], order_by=order)
    return [each for each in found if "command" in each.data.tags]


def test_a_score_that_a_forced_run_failed_to_replace_is_not_shown(folder: Path) -> None:
    first = json.loads(run("--json").stdout)
    assert [cell["accuracy"] for cell in first["cells"]]
    (folder / "broken").touch()
    told = json.loads(run("--json", "--force").stdout)
    assert told["cells"] == []
    assert told["missing"] == {CELL: FAILED}
    table = (folder / "reports" / "tiny" / "main.md").read_text()
    assert "| mixed | mine | 2 | – [2] |" in table
    assert f"[2] {FAILED}" in table.replace("\\", "")
    assert f"{first['cells'][0]['accuracy']:.1f}" not in table
    entries = [json.loads(path.read_text()) for path in sorted(folder.glob("store/ledger/*.json"))]
    assert [entry["cells"][CELL]["facts"] is None for entry in entries] == [False, True]
    metrics = [parent.data.metrics for parent in parents(folder)]
    assert [f"accuracy/{CELL}" in each for each in metrics] == [True, False]
    # whoever asks for no replacement gets what is stored
    again = json.loads(run("--json").stdout)
    assert [c["accuracy"] for c in again["cells"]] == [c["accuracy"] for c in first["cells"]]


def test_a_notebook_is_not_shown_a_score_that_was_to_be_replaced(folder: Path) -> None:
    session = pipeline.load_grid("tiny", add=["defense=mine.py"], only=[f"cell={CELL}"])

    def shown() -> list[tuple[object, object]]:
        frame = pipeline.results(session)
        row = frame.filter((frame["defense"] == "mine") & (frame["attack"] == "clean"))
        return row.select("accuracy", "missing").rows()

    pipeline.run(session, inline=True, progress=False)
    before = shown()
    assert before[0][1] is None
    (folder / "broken").touch()
    pipeline.run(session, inline=True, progress=False, force=True)
    assert shown() == [(None, FAILED)]
    (folder / "broken").unlink()
    pipeline.run(session, inline=True, progress=False, force=True)
    assert shown() == before


def test_a_score_that_a_stopped_forced_run_did_not_reach_is_not_shown(folder: Path) -> None:
    run()
    told = json.loads(run("--json", "--force", "--stop-after", "0.0001").stdout)
    assert told["interrupted"]
    assert told["cells"] == []
    assert told["missing"] == {CELL: NOT_AGAIN}


@pytest.mark.parametrize(
    ("error", "status"), [(Interrupted(), "KILLED"), (ValueError("a bug"), "FAILED")]
)
def test_what_ends_the_program_in_its_report_ends_the_run_in_mlflow(
    folder: Path, monkeypatch: pytest.MonkeyPatch, error: BaseException, status: str
) -> None:
    def end(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr(run_module, "report_grid", end)
    assert run("--images", "20").exit_code != 0
    assert [parent.info.status for parent in parents(folder)] == [status]


def test_a_database_that_is_not_there_is_not_named_as_the_place_of_results(folder: Path) -> None:
    assert f"MLflow  {default_uri(folder)}" in "".join(run().stderr.splitlines())
    (folder / "file").touch()
    result = run("--force", "--mlflow", default_uri(folder / "file"))
    assert result.exit_code == 2
    assert "so no database can be made in it; 1 cell waits in the store" in result.stderr
    assert "MLflow  " not in result.stderr


def test_a_ctrl_c_while_mlflow_is_waited_for_leaves_no_run_open(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wait = tracker_module.wait_for
    waited: list[object] = []

    def interrupted(*given: Any) -> None:
        waited.append(given)
        if len(waited) == 1:
            raise Interrupted
        wait(*given)

    monkeypatch.setattr(tracker_module, "wait_for", interrupted)
    assert run("--images", "20").exit_code != 0
    assert len(waited) == 2
    assert "RUNNING" not in [parent.info.status for parent in parents(folder)]


@pytest.mark.parametrize("words", [(), ("--json",)])
def test_a_run_whose_reader_is_gone_is_finished_in_mlflow(
    folder: Path, monkeypatch: pytest.MonkeyPatch, words: tuple[str, ...]
) -> None:
    def gone(*_: object, **__: object) -> None:
        # as Rich ends the program when its output is closed
        try:
            raise BrokenPipeError  # noqa: TRY301
        except BrokenPipeError:
            raise SystemExit(1)  # noqa: B904

    monkeypatch.setattr("pipeline.commands.report.print_json", gone)
    monkeypatch.setattr("pipeline.commands.report._print", gone)
    monkeypatch.setattr("pipeline.commands.report.discard_stdout", lambda: None)
    assert run(*words).exit_code == 4
    (parent,) = parents(folder)
    assert parent.info.status == "FINISHED"
    assert Path("reports/tiny/index.html").is_file()


def test_the_objects_of_a_program_that_ends_are_not_collected() -> None:
    # what is registered first runs last
    script = (
        "import atexit, gc\n"
        "atexit.register(lambda: print(gc.get_freeze_count() > 0))\n"
        "from pipeline.commands.cli import main\n"
        "main(['list', 'grids'])\n"
    )
    done = subprocess.run([sys.executable, "-c", script], stdout=subprocess.PIPE, check=True)
    assert done.stdout.splitlines()[-1] == b"True"


@pytest.mark.parametrize("stream", ["2>&-", "2>/dev/full", "2>&- >&-", ">/dev/full"])
def test_a_run_whose_messages_cannot_be_written_computes_its_cells(
    folder: Path, stream: str
) -> None:
    words = "run --grid tiny --inline --only model=mixed --only attack=clean --only defense=none"
    done = subprocess.run(
        ["sh", "-c", f"{sys.executable} -m pipeline {words} {stream}"],
        capture_output=True,
        check=False,
    )
    assert done.returncode == (4 if stream == ">/dev/full" else 0)
    if stream == ">/dev/full":
        assert b"error: stdout cannot be written: no space left on device" in done.stderr
    (parent,) = parents(folder)
    assert parent.info.status == "FINISHED"
    assert Path("reports/tiny/index.html").is_file()


def test_a_report_that_can_no_longer_be_written_is_no_wrong_usage(folder: Path) -> None:
    Path("reports/tiny/index.html").mkdir(parents=True)
    result = run()
    assert result.exit_code == 1
    assert "error: reports reports/tiny: is a directory" in result.stderr

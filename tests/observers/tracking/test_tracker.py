from __future__ import annotations

import getpass
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import partial
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest
import torch
from cells import digits_cell, graph_of

from pipeline.execution.events import CellScored, Done, NodeDone, RunFinished, RunStarted
from pipeline.grid.cells import Cell, Grid, Table
from pipeline.grid.graph import Node
from pipeline.observers.tracking import tracker as tracker_module
from pipeline.observers.tracking.results import Results
from pipeline.observers.tracking.runs import metric_names, score_key
from pipeline.observers.tracking.server import answers, default_uri, name_in_ledger, ui
from pipeline.observers.tracking.tracker import Tracker
from pipeline.problems import BadInput
from pipeline.problems.sanitize import without_secrets
from pipeline.store.arrow import write_tensors
from pipeline.store.leases import process_mark
from pipeline.store.ledger import Ledger
from pipeline.store.store import Store
from tasks.attacks.clean import Clean
from tasks.attacks.fgsm import FGSM
from tasks.defenses.chain import Chain
from tasks.defenses.gaussian import Gaussian
from tasks.defenses.none import NoDefense
from tasks.networks.small import Small
from tasks.training.recipe import Recipe, TrainSpec

DEAD = "http://127.0.0.1:1"
VERSION = "0.1.0"
HISTORY = [{"loss": 2.0, "accuracy": 0.5}, {"loss": 1.0, "accuracy": 0.75}]


def make_cell(attack: str, defense: str) -> Cell:
    attacks = {"clean": Clean(), "fgsm": FGSM(epsilon=8.0)}
    noise = Gaussian(draws=4)
    defenses = {"none": NoDefense(), "noise": noise, "noise+noise": Chain(parts=(noise, noise))}
    network, recipe = Small(width=2), Recipe(epochs=2, learning_rate=0.1)
    return digits_cell(
        "little",
        (attack, attacks[attack]),
        (defense, defenses[defense]),
        images=700,
        redraws=2,
        model_spec=TrainSpec(network=network, recipe=recipe),
    )


def make_grid(*cells: Cell) -> Grid:
    table = Table("table-1", "A table", ("little",), ("clean", "fgsm"), ("none",), None, None)
    return Grid("small", "A small grid", cells, (table,))


GRID = make_grid(
    make_cell("clean", "none"), make_cell("fgsm", "none"), make_cell("fgsm", "noise+noise")
)


@dataclass
class Bench:
    """A store, a ledger and a database; what is put has the form that `work` gives it.

    right: of cells, whether the answer for each image is right; weights: whether a training has
    weights, which are no network's.
    """

    folder: Path
    grid: Grid = GRID
    uri: str = ""
    right: dict[str, list[int]] = field(default_factory=dict)
    weights: bool = False
    store: Store = field(init=False)

    def __post_init__(self) -> None:
        self.store = Store(self.folder / "store")
        self.ledger = Ledger(self.store.backend)
        self.scores = graph_of(self.grid.cells)[1]
        self.uri = self.uri or default_uri(self.folder)

    def tracker(self, **changes: Any) -> Tracker:
        given: dict[str, Any] = {
            "ledger": Ledger(self.store.backend),
            "store": self.store,
            "grid": self.grid,
            "scores": self.scores,
            "command": ["pipeline", "run", "--grid", "small"],
            "version": VERSION,
        } | changes
        return Tracker(given.pop("uri", self.uri), **given)

    def compute(self, tracker: Tracker, *cells: Cell, accuracy: float = 50.0) -> RunFinished:
        """What a run of these cells would put and tell."""
        tracker.notify(RunStarted(self.grid, {}, 0, "inline"))
        for cell in cells:
            self._perform(self.scores[cell.name], tracker, accuracy)
        finished = RunFinished(self.grid, {}, {}, {}, 1.0)
        tracker.notify(finished)
        return finished

    def _perform(self, node: Node, tracker: Tracker, accuracy: float) -> None:
        if self.store.record(node.kind, node.digest) is not None:
            return
        for _, parent in node.parents:
            self._perform(parent, tracker, accuracy)
        facts: dict[str, object] = {"images": 700}
        files = {"data.json": partial(write, json.dumps([node.kind, accuracy]))}
        if node.kind == "train":
            files["history.json"] = partial(write, json.dumps(HISTORY))
            if self.weights:
                files["weights.safetensors"] = partial(write, "none")
            facts = {"epochs": 2, "timings": {"seconds": [3.0, 4.0]}}
        if node.kind == "score":
            facts |= {"accuracy": accuracy, "interval": [40.0, 60.0], "spread": None}
            for name, right in self.right.items():
                if self.scores[name] == node:
                    files["per_image.arrow"] = partial(write_answers, right)
        how = {
            "seconds": 2.0,
            "forwards": 10,
            "backwards": 5 if node.kind == "craft" else 0,
            "device": "test CPU",
            "instructions": "AVX2",
            "versions": {"test-time-defense-bench": "0.0.9", "torch": "2.0"},
        }
        record = self.store.put(node.identity, files, lineage={}, facts=facts, how=how)
        done = Done(node.digest, record.content, record.facts, record.how)
        tracker.notify(NodeDone(node, done))
        for cell in self.grid.cells:
            if self.scores[cell.name] == node:
                tracker.notify(CellScored(cell, node, facts, None, computed=True))

    @property
    def client(self) -> Any:
        from mlflow import MlflowClient

        return MlflowClient(tracking_uri=self.uri)

    def runs(self, cell: Cell | None = None) -> list[Any]:
        """All runs of the grid's experiment, or those of a cell, oldest first."""
        experiment = self.client.get_experiment_by_name(self.grid.name)
        if experiment is None:
            return []
        query = f"tags.cell = '{cell.name}'" if cell else ""
        order = ["attributes.start_time ASC"]
        return list(self.client.search_runs([experiment.experiment_id], query, order_by=order))

    def parents(self) -> list[Any]:
        return [run for run in self.runs() if "command" in run.data.tags]

    def trainings(self) -> list[Any]:
        return [run for run in self.runs() if run.info.run_name == "train little"]


def write(text: str, path: Path) -> None:
    path.write_text(text, encoding="utf-8")


def write_answers(right: list[int], path: Path) -> None:
    ids = torch.arange(len(right))
    correct = torch.tensor(right)[:, None]
    write_tensors(path, {"ids": ids, "labels": ids % 10, "correct": correct}, {})


@pytest.fixture
def bench(tmp_path: Path, mlflow_template: Path) -> Bench:
    shutil.copy(mlflow_template, tmp_path / "mlflow.db")
    return Bench(tmp_path)


def run(bench: Bench, *cells: Cell, report: Path | None = None, **changes: Any) -> Tracker:
    tracker = bench.tracker(**changes)
    bench.compute(tracker, *cells)
    tracker.finish(report)
    return tracker


def test_warnings_of_mlflows_libraries_stay_hidden_when_another_thread_restores_its_filters(
    tmp_path: Path,
) -> None:
    bench = Bench(tmp_path)
    tracker = bench.tracker()
    # what computes opens such a block while the thread of the tracker imports MLflow
    with warnings.catch_warnings():
        bench.compute(tracker, GRID.cells[0])
        tracker.settle()
    words = "SOCKS support in urllib3 requires the installation of optional dependencies"
    warnings.warn_explicit(words, UserWarning, "x.py", 1, module="urllib3.contrib.socks")
    warnings.warn_explicit("another of MLflow", FutureWarning, "x.py", 1, module="mlflow.utils")
    tracker.close()


def test_an_invocation_that_computed_nothing_and_owes_nothing_does_not_import_mlflow(
    tmp_path: Path,
) -> None:
    script = f"""
import sys
from pathlib import Path
from pipeline.execution.events import RunFinished
from pipeline.grid.cells import Grid
from pipeline.store.ledger import Ledger
from pipeline.store.store import Store
from pipeline.observers.tracking.tracker import Tracker
root = Path({str(tmp_path)!r})
grid = Grid("small", "", (), ())
store = Store(root)
tracker = Tracker("sqlite:///" + str(root / "mlflow.db"), ledger=Ledger(store.backend), store=store,
                  grid=grid, scores={{}}, command=["pipeline"], version="1")
tracker.notify(RunFinished(grid, {{}}, {{}}, {{}}, 0.0))
assert not tracker.owes()
tracker.finish()
tracker.close()
assert tracker.problem is None
assert not [name for name in sys.modules if name.partition(".")[0] == "mlflow"]
assert not (root / "mlflow.db").exists()
"""
    subprocess.run([sys.executable, "-c", script], check=True, cwd=Path(__file__).parents[3])


def test_a_result_becomes_a_child_run_once_though_two_invocations_see_it(bench: Bench) -> None:
    first, second, third = GRID.cells
    assert run(bench, first, second).problem is None
    tracker = run(bench, third)
    assert tracker.problem is None
    assert not tracker.owes()
    assert [len(bench.runs(cell)) for cell in GRID.cells] == [1, 1, 1]
    assert len(bench.trainings()) == 1
    parents = [parent.info.run_id for parent in bench.parents()]
    assert len(parents) == 2
    assert bench.runs(first)[0].data.tags["mlflow.parentRunId"] == parents[0]
    assert bench.runs(third)[0].data.tags["mlflow.parentRunId"] == parents[1]


def test_an_invocation_with_nothing_to_do_opens_no_run(bench: Bench) -> None:
    run(bench, *GRID.cells)
    before = len(bench.runs())
    run(bench)
    assert len(bench.runs()) == before


def test_a_score_that_changed_becomes_another_child_run(bench: Bench) -> None:
    cell = GRID.cells[0]
    run(bench, cell)
    node = bench.scores[cell.name]
    bench.store.set_aside("score", node.digest)
    tracker = bench.tracker()
    bench.compute(tracker, cell, accuracy=70.0)
    tracker.finish()
    assert [child.data.metrics["accuracy"] for child in bench.runs(cell)] == [50.0, 70.0]


def test_two_cells_that_share_a_score_have_a_child_run_each(bench: Bench) -> None:
    cell = GRID.cells[0]
    twin = replace(cell, attack="untouched")
    bench = Bench(bench.folder, grid=make_grid(cell, twin))
    run(bench, cell)
    assert bench.scores[cell.name] == bench.scores[twin.name]
    assert [len(bench.runs(one)) for one in (cell, twin)] == [1, 1]


def test_a_crash_between_the_run_and_the_ledgers_mark_leaves_no_duplicate(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    def crash(self: Ledger, server: str, key: str, run_id: str) -> None:
        raise OSError("killed here")

    with monkeypatch.context() as patched:
        patched.setattr(Ledger, "mark_logged", crash)
        tracker = run(bench, GRID.cells[0])
    assert tracker.problem is not None
    assert "killed here" in tracker.problem
    assert bench.tracker().owes()
    tracker = run(bench)
    assert tracker.problem is None
    assert not tracker.owes()
    assert len(bench.runs(GRID.cells[0])) == 1
    assert len(bench.trainings()) == 1


def test_a_child_run_that_a_crash_left_empty_is_filled(bench: Bench) -> None:
    cell = GRID.cells[0]
    run(bench, cell)
    child = bench.runs(cell)[0].info.run_id
    key = bench.runs(cell)[0].data.tags["key"]
    experiment = bench.runs(cell)[0].info.experiment_id
    bench.client.delete_run(child)
    tags = {"cell": cell.name, "key": key}
    left = bench.client.create_run(experiment, tags=tags).info.run_id
    shutil.rmtree(bench.store.root / "ledger" / "logged")
    run(bench)
    (found,) = bench.runs(cell)
    assert found.info.run_id == left
    assert found.info.status == "FINISHED"
    assert found.data.metrics["accuracy"] == 50.0


def test_what_a_server_that_does_not_answer_missed_is_logged_by_the_next_run(
    bench: Bench,
) -> None:
    tracker = run(bench, *GRID.cells, uri=DEAD)
    expected = f"MLflow at {DEAD} does not answer; 3 cells wait in the store"
    assert tracker.problem == f"{expected} and are logged by the next run"
    # the same address, had it come back, is owed the same as one that never knew
    assert bench.tracker(uri=DEAD).owes()
    assert run(bench).problem is None
    assert [len(bench.runs(cell)) for cell in GRID.cells] == [1, 1, 1]
    assert len(bench.parents()) == 1


def test_a_server_that_comes_up_before_the_end_of_the_run_gets_everything(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []

    def down_at_first(uri: str) -> str | None:
        asked.append(uri)
        return f"{uri} does not answer" if len(asked) == 1 else None

    monkeypatch.setattr("pipeline.observers.tracking.tracker.wrong_with", down_at_first)
    tracker = run(bench, *GRID.cells)
    assert tracker.problem is None
    assert [len(bench.runs(cell)) for cell in GRID.cells] == [1, 1, 1]


@pytest.fixture
def broken_server() -> Any:
    """A web server that is no MLflow: it answers everything with an error."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_error(404, "not here")

        do_POST = do_GET  # noqa: N815

        def log_message(self, *args: object) -> None:
            pass

    server = HTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    thread.join()
    server.server_close()


def test_a_web_server_that_is_no_mlflow_is_named_in_one_line(
    bench: Bench, broken_server: str
) -> None:
    problem = run(bench, GRID.cells[0], uri=broken_server).problem
    assert problem is not None
    assert problem.startswith(f"MLflow at {broken_server} cannot be used: ")
    assert problem.endswith("; 1 cell waits in the store and is logged by the next run")
    assert "\n" not in problem


@pytest.mark.parametrize("uri", ["localhost:5000", "htp://host", "http://[half"])
def test_a_malformed_address_is_named_in_one_line(bench: Bench, uri: str) -> None:
    problem = run(bench, GRID.cells[0], uri=uri).problem
    assert problem is not None
    assert problem.startswith(f"MLflow at {uri} ")
    assert "1 cell waits" in problem
    assert "\n" not in problem


def test_a_password_in_an_address_is_never_shown(bench: Bench) -> None:
    uri = "http://me:secret@127.0.0.1:1/x"
    assert without_secrets(uri) == "http://127.0.0.1:1/x"
    problem = run(bench, GRID.cells[0], uri=uri).problem
    assert problem is not None
    assert "secret" not in problem


def test_a_child_run_has_the_cells_parameters_metrics_and_tags(bench: Bench) -> None:
    cell = GRID.cells[2]
    run(bench, cell)
    (child,) = bench.runs(cell)
    parameters = child.data.params
    expected = {
        "model": "little",
        "attack": "fgsm",
        "defense": "noise+noise",
        "images": "700",
        "redraws": "2",
        "precision": "float32",
        "attack.kind": "fgsm",
        "attack.epsilon": "8.0",
        "defense.kind": "chain",
        "defense.parts.1.kind": "gaussian",
        "defense.parts.1.draws": "4",
        "model.network.width": "2",
        "model.recipe.milestones": "[100, 150]",
    }
    assert expected.items() <= parameters.items()
    metrics = child.data.metrics
    assert metrics["accuracy"] == 50.0
    assert (metrics["interval_low"], metrics["interval_high"]) == (40.0, 60.0)
    assert "spread" not in metrics
    # 700 images are two shards: two crafts, two defends and a score
    assert metrics["seconds"] == 10.0
    assert metrics["craft_seconds"] == 4.0
    assert metrics["backwards"] == metrics["craft_backwards"] == 10.0
    assert metrics["defend_forwards"] == 20.0
    node = bench.scores[cell.name]
    record = bench.store.record("score", node.digest)
    assert record is not None
    tags = child.data.tags
    assert tags["digest"] == node.digest
    assert tags["content"] == record.content
    assert tags["version"] == "0.0.9"
    assert tags["grid"] == "small"
    assert tags["tables"] == ""
    assert (tags["device"], tags["instructions"]) == ("test CPU", "AVX2")
    assert child.info.run_name == cell.name
    assert child.info.status == "FINISHED"
    assert child.info.end_time - child.info.start_time == 2000
    assert (
        bench.ledger.logged_as(name_in_ledger(bench.uri, bench.ledger), score_key(cell, record))
        == child.info.run_id
    )


def test_a_child_run_names_the_tables_that_its_cell_is_in(bench: Bench) -> None:
    run(bench, GRID.cells[0])
    assert bench.runs(GRID.cells[0])[0].data.tags["tables"] == "table-1"


def test_a_child_run_tells_its_cell_in_a_sentence_and_how_to_compute_it_again(
    bench: Bench,
) -> None:
    cell = GRID.cells[2]
    run(bench, cell, again=["--images", "60"])
    note = bench.runs(cell)[0].data.tags["mlflow.note.content"]
    assert note == (
        "**50.0 %** (95 % interval 40.0 to 60.0): noise+noise on little under fgsm, "
        "700 images of digits.\n\n"
        "    pipeline run --grid small --only cell=little/fgsm/noise+noise --force "
        "--images 60"
    )


def test_the_data_of_runs_are_data_sets_that_can_be_searched(bench: Bench) -> None:
    cell = GRID.cells[0]
    run(bench, cell)
    (child,), (training,) = bench.runs(cell), bench.trainings()
    seen = {}
    for one in (child, training):
        (given,) = one.inputs.dataset_inputs
        (tag,) = given.tags
        seen[tag.value] = (given.dataset.name, json.loads(given.dataset.profile)["classes"])
        features = json.loads(json.loads(given.dataset.schema)["mlflow_tensorspec"]["features"])
        assert features[0]["tensor-spec"] == {"dtype": "uint8", "shape": [-1, 1, 8, 8]}
    assert seen == {"test": ("digits", 10), "training": ("digits", 10)}
    node = bench.scores[cell.name].parent("shard0").parent("model").parent("dataset")
    experiment = child.info.experiment_id
    asked = f"dataset.name = 'digits' AND dataset.digest = '{node.digest[:36]}'"
    assert len(bench.client.search_runs([experiment], asked)) == 2


def test_a_parents_description_has_the_command_the_moved_cells_and_the_tables(
    bench: Bench, tmp_path: Path
) -> None:
    report = tmp_path / "report"
    report.mkdir()
    (report / "table1.md").write_text("## First\n\n| a |\n\n![plot](x.svg)\n", encoding="utf-8")
    (report / "README.md").write_text("everything", encoding="utf-8")
    cell = GRID.cells[0]
    run(bench, cell)
    bench.store.set_aside("score", bench.scores[cell.name].digest)
    tracker = bench.tracker()
    notify = tracker.notify

    def with_before(event: Any) -> None:
        if isinstance(event, CellScored):
            event = replace(event, before={"accuracy": 50.0, "images": 700})
        notify(event)

    tracker.notify = with_before  # type: ignore[method-assign]
    bench.compute(tracker, cell, accuracy=70.0)
    tracker.finish(report)
    latest = bench.parents()[-1]
    assert latest.data.params == {"grid": "small", "executor": "inline", "version": VERSION}
    note = latest.data.tags["mlflow.note.content"]
    experiment = bench.client.get_experiment_by_name("small")
    assert experiment.tags["mlflow.experimentKind"] == "custom_model_development"
    assert experiment.tags["mlflow.note.content"] == "A small grid"
    assert note.startswith("### A small grid\n\n1 of 3 cells scored; computed now: 1 score.")
    assert "    pipeline run --grid small" in note
    assert "#### Cells that moved\n\n    little/clean/none  50.0 → 70.0 %" in note
    assert note.endswith("## First\n\n| a |")


def test_what_is_logged_can_be_waited_for_before_the_report_is_written(bench: Bench) -> None:
    tracker = bench.tracker()
    tracker.settle()  # nothing to wait for
    bench.compute(tracker, *GRID.cells)
    tracker.settle()
    assert [len(bench.runs(cell)) for cell in GRID.cells] == [1, 1, 1]
    assert bench.parents()[0].info.status == "RUNNING"
    tracker.finish()
    assert bench.parents()[0].info.status == "FINISHED"
    tracker.settle()


def test_only_a_web_servers_runs_have_links(bench: Bench) -> None:
    run(bench, *GRID.cells)
    web = "http://me:secret@127.0.0.1:5000/"
    known = Results(GRID, bench.scores, bench.store, bench.ledger, without_secrets(web))
    assert known.links(web) == {}
    cell = GRID.cells[0]
    record = bench.store.record("score", bench.scores[cell.name].digest)
    assert record is not None
    bench.ledger.mark_logged(without_secrets(web), score_key(cell, record), "0123")
    assert known.links(web) == {cell.name: "http://127.0.0.1:5000/#/runs/0123"}
    local = Results(GRID, bench.scores, bench.store, bench.ledger, without_secrets(bench.uri))
    assert local.links(bench.uri) == {}


def test_a_training_is_logged_with_a_point_for_each_epoch(bench: Bench) -> None:
    run(bench, *GRID.cells[:2])
    (training,) = bench.trainings()
    history = partial(bench.client.get_metric_history, training.info.run_id)
    assert [(p.step, p.value) for p in history("epoch/loss")] == [(1, 2.0), (2, 1.0)]
    assert [(p.step, p.value) for p in history("epoch/accuracy")] == [(1, 0.5), (2, 0.75)]
    assert [(p.step, p.value) for p in history("epoch/seconds")] == [(1, 3.0), (2, 4.0)]
    assert training.data.params["model.recipe.epochs"] == "2"
    assert training.data.params["model.network.kind"] == "small"


def test_every_parent_has_a_metric_for_each_cell_cached_ones_included(
    bench: Bench, tmp_path: Path
) -> None:
    first, second, third = GRID.cells
    report = tmp_path / "report"
    (report / "figures").mkdir(parents=True)
    (report / "figures" / "table.md").write_text("| a |", encoding="utf-8")
    run(bench, first, second, report=report)
    run(bench, third)
    older, newer = bench.parents()
    clean, fgsm = "accuracy/little/clean/none", "accuracy/little/fgsm/none"
    noise = "accuracy/little/fgsm/noise_noise"
    assert older.data.metrics[clean] == newer.data.metrics[clean] == 50.0
    assert fgsm in older.data.metrics
    assert noise not in older.data.metrics
    assert newer.data.metrics[noise] == 50.0
    assert older.data.metrics["computed/score"] == 2
    assert newer.data.metrics["computed/score"] == 1
    assert "computed/train" not in newer.data.metrics
    tags = older.data.tags
    assert tags["command"] == "pipeline run --grid small"
    assert (tags["version"], tags["executor"]) == (VERSION, "inline")
    assert older.info.run_name.startswith("small 2")
    assert older.info.status == "FINISHED"
    (folder,) = bench.client.list_artifacts(older.info.run_id, "report")
    assert folder.path == "report/figures"
    stored = bench.folder / "mlartifacts" / older.info.run_id / "artifacts" / "report"
    assert (stored / "figures" / "table.md").read_text(encoding="utf-8") == "| a |"


def test_parents_and_cells_have_what_all_attacks_of_their_grid_leave(bench: Bench) -> None:
    clean, fgsm, defended = GRID.cells
    right = {clean.name: [1, 1, 1, 1], fgsm.name: [1, 0, 1, 0], defended.name: [1, 1, 1, 0]}
    bench.right |= right
    run(bench, clean)
    assert "all_attacks" not in bench.runs(clean)[0].data.metrics  # nothing attacked it yet
    run(bench, fgsm, defended)
    worst = {"all_attacks/little/none": 50.0, "all_attacks/little/noise_noise": 75.0}
    newest = bench.parents()[-1].data.metrics
    assert {key: value for key, value in newest.items() if key.startswith("all_attacks/")} == worst
    told = {cell: bench.runs(cell)[0].data.metrics["all_attacks"] for cell in GRID.cells}
    assert told == {clean: 50.0, fgsm: 50.0, defended: 75.0}
    # what a cell knows already it is not told again
    again = replace(defended, attack="fgsm-again", redraws=1)
    more = Bench(bench.folder, grid=make_grid(*GRID.cells, again))
    more.right |= {**right, again.name: [0, 0, 1, 0]}
    run(more, again)
    history = bench.client.get_metric_history
    told_of = {
        cell: [point.value for point in history(bench.runs(cell)[0].info.run_id, "all_attacks")]
        for cell in GRID.cells
    }
    assert told_of == {clean: [50.0], fgsm: [50.0], defended: [75.0, 25.0]}


def test_what_all_attacks_leave_is_told_for_each_ball(bench: Bench) -> None:
    small = make_cell("fgsm", "none")
    large = replace(small, attack="fgsm-16", attack_spec=FGSM(epsilon=16.0))
    bench = Bench(bench.folder, grid=make_grid(small, large))
    bench.right |= {small.name: [1, 0, 1, 0], large.name: [0, 0, 1, 0]}
    run(bench, small, large)
    told = bench.parents()[-1].data.metrics
    assert {key: value for key, value in told.items() if key.startswith("all_attacks/")} == {
        "all_attacks/little/none/linf 8": 50.0,
        "all_attacks/little/none/linf 16": 25.0,
    }
    assert bench.runs(small)[0].data.metrics["all_attacks"] == 50.0
    assert bench.runs(large)[0].data.metrics["all_attacks"] == 25.0


def test_a_cell_that_grids_share_keeps_what_all_attacks_leave_of_the_grid_it_is_a_run_of(
    bench: Bench,
) -> None:
    bench.right |= {GRID.cells[1].name: [1, 0, 1, 0]}
    run(bench, GRID.cells[1])
    other = replace(make_cell("fgsm", "none"), attack="harder", redraws=1)
    grid = replace(make_grid(GRID.cells[1], other), name="larger")
    larger = Bench(bench.folder, grid=grid)
    larger.right |= {GRID.cells[1].name: [1, 0, 1, 0], other.name: [0, 0, 1, 0]}
    run(larger, other)
    assert larger.runs(other)[0].data.metrics["all_attacks"] == 25.0
    assert bench.runs(GRID.cells[1])[0].data.metrics["all_attacks"] == 50.0


def test_a_cell_whose_run_was_deleted_is_told_nothing_more(bench: Bench) -> None:
    fgsm, defended = GRID.cells[1:]
    bench.right |= {fgsm.name: [1, 0, 1, 0], defended.name: [1, 1, 1, 0]}
    run(bench, fgsm)
    bench.client.delete_run(bench.runs(fgsm)[0].info.run_id)
    for mark in (bench.store.root / "ledger" / "logged").rglob("*-worst-*"):
        mark.unlink()
    tracker = run(bench, defended)
    assert tracker.problem is None
    assert len(bench.runs(defended)) == 1


def test_a_training_whose_run_was_deleted_is_registered_no_more(bench: Bench) -> None:
    """The run before was killed after the training was logged, and before it was registered."""
    fgsm, defended = GRID.cells[1:]
    bench.weights = True
    assert run(bench, fgsm).problem is None
    (training,) = bench.trainings()
    assert "not_registered" in training.data.tags
    for mark in (bench.store.root / "ledger" / "logged").rglob("*-model"):
        mark.unlink()
    bench.client.delete_run(training.info.run_id)
    assert run(bench, defended).problem is None
    assert not bench.tracker().owes()
    assert len(bench.runs(defended)) == 1


def test_a_database_that_another_program_holds_is_not_to_be_moved_away(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    def locked(*_: object) -> None:
        raise RuntimeError("(sqlite3.OperationalError) database is locked")

    monkeypatch.setattr(tracker_module, "Server", locked)
    tracker = run(bench, GRID.cells[0])
    assert tracker.problem is not None
    assert "database is locked; 1 cell waits in the store" in tracker.problem
    monkeypatch.undo()
    assert run(bench, GRID.cells[1]).problem is None
    assert len(bench.runs(GRID.cells[0])) == 1


def test_a_user_without_a_name_logs_under_a_number(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As in a container that runs with a number for its user."""

    def nameless() -> str:
        raise KeyError("uid not found: 4711")

    monkeypatch.setattr(getpass, "getuser", nameless)
    monkeypatch.setattr("os.getuid", lambda: 4711)
    assert run(bench, GRID.cells[0]).problem is None
    assert {each.data.tags["mlflow.user"] for each in bench.runs()} == {"4711"}


@pytest.mark.parametrize(
    ("change", "status"),
    [
        (lambda end: replace(end, interrupted=True), "KILLED"),
        (lambda end: replace(end, missing={"x": "failed"}), "FAILED"),
    ],
)
def test_a_parent_tells_how_the_run_ended(
    bench: Bench, change: Callable[[RunFinished], RunFinished], status: str
) -> None:
    tracker = bench.tracker()
    tracker.notify(change(bench.compute(tracker, GRID.cells[0])))
    tracker.finish()
    assert [parent.info.status for parent in bench.parents()] == [status]


def test_a_tracker_that_is_only_closed_ends_what_it_began(bench: Bench) -> None:
    tracker = bench.tracker()
    bench.compute(tracker, GRID.cells[0])
    tracker.close()
    assert [parent.info.status for parent in bench.parents()] == ["FINISHED"]


def test_an_experiment_that_was_deleted_comes_back(bench: Bench) -> None:
    run(bench, GRID.cells[0])
    experiment = bench.client.get_experiment_by_name("small").experiment_id
    bench.client.delete_experiment(experiment)
    assert run(bench, GRID.cells[1]).problem is None
    assert len(bench.runs(GRID.cells[1])) == 1


def test_a_store_that_was_moved_does_not_log_its_results_again(bench: Bench) -> None:
    run(bench, GRID.cells[0])
    shutil.rmtree(bench.store.root / "ledger")
    assert bench.tracker().owes()
    run(bench)
    assert len(bench.runs(GRID.cells[0])) == 1


def test_metric_names_of_different_cells_stay_different() -> None:
    names = metric_names("accuracy", ["m/a+b/c", "m/a*b/c", "m//..", "m/" + 300 * "x"])
    assert names["m/a+b/c"] == "accuracy/m/a_b/c"
    assert len(set(names.values())) == 4
    assert names["m//.."] == "accuracy/m/_/_"
    assert max(map(len, names.values())) < 250


def test_the_pages_are_refused_a_port_that_is_taken(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(BadInput, match=f"--port {port}: address already in use"):
            ui(default_uri(tmp_path), port)


def test_the_pages_of_a_web_server_are_its_own() -> None:
    with pytest.raises(BadInput, match=r"http://host:5000 has pages of its own"):
        ui("http://me:secret@host:5000", 5001)


def test_the_default_database_survives_a_folder_with_odd_characters(
    tmp_path: Path, mlflow_template: Path
) -> None:
    folder = tmp_path / "50% of what? é"
    folder.mkdir()
    shutil.copy(mlflow_template, folder / "mlflow.db")
    bench = Bench(folder)
    assert run(bench, GRID.cells[0]).problem is None
    assert list(tmp_path.rglob("mlflow.db")) == [folder / "mlflow.db"]
    assert len(bench.runs(GRID.cells[0])) == 1


@pytest.mark.slow
def test_the_pages_take_runs_over_http_and_end_at_ctrl_c(
    bench: Bench, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    # what a shell starts in the background ignores Ctrl-C, and so would its children
    script = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler); "
    script += "from pipeline.observers.tracking.server import ui; "
    script += f"raise SystemExit(ui({bench.uri!r}, {port}))"
    pages = subprocess.Popen([sys.executable, "-c", script], stderr=subprocess.PIPE, text=True)
    report = tmp_path / "report"
    report.mkdir()
    (report / "table.md").write_text("| a |", encoding="utf-8")
    try:
        web = f"http://127.0.0.1:{port}"
        while not answers(web):
            assert pages.poll() is None
            time.sleep(0.5)
        tracker = run(bench, *GRID.cells, uri=web, report=report)
        assert tracker.problem is None
        assert not bench.tracker(uri=web).owes()
        experiment = bench.client.get_experiment_by_name("small").experiment_id
        cells = f"{web}/#/experiments/{experiment}/runs?workflowType=machine_learning"
        assert tracker.page == f"{cells}&viewStateShareKey=cells"
        assert [len(bench.runs(cell)) for cell in GRID.cells] == [1, 1, 1]
        (parent,) = bench.parents()
        assert [file.path for file in bench.client.list_artifacts(parent.info.run_id)] == ["report"]
        assert "| a |" in parent.data.tags["mlflow.note.content"]
        known = name_in_ledger(web, bench.ledger)
        links = Results(GRID, bench.scores, bench.store, bench.ledger, known).links(web)
        child = bench.runs(GRID.cells[0])[0]
        assert links[GRID.cells[0].name] == f"{web}/#/runs/{child.info.run_id}"
        assert child.inputs.dataset_inputs
    finally:
        pages.send_signal(signal.SIGINT)
        _, said = pages.communicate(timeout=60)
    assert "Traceback" not in said
    assert capfd.readouterr() == ("", "")
    assert not answers(web)


def test_a_run_ends_what_a_killed_process_of_this_machine_left_running(bench: Bench) -> None:
    sleeper = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    run(bench, *GRID.cells[:1])
    (first,) = bench.parents()
    experiment = first.info.experiment_id
    marks = {"alive": process_mark(os.getpid()), "killed": process_mark(sleeper.pid)}
    marks["of another machine"] = marks["killed"].replace("-", "", 1)
    left = {
        name: bench.client.create_run(experiment, tags={"process": mark}).info.run_id
        for name, mark in marks.items()
    }
    sleeper.kill()
    sleeper.wait()
    run(bench, *GRID.cells[:2])
    assert {name: bench.client.get_run(each).info.status for name, each in left.items()} == {
        "alive": "RUNNING",
        "killed": "KILLED",
        "of another machine": "RUNNING",
    }

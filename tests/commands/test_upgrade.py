"""A store, configs and a defense of before an upgrade: what `docs/upgrade.md` says of them.

A version that goes up adds its cells and lines here, and its row there.
"""

from __future__ import annotations

import json
import tarfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

import pipeline
from pipeline.commands.cli import main
from pipeline.observers.tracking.server import default_uri, pages
from pipeline.observers.tracking.view import TAG
from pipeline.problems import BadInput
from pipeline.store.records import RENAMED

UPGRADE = Path(__file__).parents[1] / "upgrade"
BEFORE = UPGRADE / "before.tar.xz"
LOGGED = UPGRADE / "mlflow.tar.xz"
"""What runs of before logged to MLflow and added to the store."""
AGAIN = {"of-numbers/clean/none"}
"""Cells whose results changed: numbers for names of classes had been in another order."""
OWN = {"of-letters/clean/brighten", "of-letters/pgd/brighten"}
"""Cells of a defense of one's own, whose code is also what it imports of the program."""


class Home:
    """The folder of someone who upgrades."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        with tarfile.open(BEFORE) as archive:
            archive.extractall(folder, filter="data")
        self.before: Mapping[str, Any] = json.loads((folder / "scored.json").read_text())

    def facts(self, name: str = "mine") -> Mapping[str, Mapping[str, object]]:
        """What each cell of a grid scored before."""
        return self.before[name]["facts"]

    def session(self, name: str = "mine") -> Any:
        folder = self.folder
        return pipeline.load_grid(name, store=folder / "store", configs=[folder / "configs"])

    def plan(self, *words: str) -> str:
        folder = self.folder
        places = ["--store", str(folder / "store"), "--configs", str(folder / "configs")]
        done = CliRunner().invoke(main, ["plan", "--grid", "mine", *places, *words])
        assert done.exit_code == 0, done.output
        return done.stdout


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Home:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return Home(tmp_path)


def as_read_now(facts: dict[str, object]) -> dict[str, object]:
    """Facts under their names of today."""
    return {RENAMED.get(name, name): value for name, value in facts.items()}


def test_what_is_not_touched_is_read_as_before(home: Home) -> None:
    session = home.session()
    todo = session.plan().todo
    kept = {name for name, node in session.scores.items() if node.digest not in todo}
    assert kept == home.facts().keys() - AGAIN - OWN
    for name in kept:
        assert session.scores[name].digest == home.before["mine"]["scores"][name]
        assert session.facts()[name] == as_read_now(home.facts()[name])


def test_plan_says_what_is_computed_again_and_why(home: Home) -> None:
    said = home.plan().splitlines()
    assert {line for line in said if line.count("/") == 2 and " " not in line} == AGAIN | OWN
    assert [line for line in said if line.startswith("changed since ")] == [
        (
            "changed since 1 cell had a score: "
            "dataset.class_names: alphabetical order → ['1', '2', '10']"
        ),
        (
            "changed since 1 cell had a score: dataset: DatasetSpec: version 1 → 2: "
            "classes named by numbers are in numerical order"
        ),
        "changed since 2 cells had a score: defend: the code of Brighten changed",
    ]
    changed = json.loads(home.plan("--json"))["changed"]
    assert (
        changed[
            "dataset: DatasetSpec: version 1 → 2: classes named by numbers are in numerical order"
        ]
        == 1
    )


def test_what_is_computed_again_is_right_and_the_old_stays(home: Home) -> None:
    session = home.session()
    finished = pipeline.run(session, inline=True, progress=False)
    assert not finished.missing
    # the images that a report shows are newer than this store
    assert finished.computed == {
        "dataset": 1, "checkpoint": 1, "defend": 3, "score": 3, "exhibit": 1
    }  # fmt: skip
    for name in OWN:
        # the same code of one's own on the same code of ours, so far as it counts
        for key in ("accuracy", "true_probability"):
            assert finished.scored[name][key] == home.facts()[name][key]
    # the classes 1, 2 and 10 hold the images of a, b and c
    [new], letters = AGAIN, "of-letters/clean/none"
    assert finished.scored[new]["true_probability"] == home.facts()[letters]["true_probability"]
    assert finished.scored[new]["true_probability"] != home.facts()[new]["true_probability"]
    assert session.store.record("score", home.before["mine"]["scores"][new]) is not None
    assert home.session().plan().todo == {}


def test_an_old_order_that_is_named_has_its_old_numbers(home: Home) -> None:
    dataset = home.folder / "configs" / "datasets" / "numbers.yaml"
    dataset.write_text(dataset.read_text().replace("classes: 3", 'classes: ["1", "10", "2"]'))
    session = home.session()
    [name] = AGAIN
    assert session.scores[name].digest == home.before["mine"]["scores"][name]
    assert session.facts()[name] == as_read_now(home.facts()[name])


def test_what_was_ambiguous_is_refused_until_it_is_said(home: Home) -> None:
    with pytest.raises(BadInput, match="several image columns: mask, image; say which: image_col"):
        home.session("masks")
    dataset = home.folder / "configs" / "datasets" / "masks.yaml"
    dataset.write_text(dataset.read_text() + "image_column: image\n")
    [name] = home.facts("masks")
    finished = pipeline.run(home.session("masks"), inline=True, progress=False)
    # the same images are those of the other table, whose number stands as it was
    letters = home.facts()["of-letters/clean/none"]["true_probability"]
    assert finished.scored[name]["true_probability"] == letters


class Logged(Home):
    """The same after two runs of before: of `mine`, and of `trained`, which trains a network."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        with tarfile.open(LOGGED) as archive:
            archive.extractall(folder, filter="data")

    @property
    def uri(self) -> str:
        return default_uri(self.folder)

    @property
    def client(self) -> Any:
        from mlflow import MlflowClient

        return MlflowClient(tracking_uri=self.uri, registry_uri=self.uri)

    def runs(self, grid: str) -> list[Any]:
        """Oldest first."""
        found = self.client.get_experiment_by_name(grid).experiment_id
        return list(self.client.search_runs([found], order_by=["attributes.start_time ASC"]))

    def run(self, grid: str) -> str:
        done = CliRunner().invoke(main, ["run", "--grid", grid, "--inline", "--quiet"])
        assert done.exit_code == 0, done.output
        return done.output


@pytest.fixture
def logged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mlflow_template: Path) -> Logged:
    assert mlflow_template.exists()  # MLflow is at work, and its warnings are dealt with
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return Logged(tmp_path)


def test_a_database_of_before_opens_at_its_last_run(logged: Logged) -> None:
    last = logged.runs("trained")[-1].info
    names = [run.info.run_name.partition(" 2")[0] for run in logged.runs("trained")]
    assert sorted(names) == ["train trained", "trained", "trained/clean/none", "trained/pgd/none"]
    parent = next(run.info for run in logged.runs("trained") if "command" in run.data.tags)
    found = pages(logged.uri, 5000)
    assert f"/runs/{parent.run_id}?" in found["last run"]
    # it has no view of its cells yet
    assert found["cells"].endswith(f"/{last.experiment_id}/runs?workflowType=machine_learning")


def test_a_run_goes_on_in_a_database_of_before_and_logs_nothing_twice(logged: Logged) -> None:
    before = {run.info.run_id: run for run in logged.runs("trained")}
    old = next(run for run in before.values() if "command" in run.data.tags)
    said = logged.run("trained")
    assert "not be used" not in said
    after = {run.info.run_id: run for run in logged.runs("trained")}
    (new,) = (after[name] for name in after.keys() - before.keys())
    assert "command" in new.data.tags
    # the same cells and the same training, under their parent of before
    for name, run in before.items():
        assert after[name].data.params == run.data.params
        assert after[name].data.metrics.items() >= run.data.metrics.items()
        assert after[name].data.tags.get("mlflow.parentRunId") in {None, old.info.run_id}
    (cell,) = (run for run in after.values() if run.info.run_name == "trained/pgd/none")
    assert cell.data.metrics["all_attacks"] == new.data.metrics["all_attacks/trained/none"]
    assert len(logged.client.search_model_versions("name = 'trained'")) == 1
    assert TAG in logged.client.get_experiment_by_name("trained").tags
    # and once more there is nothing to tell
    logged.run("trained")
    assert logged.runs("trained")[-1].info.run_id in after


def test_artifacts_of_before_are_found_where_they_are_now(logged: Logged) -> None:
    assert "/home/" in logged.client.get_experiment_by_name("trained").artifact_location
    logged.run("trained")
    old = next(run for run in logged.runs("trained") if "command" in run.data.tags)
    (file,) = logged.client.list_artifacts(old.info.run_id, "report")
    text = Path(logged.client.download_artifacts(old.info.run_id, file.path)).read_text("utf-8")
    assert "trained" in text
    (version,) = logged.client.search_model_versions("name = 'trained'")
    assert version.source.startswith((logged.folder / "mlartifacts").as_uri())


def test_what_is_computed_again_is_logged_beside_what_was_before(logged: Logged) -> None:
    logged.run("mine")
    [name] = AGAIN
    runs = [run for run in logged.runs("mine") if run.data.tags.get("cell") == name]
    assert len({run.data.tags["digest"] for run in runs}) == len(runs) == 2
    kept = [
        run for run in logged.runs("mine") if run.data.tags.get("cell") == "averaged/clean/none"
    ]
    assert len(kept) == 1

"""Networks on a tracking server: what comes back is what was scored."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny import Tiny, write_configs

from pipeline.execution.events import Observers
from pipeline.observers.tracking.models import registered_name
from pipeline.observers.tracking.server import default_uri
from pipeline.observers.tracking.tracker import Tracker
from tasks.data.arrays import as_float
from tasks.data.splits import digits


def tracked(tiny: Tiny, uri: str, **changes: Any) -> Tracker:
    session = tiny.session(only=["cell=mixed/clean/none"])
    session.store.prepare()
    tracker = Tracker(
        uri,
        ledger=session.ledger,
        store=session.store,
        grid=session.grid,
        scores=session.scores,
        command=["pipeline", "run"],
        version="0",
        **changes,
    )
    session.run(Observers([tracker]), inline=True, address=None, workers=None, forced=set())
    tracker.finish()
    return tracker


@pytest.fixture
def tiny(tmp_path: Path) -> Tiny:
    return Tiny(write_configs(tmp_path / "configs"), tmp_path / "store")


@pytest.fixture
def uri(tmp_path: Path, mlflow_template: Path) -> str:
    shutil.copy(mlflow_template, tmp_path / "mlflow.db")
    return default_uri(tmp_path)


def client_of(uri: str) -> Any:
    from mlflow import MlflowClient

    return MlflowClient(tracking_uri=uri, registry_uri=uri)


def test_a_registered_network_answers_test_images_as_scored_and_holds_no_pickle(
    tiny: Tiny, uri: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    import mlflow.pytorch

    assert tracked(tiny, uri).problem is None
    (version,) = client_of(uri).search_model_versions("name = 'mixed'")
    assert version.tags["dataset"] == "digits"
    run = client_of(uri).get_run(version.run_id)
    assert run.info.run_name == "train mixed"
    assert "not_registered" not in run.data.tags
    # MLflow then looks into the archive, and refuses one with a pickle in it
    monkeypatch.setenv("MLFLOW_ALLOW_PICKLE_DESERIALIZATION", "false")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    network = mlflow.pytorch.load_model("models:/mixed/1")
    test = digits().test[:520]
    with torch.inference_mode():
        right = network(as_float(test.pixels)).argmax(dim=1) == test.labels
    scored = tiny.session().facts()["mixed/clean/none"]["accuracy"]
    assert 100 * right.double().mean().item() == pytest.approx(scored, abs=1e-9)


def test_a_network_is_registered_once_even_if_the_ledger_forgot(tiny: Tiny, uri: str) -> None:
    tracked(tiny, uri)
    tracker = tracked(tiny, uri)
    assert not tracker.owes()
    shutil.rmtree(tiny.store / "ledger" / "logged")
    assert tracked(tiny, uri).problem is None
    assert len(client_of(uri).search_model_versions("name = 'mixed'")) == 1


def test_a_database_that_was_replaced_gets_no_network_of_a_run_that_it_does_not_know(
    tiny: Tiny, uri: str, tmp_path: Path, mlflow_template: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patched:
        patched.setattr(Tracker, "_register", lambda *_: None)
        assert tracked(tiny, uri).owes()
    shutil.copy(mlflow_template, tmp_path / "mlflow.db")
    tracker = tracked(tiny, uri)
    assert tracker.problem is None
    assert not tracker.owes()
    # what the new database was not told of is logged once more, run and network together
    client = client_of(uri)
    for version in client.search_model_versions(""):
        assert client.get_run(version.run_id).info.run_id == version.run_id


def test_a_network_that_cannot_be_traced_is_told_on_its_run_and_everything_else_is_logged(
    tiny: Tiny, uri: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise RuntimeError("no trace\nfollows this")

    monkeypatch.setattr("pipeline.observers.tracking.models.network", refuse)
    tracker = tracked(tiny, uri)
    assert tracker.problem is None
    assert not tracker.owes()
    experiment = client_of(uri).get_experiment_by_name("tiny").experiment_id
    runs = client_of(uri).search_runs([experiment])
    told = {run.info.run_name: run.data.tags.get("not_registered") for run in runs}
    assert told["train mixed"] == "no trace follows this"
    assert "mixed/clean/none" in told
    # what the new database was not told of is logged once more, run and network together
    client = client_of(uri)
    for version in client.search_model_versions(""):
        assert client.get_run(version.run_id).info.run_id == version.run_id


def test_the_machine_is_watched_only_on_request(
    tiny: Tiny, uri: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("psutil", reason="psutil is not installed")
    monkeypatch.setenv("MLFLOW_SYSTEM_METRICS_SAMPLING_INTERVAL", "0.05")
    tracked(tiny, uri, system_metrics=True)
    experiment = client_of(uri).get_experiment_by_name("tiny").experiment_id
    (parent,) = client_of(uri).search_runs([experiment], "tags.command LIKE 'pipeline%'")
    assert "system/cpu_utilization_percentage" in parent.data.metrics
    history = client_of(uri).get_metric_history(
        parent.info.run_id, "system/cpu_utilization_percentage"
    )
    assert [metric.step for metric in history] == list(range(len(history)))


@pytest.mark.parametrize(
    ("model", "name"), [("demo-iat", "demo-iat"), ("a/b:c'd", "a-b-c-d"), ("é1.5+x", "é1.5+x")]
)
def test_a_models_name_loses_what_a_registry_does_not_allow(model: str, name: str) -> None:
    assert registered_name(model) == name

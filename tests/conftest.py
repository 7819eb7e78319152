"""Fixtures that several test modules share."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from shared_files import shared_file
from torch import nn
from torch.nn.functional import cross_entropy


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    """Two torch threads beside another process are far slower than one."""
    torch.set_num_threads(1)


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Whoever asks for `shared`, itself or by way of another fixture, bears its marker."""
    for item in items:
        if "shared" in getattr(item, "fixturenames", ()):
            item.add_marker("shared")


@pytest.fixture(scope="session")
def shared() -> Callable[[str], Path]:
    """Real data and models by their place; see `shared_files`."""
    return shared_file


@pytest.fixture(scope="session")
def network() -> nn.Module:
    """A small trained network that reads the digits, in float32; nobody may change it."""
    from tasks.data.arrays import as_float
    from tasks.data.splits import digits

    train = digits().train
    pixels, labels = as_float(train.pixels), train.labels
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = nn.Sequential(
            nn.Conv2d(1, 8, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(8, 16, 3, stride=2, padding=1),
            nn.ReLU(),
            nn.Flatten(),
            nn.Linear(256, 10),
        )
        optimizer = torch.optim.Adam(network.parameters(), lr=0.01)
        for _ in range(5):
            for batch in torch.randperm(len(labels)).split(64):
                optimizer.zero_grad()
                cross_entropy(network(pixels[batch]), labels[batch]).backward()
                optimizer.step()
    network.eval().requires_grad_(False)
    assert (network(pixels).argmax(dim=1) == labels).float().mean() > 0.9
    return network


@pytest.fixture(scope="session")
def mlflow_template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An empty MLflow database, to be copied: making one takes seconds."""
    from pipeline.observers.tracking.server import QUIET, default_uri

    for name, value in QUIET.items():
        os.environ.setdefault(name, value)
    folder = tmp_path_factory.mktemp("mlflow")
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", module=r"mlflow\.")
        from mlflow import MlflowClient

        MlflowClient(tracking_uri=default_uri(folder)).search_experiments()
    return folder / "mlflow.db"


@pytest.fixture
def working_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mlflow_template: Path) -> Path:
    """The current folder of the test, with an empty MLflow database that commands use."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    (tmp_path / "mlflow.db").write_bytes(mlflow_template.read_bytes())
    return tmp_path

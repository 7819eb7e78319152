"""Fixtures that several test modules share."""

from __future__ import annotations

import os
import warnings
from pathlib import Path

import pytest


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    """Two torch threads beside another process are far slower than one."""
    import torch

    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def mlflow_template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An empty MLflow database, to be copied: making one takes seconds."""
    from pipeline.tracking_server import QUIET, default_uri

    for name, value in QUIET.items():
        os.environ.setdefault(name, value)
    folder = tmp_path_factory.mktemp("mlflow")
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", module=r"mlflow\.")
        from mlflow import MlflowClient

        MlflowClient(tracking_uri=default_uri(folder)).search_experiments()
    return folder / "mlflow.db"

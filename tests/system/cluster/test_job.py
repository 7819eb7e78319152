"""A job that is submitted to a cluster of its own: of one that lost a machine, Ray may ask that."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
from test_cluster import PIPELINE, Bench, bench
from tiny import data_files

ROOT = Path(__file__).parents[3]

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]

__all__ = ["bench"]


def test_a_job_that_is_submitted_to_the_cluster_computes_the_grid(bench: Bench) -> None:
    """The command of docs/cluster.md, with a small grid."""
    store = bench.folder / "job"
    command = [str(PIPELINE.with_name("ray")), "job", "submit"]
    command += ["--address", f"http://127.0.0.1:{bench.cluster.dashboard}", "--working-dir", "."]
    command += ["--", "python", "-m", "pipeline", "run", "--address", "auto", "--grid", "tiny"]
    command += ["--configs", str(bench.folder / "configs"), "--store", str(store)]
    command += ["--mlflow", f"sqlite:///{bench.folder / 'mlflow.db'}"]
    command += ["--reports", str(bench.folder / "job-reports")]
    for _ in range(4):
        done = subprocess.run(
            command,
            cwd=ROOT,
            env=bench.cluster.environment,
            capture_output=True,
            text=True,
            check=False,
            timeout=1200,
        )
        # Ray's own server of jobs gives up early on a busy machine
        if "status code 504" not in done.stderr:
            break
    assert done.returncode == 0, done.stdout + done.stderr
    assert "succeeded" in done.stdout
    assert data_files(store) == bench.inline

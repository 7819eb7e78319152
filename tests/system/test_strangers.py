"""The program among strangers: other people's modules and a dead cluster's leftovers."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
from tiny import data_files, write_configs

PIPELINE = Path(sys.executable).with_name("pipeline")
LEFTOVERS = {
    "ray_current_cluster": "127.0.0.1:6399",
    "session_latest": "session_2020-01-01_00-00-00_000000_1",
}


@pytest.fixture
def leftovers() -> Iterator[Path]:
    """A temporary folder in which a Ray cluster died: its address, and a link to its session."""
    # Ray keeps sockets in there, so its path must be short
    folder = Path(tempfile.mkdtemp(prefix="t"))
    (folder / "ray" / LEFTOVERS["session_latest"] / "sockets").mkdir(parents=True)
    (folder / "ray" / "ray_current_cluster").write_text(LEFTOVERS["ray_current_cluster"])
    (folder / "ray" / "session_latest").symlink_to(folder / "ray" / LEFTOVERS["session_latest"])
    yield folder
    shutil.rmtree(folder, ignore_errors=True)


@pytest.mark.slow
def test_unrelated_modules_and_a_dead_cluster_change_nothing(
    tmp_path: Path, leftovers: Path
) -> None:
    """Ray puts the driver's folder first on its workers' path, and both names are common."""
    there = tmp_path / "there"
    there.mkdir()
    for name in ("tasks.py", "pipeline.py"):
        (there / name).write_text("raise SystemExit('the wrong module was imported')\n")
    configs = write_configs(tmp_path / "configs")
    stores = {}
    environment = {**os.environ, "TMPDIR": str(leftovers), "RAY_TMPDIR": str(leftovers)}
    for how in (["--inline"], ["--workers", "2"]):
        store = tmp_path / how[0].strip("-")
        command = [str(PIPELINE), "run", "--grid", "tiny", "--configs", str(configs), *how]
        command += ["--store", str(store), "--reports", str(tmp_path / "reports")]
        done = subprocess.run(
            command, cwd=there, env=environment, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr
        stores[how[0]] = (done.stdout, data_files(store))
    assert stores["--inline"] == stores["--workers"]


@pytest.mark.parametrize(
    ("words", "code", "before"),
    [
        (["-m", "pipeline", "list", "grids"], 2, "error: "),
        (["-c", "import pipeline; pipeline.load_grid()"], 1, "ImportError: "),
    ],
)
def test_a_foreign_module_that_hides_ours_is_named_in_one_line(
    tmp_path: Path, words: list[str], code: int, before: str
) -> None:
    """The program's own command does not look into the current folder; Python itself does."""
    (tmp_path / "tasks.py").write_text("raise SystemExit('the wrong module was imported')\n")
    done = subprocess.run(
        [sys.executable, *words], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == code
    *trace, last = done.stderr.splitlines()
    assert last.startswith(f"{before}the package 'tasks' of this program is hidden by another ")
    assert str(tmp_path / "tasks.py") in last
    assert not trace or words[0] == "-c"


@pytest.mark.slow
def test_the_mlflow_pages_answer_on_the_loopback_address_only(tmp_path: Path) -> None:
    """`pipeline ui` serves what a run logged, on 127.0.0.1."""
    configs = write_configs(tmp_path / "configs")
    run = [str(PIPELINE), "run", "--grid", "tiny", "--inline", "--only", "defense=none"]
    subprocess.run([*run, "--configs", str(configs)], cwd=tmp_path, check=True, capture_output=True)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    pages = subprocess.Popen(
        [str(PIPELINE), "ui", "--port", str(port)],
        cwd=tmp_path,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        address = f"http://127.0.0.1:{port}"
        body = json.dumps({"max_results": 10}).encode()
        request = urllib.request.Request(
            f"{address}/api/2.0/mlflow/experiments/search",
            data=body,
            headers={"Content-Type": "application/json"},
        )
        deadline = time.monotonic() + 120
        while True:
            try:
                with urllib.request.urlopen(request, timeout=5) as answer:
                    found = json.load(answer)
                break
            except OSError:
                assert pages.poll() is None
                assert time.monotonic() < deadline
                time.sleep(1)
        assert "tiny" in {experiment["name"] for experiment in found["experiments"]}
        listening = subprocess.run(
            ["ss", "-ltnH", f"sport = :{port}"], capture_output=True, text=True, check=False
        ).stdout
        assert all("127.0.0.1" in line for line in listening.splitlines())
    finally:
        pages.terminate()
        pages.wait(timeout=30)
    with socket.socket() as probe:
        assert probe.connect_ex(("127.0.0.1", port)) != 0

"""A disk that runs full, or a store that can no longer be written, in the middle of a run."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from tiny import write_configs

from pipeline.commands.cli import main
from pipeline.store import arrow
from pipeline.store.store import Store
from pipeline.store.verify import verify


@pytest.fixture
def run(working_folder: Path) -> Callable[..., Result]:
    """`pipeline run` of cells of the tiny grid, in a folder of its own."""
    write_configs(working_folder / "configs")
    words = ["run", "--grid", "tiny", "--inline", "--only", "attack=clean"]

    def run(*more: str) -> Result:
        return CliRunner().invoke(main, [*words, *more], catch_exceptions=False)

    return run


def failing(
    monkeypatch: pytest.MonkeyPatch, place: str, code: int, where: tuple[Any, str]
) -> pytest.MonkeyPatch:
    """Make writing to paths that hold `place` fail."""
    owner, name = where
    real = getattr(owner, name)

    def write(path: Path, *args: object, **kwargs: object) -> object:
        if place in str(path):
            raise OSError(code, os.strerror(code))
        return real(path, *args, **kwargs)

    monkeypatch.setattr(owner, name, write)
    return monkeypatch


@pytest.mark.parametrize("code", [errno.ENOSPC, pytest.param(errno.EROFS, marks=pytest.mark.slow)])
def test_the_run_ends_in_one_line_and_goes_on_once_there_is_room(
    run: Callable[..., Result], monkeypatch: pytest.MonkeyPatch, tmp_path: Path, code: int
) -> None:
    only = ["--only", "defense=none"]
    assert run(*only).exit_code == 0
    before = set(Store(tmp_path / "store").each())
    with monkeypatch.context() as patched:
        failing(patched, "outcomes", code, (arrow, "write_tensors"))
        broken = run()
    assert broken.exit_code == 1
    assert "Traceback" not in broken.output
    line = f"failed  store {tmp_path / 'store'}: {os.strerror(code).lower()}"
    assert broken.stderr.splitlines().count(line) == 1
    assert broken.stderr.count("again   ") == 1
    # nothing was tried after the first refusal, and what was there is
    assert broken.stderr.count("failed: ") == 1
    assert "none" in broken.stdout
    found = verify(Store(tmp_path / "store"))
    assert found.damages == []
    assert set(Store(tmp_path / "store").each()) == before
    assert list((tmp_path / "store" / "scratch").iterdir()) == []
    assert run().exit_code == 0


@pytest.mark.parametrize(
    ("place", "method", "said"),
    [
        ("/store/ledger/.0", "write_bytes", "error: store "),
        ("reports/tiny/.", "write_bytes", "error: reports "),
    ],
)
def test_no_room_for_the_ledger_or_the_report_is_one_line_and_the_results_are_told(
    run: Callable[..., Result], monkeypatch: pytest.MonkeyPatch, place: str, method: str, said: str
) -> None:
    with monkeypatch.context() as patched:
        failing(patched, place, errno.ENOSPC, (Path, method))
        told = run("--only", "defense=none")
    assert told.exit_code == 1
    assert "Traceback" not in told.output
    errors = [line for line in told.stderr.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1
    assert errors[0].startswith(said)
    assert errors[0].endswith("no space left on device")
    assert "none" in told.stdout
    assert run("--only", "defense=none").exit_code == 0


def test_of_several_problems_one_that_leaves_results_incomplete_sets_the_exit_code(
    run: Callable[..., Result], monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patched:
        failing(patched, "reports/tiny/.", errno.ENOSPC, (Path, "write_bytes"))
        told = run("--only", "defense=none", "--mlflow", "http://127.0.0.1:9")
    errors = [line for line in told.stderr.splitlines() if line.startswith("error: ")]
    assert len(errors) == 2
    assert "MLflow at" in errors[1]
    assert told.exit_code == 1


def test_no_room_when_a_data_set_is_read_ends_the_run_before_its_work(
    run: Callable[..., Result], monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patched:
        failing(patched, "scratch", errno.ENOSPC, (arrow, "write_tensors"))
        told = run("--only", "defense=none")
    assert told.exit_code == 1
    assert told.stderr.splitlines()[-1].endswith("no space left on device")
    assert "Traceback" not in told.output


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 16 MB."""
    place = tmp_path / "disk"
    place.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=16m", "tmpfs", str(place)]
    try:
        done = subprocess.run(command, check=False, capture_output=True, text=True)
    except FileNotFoundError:
        pytest.skip("there is no command `mount`")
    if done.returncode:
        pytest.skip(f"cannot mount a tmpfs: {done.stderr.strip()}")
    yield place
    subprocess.run(["umount", str(place)], check=True)


def fill(disk: Path, *, leave_kb: int) -> Path:
    """A file that takes all room but this."""
    filler = disk / "filler"
    free = os.statvfs(disk).f_bavail * os.statvfs(disk).f_frsize
    with filler.open("wb") as handle:
        os.posix_fallocate(handle.fileno(), 0, max(free - 1024 * leave_kb, 1))
    return filler


@pytest.mark.slow
@pytest.mark.parametrize("leave_kb", [8, 400])
def test_a_disk_that_is_really_full_leaves_a_sound_store_and_the_run_ends_once_there_is_room(
    tmp_path: Path, disk: Path, leave_kb: int
) -> None:
    write_configs(tmp_path / "configs")
    command = [sys.executable, "-m", "pipeline", "run", "--grid", "tiny", "--inline"]
    command += ["--store", str(disk / "store")]
    filler = fill(disk, leave_kb=leave_kb)

    def run() -> subprocess.CompletedProcess[str]:
        return subprocess.run(command, cwd=tmp_path, check=False, capture_output=True, text=True)

    broken = run()
    assert broken.returncode == 1, broken.stderr
    assert "Traceback" not in broken.stderr
    told = f"store {disk / 'store'}: no space left on device"
    lines = [line for line in broken.stderr.splitlines() if line.endswith(told)]
    assert [line for line in lines if line.startswith(("failed  ", "error: "))] == lines[-1:]
    assert verify(Store(disk / "store")).damages == []
    filler.unlink()
    assert run().returncode == 0

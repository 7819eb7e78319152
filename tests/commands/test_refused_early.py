"""What would fail after all computing is refused before it, in one line."""

from __future__ import annotations

from pathlib import Path

import pytest
from click.testing import CliRunner
from tiny import write_configs

from pipeline.commands.cli import main
from pipeline.execution.executors import starter
from pipeline.execution.settings import Settings
from pipeline.store.store import Store

RUN = ["run", "--grid", "tiny", "--quiet"]
JUDGE = ["judge", "guo"]


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder with the tiny grid, where nothing can be computed."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.setattr("pipeline.execution.runner.Run.execute", None)
    write_configs(tmp_path / "configs")
    return tmp_path


def refused(*words: str) -> str:
    """The one line of an input that was refused."""
    result = CliRunner().invoke(main, words, catch_exceptions=False)
    assert result.exit_code == 2, result.output
    (line,) = result.stderr.strip().splitlines()
    return line


@pytest.mark.parametrize("words", [RUN, JUDGE])
@pytest.mark.parametrize("how", [["--inline"], []])
def test_a_gpu_that_is_not_there(
    words: list[str], how: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    assert refused(*words, *how, "--device", "cuda") == (
        "error: device cuda: torch sees no GPU here; choose `--device auto` or `cpu`"
    )


def test_a_driver_without_a_gpu_reads_data_sets_for_a_cluster_that_has_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(starter, "InlineExecutor", lambda _, settings, *__, **___: settings.device)
    settings = Settings(device="cuda")
    for address, device in (("1.2.3.4:5", "auto"), (None, "cuda")):
        made = starter.Starter(
            store=Store(tmp_path), settings=settings, notify=print, address=address
        )
        assert made.local() == device


@pytest.mark.parametrize("words", [RUN, JUDGE])
def test_a_folder_of_reports_that_cannot_be_written(
    words: list[str], folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = "tiny" if words == RUN else "judge-guo"
    (folder / "file").touch()
    assert refused(*words, "--inline", "--reports", "file/of") == (
        f"error: reports file/of/{name}: cannot be written: {folder}/file is no folder; choose "
        "another: --reports"
    )
    monkeypatch.setattr("os.access", lambda place, _: place != folder)
    assert refused(*words, "--inline") == (
        f"error: reports reports/{name}: cannot be written: permission denied; choose another: "
        "--reports"
    )
    assert not (folder / "reports").exists()
    assert not (folder / "store").exists()


@pytest.mark.parametrize("words", [RUN, JUDGE])
def test_a_store_that_cannot_be_written_is_bad_input_before_the_contract_is_checked(
    words: list[str], folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pipeline.commands.session.contract_verdict", None)
    monkeypatch.setattr("pipeline.commands.judged.contract_verdict", None)
    (folder / "file").touch()
    result = CliRunner().invoke(main, [*words, "--inline", "--store", "file/store"])
    assert result.exit_code == 2
    assert result.stderr.strip().splitlines()[-1] == (
        f"error: store {folder}/file/store: cannot be written to: not a directory"
    )


def test_doctor_finds_that_a_store_cannot_be_created(folder: Path) -> None:
    (folder / "file").touch()
    result = CliRunner().invoke(main, ["doctor", "--store", "file/store"])
    assert result.exit_code == 1
    there = f"{folder}/file"
    assert f"{there}/store cannot be created: {there} is no folder" in result.output


def test_only_kinds_of_node_that_the_grid_uses_have_to_get_their_gpus(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[set[str]] = []
    monkeypatch.setattr(
        "pipeline.commands.session.Starter", lambda **how: asked.append(how["kinds"])
    )
    CliRunner().invoke(main, [*RUN, "--only", "attack=clean", "--only", "defense=none"])
    assert asked == [{"train", "defend", "score"}]

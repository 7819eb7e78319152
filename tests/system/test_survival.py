"""What a run survives: kills, planted errors, a tracking server that goes away, odd configs."""

from __future__ import annotations

import contextlib
import copy
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from bucket_servers import free_port
from click.testing import CliRunner, Result
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tiny import FILES, data_files, write_configs

from pipeline.commands.cli import main
from pipeline.observers.tracking.server import answers, default_uri
from pipeline.store.store import Store, folder_of
from tasks.defenses.guo import Guo

TESTS = Path(__file__).parents[1]


@pytest.fixture
def here(working_folder: Path) -> Callable[..., Result]:
    """`pipeline` on the tiny grid, in a folder of its own."""
    write_configs(working_folder / "configs")

    def invoke(*words: str) -> Result:
        return CliRunner().invoke(main, [*words], catch_exceptions=False)

    return invoke


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_a_driver_killed_at_20_random_moments_never_computes_a_finished_node_again(
    tmp_path: Path,
) -> None:
    configs = write_configs(tmp_path / "configs")
    script = [sys.executable, str(TESTS / "killed_driver.py")]
    done = subprocess.run(
        [*script, str(configs), str(tmp_path), "20", "6"],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "PYTHONPATH": str(TESTS), "OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stderr
    found = [int(line) for line in done.stdout.split()]
    assert len(found) == 20
    assert len(set(found)) > 5, "the kills were all in the same place"
    expected = data_files(tmp_path / "whole")
    stores = [path for path in tmp_path.iterdir() if path.name.isdigit()]
    assert stores
    for store in stores:
        assert data_files(store) == expected
        computed = (tmp_path / f"{store.name}.computed").read_text().split()
        assert max(Counter(computed).values()) == 1
        assert len(computed) <= len(list(store.glob("*/??/*/meta.json")))


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_a_driver_on_ray_killed_20_times_in_mid_computation_computes_no_finished_node_again(
    tmp_path: Path,
) -> None:
    configs = write_configs(tmp_path / "configs")
    script = [sys.executable, str(TESTS / "killed_driver.py")]
    done = subprocess.run(
        [*script, str(configs), str(tmp_path), "20", "7", "ray"],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "PYTHONPATH": str(TESTS), "OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stderr
    assert all(int(line) > 0 for line in done.stdout.split())
    expected = data_files(tmp_path / "whole")
    for store in (path for path in tmp_path.iterdir() if path.name.isdigit()):
        assert data_files(store) == expected
        computed = (tmp_path / f"{store.name}.computed").read_text().split()
        assert max(Counter(computed).values()) == 1


def test_a_planted_error_in_one_defense_leaves_a_gap_and_a_command_that_fills_it(
    here: Callable[..., Result], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = ["run", "--grid", "tiny", "--inline", "--only", "attack=clean"]
    words += ["--only", "defense=none", "--only", "defense=guo"]
    with monkeypatch.context() as patch:

        def broken(*args: object, **kwargs: object) -> object:
            raise ZeroDivisionError("planted")

        patch.setattr(Guo, "transform", broken)
        failed = here(*words)
    assert failed.exit_code == 1
    assert "Traceback" not in failed.output
    assert "failed  ZeroDivisionError: planted" in failed.stderr.splitlines()
    page = (tmp_path / "reports" / "tiny" / "README.md").read_text(encoding="utf-8")
    assert "ZeroDivisionError: planted" in page
    (again,) = [line for line in failed.stderr.splitlines() if line.startswith("again ")]
    command = again.split()[2:]
    assert "--only" in command
    filled = here(*command)
    assert filled.exit_code == 0, filled.stderr
    assert "computed 2 defend, 1 score" in filled.stderr
    page = (tmp_path / "reports" / "tiny" / "README.md").read_text(encoding="utf-8")
    assert "ZeroDivisionError" not in page


@pytest.mark.slow
def test_what_was_made_from_weights_that_were_since_retrained_is_made_again_and_why_says_so(
    here: Callable[..., Result], tmp_path: Path
) -> None:
    """Else a white-box cell would become a transfer cell in silence."""
    choice = ["--grid", "tiny", "--images", "200"]

    def run(defense: str) -> Result:
        return here("run", *choice, "--inline", "--only", f"cell=mixed/pgd/{defense}")

    store = Store(tmp_path / "store")
    assert run("none").exit_code == 0
    ((_, trained),) = [found for found in store.each() if found[0] == "train"]
    before = store.record("train", trained)
    shutil.rmtree(tmp_path / "store" / folder_of("train", trained))
    how = "device: cpu\nkinds: {train: {threads: 2}}\n"
    (tmp_path / "configs" / "settings.yaml").write_text(how)
    # another defense needs the weights, which are trained again, and the examples made on them
    other = run("guo")
    assert other.exit_code == 0, other.stderr
    after = store.record("train", trained)
    assert before is not None
    assert after is not None
    assert after.content != before.content
    for kind, digest in store.each():
        record = store.record(kind, digest)
        assert record is not None
        old = record.lineage.get(trained) == before.content
        # what this run did not ask for is as it was
        assert old == (digest not in _of(here, choice, "guo") and kind in {"defend", "score"})
    told = here("why", "mixed/pgd/none", *choice).stdout
    assert (
        f"was made from other train content: {before.content[:12]}, now {after.content[:12]}"
        in told
    )
    assert run("none").exit_code == 0
    assert "nothing to do" in here("why", "mixed/pgd/none", *choice).stdout


def _of(here: Callable[..., Result], choice: list[str], defense: str) -> set[str]:
    """The digests of all that a cell is made from."""
    told = json.loads(here("show", f"mixed/pgd/{defense}", *choice, "--json").stdout)
    return {artifact["digest"] for artifact in told["artifacts"]}


KINDS = ("dataset", "train", "checkpoint", "craft", "defend", "score")


@pytest.mark.slow
def test_a_damaged_artifact_of_each_kind_is_found_set_aside_and_made_again(
    here: Callable[..., Result], tmp_path: Path
) -> None:
    configs, store = tmp_path / "configs", tmp_path / "store"
    run = ["run", "--grid", "tiny", "--inline", "--only", "attack=pgd", "--only", "defense=none"]
    assert here(*run).exit_code == 0
    said = here("export-weights", "mixed", "mixed.safetensors", "--grid", "tiny").stdout
    sha256 = said.split("sha256: ")[1].strip()
    (configs / "models" / "loaded.yaml").write_text(
        "dataset: digits\nnetwork: {kind: small, width: 4}\n"
        f"checkpoint: {{file: {tmp_path / 'mixed.safetensors'}, sha256: {sha256}}}\n"
    )
    grid = (configs / "grids" / "tiny.yaml").read_text()
    (configs / "grids" / "tiny.yaml").write_text(grid.replace("[mixed]", "[mixed, loaded]"))
    done = here(*run)
    assert done.exit_code == 0, done.stderr
    before = data_files(store)
    spoilt = {}
    for number, kind in enumerate(KINDS):
        path = max(store.glob(f"{kind}/??/*/*-*"), key=lambda path: path.stat().st_size)
        match number % 3:
            case 0:
                data = bytearray(path.read_bytes())
                data[len(data) // 2] ^= 1
                path.write_bytes(data)
            case 1:
                path.write_bytes(path.read_bytes()[:-7])
            case 2:
                (path.parent / "meta.json").write_text("")
        spoilt[kind] = path.parent.name
    found = here("verify", "--set-aside")
    assert found.exit_code == 1
    lines = [line for line in found.stdout.splitlines() if line.startswith("damaged: ")]
    assert {(line.split()[1], line.split()[2].rstrip(":")) for line in lines} == {
        (kind, digest[:12]) for kind, digest in spoilt.items()
    }
    assert all("moved to" in line for line in lines)
    # what nothing to do reads is made again when something does: here, all of it
    again = here(*run, "--force", "--from", "craft")
    assert again.exit_code == 0, again.stderr
    assert data_files(store) == before
    assert here("verify").exit_code == 0


@pytest.fixture
def mlflow_server(tmp_path: Path) -> Iterator[Callable[[], subprocess.Popen[bytes]]]:
    """Starts `mlflow server` on one database and port, which answers when it returns."""
    port = free_port()
    started: list[subprocess.Popen[bytes]] = []
    command = [str(Path(sys.executable).with_name("mlflow")), "server", "--workers", "1"]
    command += ["--host", "127.0.0.1", "--port", str(port)]
    command += ["--backend-store-uri", default_uri(tmp_path)]
    command += ["--artifacts-destination", str(tmp_path / "files")]

    def start() -> subprocess.Popen[bytes]:
        with (tmp_path / "mlflow.log").open("ab") as log:
            server = subprocess.Popen(
                command, cwd=tmp_path, stdout=log, stderr=log, start_new_session=True
            )
        started.append(server)
        server.web = f"http://127.0.0.1:{port}"  # type: ignore[attr-defined]
        deadline = time.monotonic() + 400
        while not answers(f"http://127.0.0.1:{port}"):
            assert server.poll() is None, (tmp_path / "mlflow.log").read_text()
            assert time.monotonic() < deadline
            time.sleep(0.5)
        return server

    yield start
    for server in started:
        stop(server)


def stop(server: subprocess.Popen[bytes]) -> None:
    """End a server and all that it started, if it still runs."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(server.pid, signal.SIGKILL)
    server.wait(timeout=30)


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_an_mlflow_server_that_was_away_in_mid_run_has_every_cell_exactly_once(
    tmp_path: Path,
    mlflow_template: Path,
    mlflow_server: Callable[[], subprocess.Popen[bytes]],
) -> None:
    (tmp_path / "mlflow.db").write_bytes(mlflow_template.read_bytes())
    write_configs(tmp_path / "configs")
    server = mlflow_server()
    web = server.web  # type: ignore[attr-defined]
    command = [sys.executable, "-m", "pipeline", "run", "--grid", "tiny", "--inline"]
    command += ["--mlflow", web]
    driver = subprocess.Popen(command, cwd=tmp_path, stderr=subprocess.PIPE, text=True)
    scores = tmp_path / "store" / "score"
    while len(list(scores.glob("??/*/meta.json"))) < 3:
        assert driver.poll() is None
        time.sleep(0.01)
    stop(server)
    left = 10 - len(list(scores.glob("??/*/meta.json")))
    assert left > 0
    mlflow_server()
    _, said = driver.communicate(timeout=900)
    if driver.returncode != 0:
        # it was over before the server was there again: the results waited, and one says so
        assert "logged by the next run" in said
        done = subprocess.run(command, cwd=tmp_path, check=False, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
    from mlflow import MlflowClient

    client = MlflowClient(tracking_uri=web)
    experiments = [found.experiment_id for found in client.search_experiments()]
    runs = [run for run in client.search_runs(experiments) if "cell" in run.data.tags]
    assert len(runs) == 10
    assert len({run.data.tags["cell"] for run in runs}) == 10
    assert {run.info.status for run in runs} == {"FINISHED"}


YAML = {name: yaml.safe_load(text) for name, text in FILES.items()}
VALUES = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-3, 10**9),
    st.floats(allow_nan=True),
    st.sampled_from(
        ["", "none", "guo", "counter+guo", "clean", "mixed", "digits", "é\n", "*", "a/b"]
    ),
    st.lists(st.sampled_from(["none", "guo", "mixed", "clean", 1, None]), max_size=3),
    st.dictionaries(st.sampled_from(["kind", "draws", "steps", "x"]), st.integers(), max_size=2),
)


@st.composite
def mutations(draw: st.DrawFn) -> tuple[str, object]:
    """A config of the tiny grid with one to three of its values, keys or entries changed."""
    name = draw(st.sampled_from(sorted(YAML)))
    document = copy.deepcopy(YAML[name])
    for _ in range(draw(st.integers(1, 3))):
        places = list(_places(document))
        holder, key = draw(st.sampled_from(places)) if places else (None, None)
        if holder is None:
            return name, draw(VALUES)
        match draw(st.sampled_from(["value", "delete", "rename"])):
            case "value":
                holder[key] = draw(VALUES)
            case "delete":
                del holder[key]
            case "rename" if isinstance(holder, dict):
                holder[draw(st.sampled_from(["kind", "drawz", "tables", "1", ""]))] = holder.pop(
                    key
                )
    return name, document


def _places(value: Any) -> Iterator[tuple[Any, Any]]:
    """Every holder and key inside a document."""
    items = value.items() if isinstance(value, dict) else enumerate(value)
    for key, inner in list(items):
        yield value, key
        if isinstance(inner, dict | list):
            yield from _places(inner)


@pytest.fixture(scope="module")
def mutated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_configs(tmp_path_factory.mktemp("mutated") / "configs")


@pytest.mark.slow
@settings(
    max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(mutations())
def test_any_config_gives_a_plan_or_a_located_line_and_exit_code_2(
    mutated: Path, change: tuple[str, object]
) -> None:
    name, document = change
    place = mutated / name
    place.write_text(yaml.safe_dump(document, allow_unicode=True), encoding="utf-8")
    try:
        words = ["plan", "--grid", "tiny", "--configs", str(mutated)]
        done = CliRunner().invoke(main, [*words, "--store", str(mutated / "store")])
    finally:
        place.write_text(FILES[name], encoding="utf-8")
    assert done.exception is None or isinstance(done.exception, SystemExit), done.exception
    assert done.exit_code in {0, 2}
    if done.exit_code == 2:
        (line,) = done.stderr.splitlines()
        assert line.startswith("error: ")
        assert str(mutated) in line or name.split("/")[-1].removesuffix(".yaml") in line

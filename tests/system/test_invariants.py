"""What the whole program promises, each promise under its own sentence."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from artifacts import unsealed
from tiny import FILES, Tiny, data_files, write_configs

from pipeline.execution.work.inputs import forget
from pipeline.store import arrow
from pipeline.store.store import META, Store
from pipeline.store.verify import verify


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> Tiny:
    """The tiny grid, computed once inline."""
    folder = tmp_path_factory.mktemp("tiny")
    tiny = Tiny(write_configs(folder / "configs"), folder / "store")
    _, finished = tiny.run()
    assert not finished.missing
    return tiny


@pytest.fixture
def copy(done: Tiny, tmp_path: Path) -> Tiny:
    """A copy of the computed grid that a test may spoil."""
    shutil.copytree(done.folder, tmp_path / "configs")
    shutil.copytree(done.store, tmp_path / "store")
    return Tiny(tmp_path / "configs", tmp_path / "store")


def test_a_second_run_computes_nothing_and_starts_no_executor(done: Tiny) -> None:
    """A second run of the same grid computes nothing, starts no Ray, and prints the same tables."""
    before = data_files(done.store)
    recorder, finished = done.run(inline=False)
    assert finished.computed == {}
    assert [type(event).__name__ for event in recorder.events] == ["RunFinished"]
    assert len(finished.scored) == 10
    assert data_files(done.store) == before


def test_one_changed_parameter_recomputes_exactly_what_depends_on_it(copy: Tiny) -> None:
    """Changing one parameter recomputes exactly the cells that depend on it."""
    write_configs(copy.folder, {"defenses/guo.yaml": "kind: guo\ndraws: 3\n"})
    session = copy.session()
    todo = session.plan().todo
    changed = {name for name, node in session.chosen.items() if node.digest in todo}
    assert changed == {f"mixed/{a}/{d}" for a in ("clean", "pgd") for d in ("guo", "counter+guo")}
    recorder, _ = copy.run()
    assert {event.node.kind for event in recorder.done()} == {"defend", "score"}
    write_configs(copy.folder)
    assert copy.session().plan().todo == {}


def test_a_changed_attack_leaves_the_model_and_clean_cells_alone(copy: Tiny) -> None:
    write_configs(copy.folder, {"attacks/pgd.yaml": "kind: pgd\nsteps: 3\n"})
    session = copy.session()
    kinds = session.plan().by_kind(session.graph)
    # two shards, five defenses of one attack; neither data set nor training
    assert kinds == {"craft": 2, "defend": 10, "score": 5, "exhibit": 1}


def test_how_it_runs_never_enters_a_digest(copy: Tiny) -> None:
    """Executor, workers, device, batch size, retries and store place never enter a digest."""
    text = "device: cpu\nattempts: 7\nkinds:\n  defend: {batch_size: 11, threads: 2, gpus: 0.5}\n"
    write_configs(copy.folder, {"settings.yaml": text})
    assert copy.session().plan().todo == {}


def test_what_changes_numbers_enters_the_digest(copy: Tiny) -> None:
    grid = FILES["grids/tiny.yaml"]
    write_configs(copy.folder, {"grids/tiny.yaml": f"precision: bfloat16\n{grid}"})
    assert len(copy.session().plan().by_kind(copy.session().graph)) == 4
    recipe = FILES["recipes/short.yaml"]
    write_configs(copy.folder, {"recipes/short.yaml": f"{recipe}batch_size: 32\n"})
    assert "train" in copy.session().plan().by_kind(copy.session().graph)


@pytest.mark.slow
def test_a_run_killed_at_any_moment_goes_on_from_whole_artifacts(tmp_path: Path) -> None:
    """A process killed at any moment leaves whole artifacts; the next run goes on from there."""
    tiny = Tiny(write_configs(tmp_path / "configs"), tmp_path / "store")
    command = [sys.executable, "-m", "pipeline", "run", "--grid", "tiny", "--inline", "--quiet"]
    command += ["--configs", str(tiny.folder), "--store", str(tiny.store)]
    process = subprocess.Popen(command, cwd=tmp_path, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 120
    while not list(tiny.store.glob("craft/*/*/meta.json")) and time.monotonic() < deadline:
        time.sleep(0.02)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    whole = {path.parent.name for path in tiny.store.glob("*/??/*/meta.json")}
    assert whole
    for meta in tiny.store.glob("*/??/*/meta.json"):
        record = json.loads(meta.read_text())
        assert all((meta.parent / file["file"]).is_file() for file in record["files"].values())
    recorder, finished = tiny.run()
    assert not finished.missing
    assert not whole & {event.node.digest for event in recorder.done()}


def test_what_a_run_computed_is_sound_sealed_and_says_what_its_files_say(copy: Tiny) -> None:
    found = verify(Store(copy.store))
    assert found.damages == []
    assert (found.sound, found.unsealed) == (len(list(Store(copy.store).each())), 0)
    # and with the records of an older version nothing is computed again, before and after sealing
    for meta in copy.store.glob(f"*/??/*/{META}"):
        meta.write_text(unsealed(json.loads(meta.read_text())))
    (copy.store / "store.json").unlink()
    for seal in (False, True):
        assert copy.session().plan().todo == {}
        found = verify(Store(copy.store), seal=seal)
        assert found.damages == []
    assert found.sealed == found.sound
    assert copy.session().plan().todo == {}


@pytest.mark.parametrize("kind", ["dataset", "train", "craft", "defend"])
def test_a_damaged_artifact_is_set_aside_and_computed_again(copy: Tiny, kind: str) -> None:
    """An artifact that does not match its checksum is set aside, computed again, and told."""
    before = data_files(copy.store)
    victim = max(copy.store.glob(f"{kind}/??/*/*.*"), key=lambda path: path.stat().st_size)
    spoiled = bytearray(victim.read_bytes())
    spoiled[len(spoiled) // 2] ^= 1
    victim.write_bytes(bytes(spoiled))
    # something must read it again
    for below in ("score",) if kind == "defend" else ("score", "defend"):
        shutil.rmtree(copy.store / below)
    forget()
    recorder, finished = copy.run()
    assert not finished.missing
    assert [event.digest for event in recorder.set_aside()] == [victim.parent.name]
    assert "checksum" in recorder.set_aside()[0].reason
    assert data_files(copy.store).keys() >= before.keys()
    assert copy.session().plan().todo == {}


def test_an_empty_record_is_set_aside_and_computed_again(copy: Tiny) -> None:
    meta = next(copy.store.glob("score/??/*/meta.json"))
    meta.write_text("")
    recorder, finished = copy.run()
    assert not finished.missing
    assert [event.kind for event in recorder.set_aside()] == ["score"]


def test_examples_outside_their_ball_are_refused(copy: Tiny) -> None:
    """Also an artifact whose checksum matches must hold what its role demands."""
    place = next(copy.store.glob("craft/??/*/meta.json"))
    record = json.loads(place.read_text())
    entry = record["files"]["examples.arrow"]
    path = place.parent / entry["file"]
    columns = {name: column.clone() for name, column in arrow.read_tensors(path).items()}
    columns["pixels"][0] = 1 - columns["pixels"][0].round()
    path.unlink()
    arrow.write_tensors(path, columns, {})
    entry["sha256"] = hashlib.sha256(path.read_bytes()).hexdigest()
    place.write_text(unsealed(record))
    recorder, finished = copy.run(force=True)
    assert not finished.missing
    assert "farther than 40/255" in recorder.set_aside()[0].reason


def test_one_failed_node_fails_only_what_depends_on_it(tmp_path: Path) -> None:
    """One failed node fails only what depends on it; the rest finishes and it is named."""
    # no class but the predicted one is in the pool: this defense cannot work
    one = {"defenses/mi-ol.yaml": "kind: mi-ol\ndraws: 2\npool_size: 1\n"}
    tiny = Tiny(write_configs(tmp_path / "configs", one), tmp_path / "store")
    recorder, finished = tiny.run()
    assert set(finished.missing) == {"mixed/clean/mi-ol", "mixed/pgd/mi-ol"}
    assert len(finished.scored) == 8
    failed = recorder.failed()
    assert {event.node.kind for event in failed} == {"defend"}
    assert all("pool" in event.failure.reason for event in failed)
    assert {cell for event in failed for cell in event.cells} == set(finished.missing)


@pytest.mark.parametrize("workers", [pytest.param(1, marks=pytest.mark.slow), 2])
def test_inline_and_ray_give_bit_equal_artifacts(done: Tiny, tmp_path: Path, workers: int) -> None:
    """Inline and Ray, one worker or two, give bit-equal artifacts at one thread count."""
    tiny = Tiny(done.folder, tmp_path / "store")
    _, finished = tiny.run(inline=False, workers=workers)
    assert not finished.missing
    assert data_files(tiny.store) == data_files(done.store)


def test_retrained_weights_make_everything_made_from_the_old_ones_stale(copy: Tiny) -> None:
    """A digest names a recipe, not bytes: other weights under one digest are noticed."""
    place = next(copy.store.glob(f"train/??/*/{META}"))
    record = json.loads(place.read_text())
    record["content"] = "0" * 64
    place.write_text(unsealed(record))
    session = copy.session()
    plan = session.plan()
    assert all(node.digest in plan.todo for node in session.chosen.values())
    assert all("other train content" in reason for reason in plan.todo.values())


def test_growing_the_images_computes_only_new_shards(copy: Tiny) -> None:
    session = copy.session(images=600)
    todo = session.plan().todo
    kinds = session.plan().by_kind(session.graph)
    # the first shard of 500 is there; the second was 500..520 and is now 500..600
    assert kinds == {"craft": 1, "defend": 10, "score": 10, "exhibit": 1}
    assert all(session.graph[digest].kind != "train" for digest in todo)


def test_force_recomputes_and_says_unchanged(copy: Tiny) -> None:
    recorder, finished = copy.run(only=["cell=mixed/pgd/counter+guo"], force=True)
    assert finished.computed == {"defend": 2, "score": 1}
    assert all(event.done.unchanged for event in recorder.done())

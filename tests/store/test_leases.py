"""Leases: which run is at which node."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import shutil
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, replace
from pathlib import Path

import pytest
from tiny import Recorder, Tiny, data_files, write_configs

from pipeline.execution.events import Elsewhere
from pipeline.grid.graph import Node
from pipeline.store import leases as leases_module
from pipeline.store.folder import Folder
from pipeline.store.garbage import DAY_S, collectable
from pipeline.store.leases import Holder, Leases, process_mark
from pipeline.store.store import Store, folder_of

DIGEST, OTHER = "a" * 64, "b" * 64
FEW = ["attack=clean"]
"""Enough cells that runs can meet."""


@pytest.fixture
def backend(tmp_path: Path) -> Folder:
    return Folder(tmp_path / "store")


def files(backend: Folder) -> set[str]:
    return {path.name for path in (backend.root / "leases").rglob("*") if path.is_file()}


def become(backend: Folder, run: Leases, **changes: object) -> None:
    """Change what a run says of itself."""
    path = backend.root / "leases" / "runs" / run._run
    holder = Holder(**json.loads(path.read_text()))
    path.write_text(json.dumps(asdict(replace(holder, **changes))))


def test_a_node_that_one_run_is_at_is_not_given_to_another_until_it_is_released(
    backend: Folder,
) -> None:
    one, two = Leases(backend), Leases(backend)
    assert one.claim(DIGEST)
    assert not two.claim(DIGEST)
    assert two.claim(OTHER)
    assert set(two.others()) == {DIGEST}
    assert set(one.others()) == {OTHER}
    one.release(DIGEST)
    assert two.others() == {}
    assert two.claim(DIGEST)
    assert not one.claim(DIGEST)
    one.close()
    two.close()
    assert files(backend) == set()


def test_a_run_does_not_wait_for_itself_if_the_answer_to_its_claim_was_lost(
    backend: Folder, monkeypatch: pytest.MonkeyPatch
) -> None:
    create = backend.create

    def lossy(draft: Path, key: str) -> None:
        create(draft, key)
        monkeypatch.undo()
        raise FileExistsError(key)

    monkeypatch.setattr(backend, "create", lossy)
    one, two = Leases(backend), Leases(backend)
    assert one.claim(DIGEST)
    assert not two.claim(DIGEST)
    one.release(DIGEST)
    assert two.claim(DIGEST)
    one.close()
    two.close()
    assert files(backend) == set()


def test_a_run_does_not_wait_for_itself_if_a_release_failed(
    backend: Folder, monkeypatch: pytest.MonkeyPatch
) -> None:
    def deaf(key: str) -> None:
        raise OSError(errno.EIO, "Input/output error", key)

    one, two = Leases(backend), Leases(backend)
    assert one.claim(DIGEST)
    assert one.claim(OTHER)
    monkeypatch.setattr(backend, "remove", deaf)
    one.release(DIGEST)
    one.release(OTHER)
    monkeypatch.undo()
    assert one.claim(DIGEST)
    # what is not claimed again is released with the next renewal of the run's lease
    one._renew()
    assert not two.claim(DIGEST)
    assert two.claim(OTHER)
    one.close()
    two.close()
    assert files(backend) == set()


def test_a_lease_whose_claim_failed_after_it_was_created_is_released_and_others_are_not(
    backend: Folder, monkeypatch: pytest.MonkeyPatch
) -> None:
    create = Folder.create

    def late(self: Folder, source: Path, key: str) -> None:
        with contextlib.suppress(FileExistsError):
            create(self, source, key)
        raise OSError(errno.EIO, "Input/output error", key)

    run, other = Leases(backend), Leases(backend)
    assert other.claim(OTHER)
    with monkeypatch.context() as patch:
        patch.setattr(Folder, "create", late)
        assert run.claim(DIGEST)
        assert run.claim(OTHER)
    assert set(other.others()) == {DIGEST}
    run.release(DIGEST)
    run.release(OTHER)
    assert set(other.others()) == set()
    assert set(run.others()) == {OTHER}


def test_a_run_that_ends_gives_back_all_that_it_had(backend: Folder) -> None:
    one, two = Leases(backend), Leases(backend)
    assert one.claim(DIGEST)
    assert one.claim(OTHER)
    one.close()
    assert two.claim(DIGEST)
    assert two.claim(OTHER)
    two.close()


def test_of_many_runs_that_claim_a_node_in_one_instant_one_gets_it(backend: Folder) -> None:
    for number in range(20):
        barrier = threading.Barrier(6)

        def claim(run: Leases, number: int = number, barrier: threading.Barrier = barrier) -> bool:
            barrier.wait()
            return run.claim(f"{number:064x}")

        runs = [Leases(backend) for _ in range(6)]
        with ThreadPoolExecutor(6) as pool:
            assert sum(pool.map(claim, runs)) == 1
        for run in runs:
            run.close()


def test_of_many_runs_that_take_over_a_lapsed_lease_in_one_instant_one_gets_it(
    backend: Folder,
) -> None:
    gone = Leases(backend)
    digests = [f"{number:064x}" for number in range(20)]
    assert all(gone.claim(digest) for digest in digests)
    become(backend, gone, process="another machine", until=time.time() - 1)
    for digest in digests:
        barrier = threading.Barrier(6)

        def claim(run: Leases, digest: str = digest, barrier: threading.Barrier = barrier) -> bool:
            barrier.wait()
            return run.claim(digest)

        runs = [Leases(backend) for _ in range(6)]
        with ThreadPoolExecutor(6) as pool:
            assert sum(pool.map(claim, runs)) == 1
        for run in runs:
            run.close()


def test_a_lease_of_another_machine_holds_until_it_lapses(backend: Folder) -> None:
    one, two = Leases(backend), Leases(backend)
    assert one.claim(DIGEST)
    become(backend, one, process="another machine", until=time.time() + 30)
    assert not two.claim(DIGEST)
    become(backend, one, until=time.time() - 1)
    assert two.others() == {}
    assert two.claim(DIGEST)
    # what took it over has it, whatever becomes of the first
    assert Leases(backend).claim(DIGEST) is False
    two.close()


def test_a_run_is_known_to_be_alive_for_as_long_as_it_works(
    backend: Folder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(leases_module, "RENEWED_S", 0.05)
    monkeypatch.setattr(leases_module, "LASTS_S", 0.5)
    monkeypatch.setattr(leases_module, "process_mark", lambda pid: "")
    one, two = Leases(backend), Leases(backend)
    assert one.claim(DIGEST)
    time.sleep(1)
    assert not two.claim(DIGEST)
    one._over.set()
    time.sleep(1)
    assert two.claim(DIGEST)
    two.close()


@pytest.mark.parametrize("error", [PermissionError, ProcessLookupError])
def test_a_process_that_another_user_cannot_see_holds_its_lease_until_it_lapses(
    backend: Folder, monkeypatch: pytest.MonkeyPatch, error: type[OSError]
) -> None:
    """As where /proc is mounted with hidepid; a process that is not there holds nothing."""

    def mark(pid: int) -> str:
        return f"boot space {pid}:1" if pid == os.getpid() else ""

    def kill(pid: int, signal: int) -> None:
        raise error(pid, signal)

    monkeypatch.setattr(leases_module, "process_mark", mark)
    monkeypatch.setattr(os, "kill", kill)
    one, two = Leases(backend), Leases(backend)
    assert one.claim(DIGEST)
    become(backend, one, pid=1, process="boot space 1:1", until=time.time() + 30)
    assert two.claim(DIGEST) == (error is ProcessLookupError)
    become(backend, one, until=time.time() - 1)
    assert two.claim(DIGEST)
    two.close()


@pytest.mark.skipif(not process_mark(os.getpid()), reason="processes are not told apart here")
def test_a_process_of_this_machine_that_was_killed_holds_nothing(backend: Folder) -> None:
    script = (
        "import os, sys; from pathlib import Path; from pipeline.store.folder import Folder\n"
        "from pipeline.store.leases import Leases\n"
        f"Leases(Folder(Path({str(backend.root)!r}))).claim({DIGEST!r})\n"
        "print('claimed', flush=True); sys.stdin.read()"
    )
    holder = subprocess.Popen(
        [sys.executable, "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert holder.stdout is not None
    assert holder.stdin is not None
    assert holder.stdout.readline() == b"claimed\n"
    run = Leases(backend)
    assert not run.claim(DIGEST)
    holder.kill()
    # not waited for yet: what has ended holds nothing, even before its parent looks
    deadline = time.monotonic() + 30
    while not run.claim(DIGEST):
        assert time.monotonic() < deadline
        time.sleep(0.01)
    run.close()
    holder.wait()
    holder.stdin.close()
    holder.stdout.close()


@pytest.mark.parametrize("text", [b"", b"\xff\xfe", b"../../x", b"[]", b"x" * 10000])
def test_a_spoilt_lease_holds_nothing(backend: Folder, text: bytes) -> None:
    backend.write(f"leases/{DIGEST}/0", text)
    backend.write("leases/runs/x", text)
    run = Leases(backend)
    assert run.others() == {}
    assert run.claim(DIGEST)
    run.close()


@pytest.mark.parametrize(
    "text", ["", "{}", "[1]", '{"host": 1, "pid": "x", "process": 2, "until": "y"}', "[" * 9000]
)
def test_a_spoilt_word_of_a_run_holds_nothing(backend: Folder, text: str) -> None:
    backend.write(f"leases/{DIGEST}/0", b"somebody")
    backend.write("leases/runs/somebody", text.encode())
    run = Leases(backend)
    assert run.claim(DIGEST)
    run.close()


def test_leases_of_a_broken_run_are_cleared_away_and_those_of_a_live_one_stay(
    tmp_path: Path,
) -> None:
    store = Store(tmp_path / "store")
    store.prepare()
    live, gone = Leases(store.backend), Leases(store.backend)
    assert live.claim(DIGEST)
    store.backend.write(f"leases/{OTHER}/0", gone._run.encode())
    later = time.time() + 2 * DAY_S
    found = {item.key for item in collectable(store, keep_s=DAY_S, now=later)}
    assert f"leases/{OTHER}" in found
    assert f"leases/{DIGEST}" not in found
    live.close()


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Tiny:
    """A grid that one undisturbed run has computed."""
    folder = tmp_path_factory.mktemp("alone")
    tiny = Tiny(write_configs(folder / "configs"), folder / "store")
    assert not tiny.run(only=FEW)[1].missing
    return tiny


def a_defend_node(tiny: Tiny) -> Node:
    return next(node for node in tiny.session(only=FEW).meant if node.kind == "defend")


def test_what_another_run_computes_meanwhile_is_waited_for_and_taken(
    alone: Tiny, tmp_path: Path
) -> None:
    tiny = Tiny(alone.folder, tmp_path / "store")
    node = a_defend_node(tiny)
    other = Leases(Folder(tiny.store))
    assert other.claim(node.digest)
    place = folder_of(node.kind, node.digest)
    recorder = Recorder()

    def finish() -> None:
        # Only once there is nothing left to do but wait, and the run has said so.
        while not any(isinstance(event, Elsewhere) for event in recorder.events):
            time.sleep(0.05)
        shutil.copytree(alone.store / place, tiny.store / place)
        other.close()

    with ThreadPoolExecutor(1) as pool:
        finishing = pool.submit(finish)
        _, finished = tiny.run(only=FEW, recorder=recorder)
        finishing.result()
    assert not finished.missing
    (found,) = [event for event in recorder.done() if event.done.found]
    assert found.node == node
    assert sum(finished.computed.values()) == len(recorder.done()) - 1
    assert [type(event) for event in recorder.events].count(Elsewhere) == 1
    assert data_files(tiny.store) == data_files(alone.store)
    assert files(Folder(tiny.store)) == set()


def test_what_another_run_gave_up_is_computed(alone: Tiny, tmp_path: Path) -> None:
    tiny = Tiny(alone.folder, tmp_path / "store")
    other = Leases(Folder(tiny.store))
    assert other.claim(a_defend_node(tiny).digest)
    with ThreadPoolExecutor(1) as pool:

        def give_up() -> None:
            while len(list(tiny.store.glob("defend/??/*/meta.json"))) < 5:
                time.sleep(0.05)
            other.close()

        giving_up = pool.submit(give_up)
        recorder, finished = tiny.run(only=FEW)
        giving_up.result()
    assert not finished.missing
    assert not any(event.done.found for event in recorder.done())
    assert data_files(tiny.store) == data_files(alone.store)


def two_drivers(tiny: Tiny, first: str = "") -> list[str]:
    """Digests that two drivers computed that ran at once, each as often as it was computed.

    first: code that each begins with.
    """
    code = "import sys; from pathlib import Path; from killed_driver import run\n" + first
    code += "\nrun(Path(sys.argv[1]), Path(sys.argv[2]))"
    drivers = [
        subprocess.Popen(
            [sys.executable, "-c", code, str(tiny.folder), str(tiny.store)],
            env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
            stderr=subprocess.PIPE,
            text=True,
        )
        for _ in range(2)
    ]
    for driver in drivers:
        _, said = driver.communicate(timeout=600)
        assert driver.returncode == 0, said
    return Path(f"{tiny.store}.computed").read_text().split()


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_two_drivers_at_once_on_one_store_compute_each_node_once(tmp_path: Path) -> None:
    tiny = Tiny(write_configs(tmp_path / "configs"), tmp_path / "store")
    computed = two_drivers(tiny)
    assert sorted(computed) == sorted(digest for _, digest in Store(tiny.store).each())
    undisturbed = Tiny(tiny.folder, tmp_path / "alone")
    undisturbed.run()
    assert data_files(tiny.store) == data_files(undisturbed.store)


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_two_drivers_that_do_not_see_each_other_lose_nothing(tmp_path: Path) -> None:
    tiny = Tiny(write_configs(tmp_path / "configs"), tmp_path / "store")
    blind = "from pipeline.store.leases import Leases; Leases.claim = lambda self, digest: True"
    computed = two_drivers(tiny, blind)
    assert set(computed) == {digest for _, digest in Store(tiny.store).each()}
    assert not (tiny.store / "aside").exists()
    undisturbed = Tiny(tiny.folder, tmp_path / "alone")
    undisturbed.run()
    assert data_files(tiny.store) == data_files(undisturbed.store)

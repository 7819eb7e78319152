"""The first Ctrl-C stops in order, the second at once."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from ray_cluster import descendants
from test_cluster import listening
from tiny import Tiny, write_configs

from pipeline.execution.signals import stopping

SCRIPT = """
import sys, time
from pipeline.execution.signals import stopping
def say(line):
    print(line, flush=True)
with stopping(say):
    try:
        say("ready")
        time.sleep(60)
    except KeyboardInterrupt:
        say("in order")
        if len(sys.argv) > 1:
            time.sleep(60)
"""


def begun(*words: str) -> subprocess.Popen[str]:
    process = subprocess.Popen(
        [sys.executable, "-c", SCRIPT, *words], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    return process


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_the_first_signal_lets_what_runs_end_in_order(number: signal.Signals) -> None:
    process = begun()
    process.send_signal(number)
    said, _ = process.communicate(timeout=30)
    assert said.splitlines() == ["stopping in order; once more stops at once", "in order"]
    assert process.returncode == 0


def test_the_second_ends_the_process_at_once() -> None:
    process = begun("slowly")
    assert process.stdout is not None
    process.send_signal(signal.SIGINT)
    assert process.stdout.readline() == "stopping in order; once more stops at once\n"
    assert process.stdout.readline() == "in order\n"
    process.send_signal(signal.SIGINT)
    said, _ = process.communicate(timeout=30)
    assert "goes on from what is finished" in said
    assert process.returncode == 130


def test_afterwards_signals_do_what_they_did_before() -> None:
    before = signal.getsignal(signal.SIGINT)
    with stopping(print):
        assert signal.getsignal(signal.SIGINT) != before
    assert signal.getsignal(signal.SIGINT) == before


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_a_local_ray_listens_on_the_loopback_address_only_and_ctrl_c_leaves_nothing_behind(
    tmp_path: Path,
) -> None:
    write_configs(tmp_path / "configs")
    command = [str(Path(sys.executable).with_name("pipeline")), "run", "--grid", "tiny"]
    driver = subprocess.Popen(
        [*command, "--workers", "2"],
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    deadline = time.monotonic() + 900
    while not list((tmp_path / "store" / "train").glob("??/*/meta.json")):
        assert driver.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.05)
    processes = descendants(driver.pid)
    found = listening(processes)
    assert len(found) > 3
    assert all("127.0.0.1" in line for line in found), found
    # as a terminal does: to all processes of the group
    os.killpg(driver.pid, signal.SIGINT)
    _, said = driver.communicate(timeout=600)
    assert driver.returncode == 130, said
    assert "Traceback" not in said
    assert "the same command goes on from there" in said
    while alive := [process for process in processes if Path(f"/proc/{process}").exists()]:
        assert time.monotonic() < deadline, alive
        time.sleep(0.2)
    _, finished = Tiny(tmp_path / "configs", tmp_path / "store").run()
    assert not finished.missing
    assert "train" not in finished.computed


STUCK = """
import ctypes
from pipeline.execution.signals import stopping
mutex = ctypes.create_string_buffer(64)  # of zeros: one that is free
lock = ctypes.CDLL(None).pthread_mutex_lock
lock(mutex)
with stopping(lambda line: print(line, flush=True)):
    print("ready", flush=True)
    lock(mutex)  # no signal wakes what waits for it
"""


def test_the_second_ends_a_process_whose_main_thread_never_comes_back_to_python() -> None:
    process = subprocess.Popen(
        [sys.executable, "-c", STUCK], stdout=subprocess.PIPE, text=True, start_new_session=True
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    time.sleep(1)
    for _ in range(2):
        process.send_signal(signal.SIGINT)
        time.sleep(0.5)
    try:
        assert process.wait(timeout=20) == 130
    finally:
        process.kill()
        process.stdout.close()


class Deaf(BaseHTTPRequestHandler):
    """A tracking server that is there, and answers nothing that it is asked."""

    def do_GET(self) -> None:
        if self.path != "/health":
            time.sleep(300)
        self.send_response(200)
        self.end_headers()

    do_POST = do_GET  # noqa: N815

    def log_message(self, *args: object) -> None:
        pass


@pytest.mark.slow
def test_ctrl_c_ends_a_run_that_waits_for_mlflow_to_answer(tmp_path: Path) -> None:
    write_configs(tmp_path / "configs")
    server = ThreadingHTTPServer(("127.0.0.1", 0), Deaf)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, daemon=True).start()
    words = ["run", "--grid", "tiny", "--inline", "--images", "20", "--only", "defense=none"]
    address = f"http://127.0.0.1:{server.server_port}"
    process = subprocess.Popen(
        [sys.executable, "-m", "pipeline", *words, "--mlflow", address],
        cwd=tmp_path,
        env={**os.environ, "MLFLOW_HTTP_REQUEST_TIMEOUT": "200"}
        | {"PYTHONPATH": str(Path(__file__).parents[2])},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stderr is not None
    said = [next(process.stderr)]
    while "scored in" not in said[-1]:
        said.append(next(process.stderr))
    time.sleep(5)
    assert process.poll() is None
    process.send_signal(signal.SIGINT)
    assert process.wait(timeout=30) == 130
    assert "stopping in order" in process.stderr.read()
    process.stderr.close()
    server.shutdown()
    server.server_close()

"""A user's code that ends, poisons or outlives its cell: the cell fails, and nothing else does."""

from __future__ import annotations

import os
import random
import re
import signal
import subprocess
import sys
import threading
import time
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from tiny import Recorder, data_files, write_configs

from pipeline.commands.cli import main
from pipeline.commands.session import open_session
from pipeline.execution.events import (
    Event,
    NodeProgress,
    NodeSilent,
    NodeStarted,
    Observers,
    RunFinished,
)
from pipeline.execution.settings import Settings
from pipeline.execution.signals import ended_when_silent
from pipeline.execution.watch import Watch
from pipeline.execution.work import memory
from pipeline.grid.builder import Overrides
from tasks.progress import Progress

HEAD = "import os, random, signal, sys, time, warnings\nimport numpy as np\nimport torch\n"
BODY = """
from tasks.defenses.base import Defense


class {name}(Defense):
    def transform(self, pixels, rows, context):
        {does}
        return pixels
"""
ONLY = ["attack=clean"]


def run(
    folder: Path,
    *,
    inline: bool = True,
    settings: str = "",
    only: str = "defense=*",
    **does: str,
) -> tuple[Recorder, RunFinished]:
    """Run the tiny grid's `guo` after defenses that do what is said, by their names."""
    files = {
        f"defenses/{name}.py": HEAD + BODY.format(name=name.capitalize(), does=what)
        for name, what in does.items()
    }
    text = f"device: cpu\n{settings}"
    configs = write_configs(folder / "configs", {**files, "settings.yaml": text})
    session = open_session(
        "tiny",
        store=folder / "store",
        configs=[configs],
        only=[*ONLY, only],
        overrides=Overrides(images=30, add=[("defenses", name) for name in does]),
    )
    session.store.prepare()
    recorder = Recorder()
    finished = session.run(
        Observers([recorder]),
        inline=inline,
        address=None,
        workers=None if inline else 1,
        forced=set(),
    )
    return recorder, finished


def accuracies(finished: RunFinished) -> dict[str, object]:
    """By cell; seconds, which differ from run to run, left out."""
    return {name: facts["accuracy"] for name, facts in finished.scored.items()}


@pytest.mark.parametrize(
    ("does", "reason"),
    [
        ("sys.exit(0)", "SystemExit: 0"),
        ("sys.exit()", "SystemExit: no message"),
        ("raise KeyboardInterrupt", "KeyboardInterrupt: no message"),
        ("raise type('Own', (BaseException,), {})('mine')", "Own: mine"),
        ("raise __import__('asyncio').CancelledError", "CancelledError: no message"),
    ],
)
def test_what_would_end_the_program_is_a_failure_of_its_cell(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, does: str, reason: str
) -> None:
    monkeypatch.chdir(tmp_path)
    recorder, finished = run(tmp_path, bad=does)
    assert finished.missing == {
        "mixed/clean/bad": f"defense bad: {reason} (configs/defenses/bad.py:10)"
    }
    assert "mixed/clean/guo" in finished.scored
    assert not finished.interrupted
    assert len(recorder.failed()) == 1


@pytest.mark.parametrize("ends", ["import sys\nsys.exit(0)\n", "raise SystemExit\n"])
def test_a_file_that_ends_the_program_where_it_is_imported_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ends: str
) -> None:
    monkeypatch.chdir(tmp_path)
    write_configs(tmp_path / "configs", {"defenses/bad.py": ends})
    for command in ("plan", "run"):
        result = CliRunner().invoke(main, [command, "--grid", "tiny", "--add", "defense=bad"])
        assert result.exit_code == 2
        assert "bad.py" in result.stderr
        assert "SystemExit" in result.stderr


@pytest.mark.parametrize("call", ["torch.rand(1)", "np.random.rand()"])
def test_a_defense_that_draws_globally_in_large_batches_alone_fails_its_cell(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    """The contract is checked on few images, where it draws nothing."""
    monkeypatch.chdir(tmp_path)
    _, finished = run(tmp_path, bad=f"len(pixels) > 20 and {call}")
    module = "numpy" if call.startswith("np") else "torch"
    assert finished.missing == {
        "mixed/clean/bad": f"configs/defenses/bad.py:9: defense bad: draws random numbers of "
        f"{module}, which are no image's own; draw from `rows`, such as "
        'rows.uniform("noise", 64)'
    }
    assert "mixed/clean/guo" in finished.scored


POISONS: dict[str, tuple[str, Callable[[], object]]] = {
    "dtype": ("torch.set_default_dtype(torch.float64)", torch.get_default_dtype),
    "device": ("torch.set_default_device('meta')", torch.get_default_device),
    "grad": ("torch.set_grad_enabled(False)", torch.is_grad_enabled),
    "anomaly": ("torch.set_anomaly_enabled(True)", torch.is_anomaly_enabled),
    "denormal": (
        "torch.set_flush_denormal(True)",
        lambda: (torch.tensor([1e-44]) * 1.0).item() == 0,
    ),
    "threads": ("torch.set_num_threads(3)", torch.get_num_threads),
    "deterministic": (
        "torch.use_deterministic_algorithms(True)",
        torch.are_deterministic_algorithms_enabled,
    ),
    "precision": (
        "torch.set_float32_matmul_precision('medium')",
        torch.get_float32_matmul_precision,
    ),
    "cudnn": ("torch.backends.cudnn.benchmark = True", lambda: torch.backends.cudnn.benchmark),
    "seed": ("torch.manual_seed(1)", lambda: torch.get_rng_state().sum().item()),
    "numpy": ("np.random.seed(1)", lambda: list(np.random.get_state()[1][:3])),
    "random": ("random.seed(1)", lambda: hash(random.getstate())),
    "errors": ("np.seterr(all='ignore')", lambda: np.geterr()["over"]),
    "environment": ("os.environ['OMP_NUM_THREADS'] = '64'", lambda: dict(os.environ)),
    "place": ("os.chdir('/')", os.getcwd),
    "warnings": ("warnings.simplefilter('ignore')", lambda: list(warnings.filters)),
    "path": ("sys.path.insert(0, '/tmp')", lambda: list(sys.path)),
    "stdout": ("sys.stdout = open(os.devnull, 'w')", lambda: sys.stdout),
    "recursion": ("sys.setrecursionlimit(5000)", sys.getrecursionlimit),
    "signal": (
        "signal.signal(signal.SIGINT, signal.SIG_IGN)",
        lambda: signal.getsignal(signal.SIGINT),
    ),
}


@pytest.mark.filterwarnings("ignore::ResourceWarning")
@pytest.mark.filterwarnings("ignore:unclosed file")
def test_what_belongs_to_the_whole_process_is_as_it_was_after_every_node(tmp_path: Path) -> None:
    _, clean = run(tmp_path / "clean")
    before = {name: read() for name, (_, read) in POISONS.items()}
    _, finished = run(tmp_path / "bad", **{name: does for name, (does, _) in POISONS.items()})
    after = {name: read() for name, (_, read) in POISONS.items()}
    assert after == before
    # whatever became of the poisoners, the program's own cells say what they said without them
    assert accuracies(clean).items() <= accuracies(finished).items()
    built_in = data_files(tmp_path / "clean" / "store")
    assert built_in.items() <= data_files(tmp_path / "bad" / "store").items()
    assert memory.unusable() is None


def test_a_module_that_changes_torch_where_it_is_imported_changes_no_built_in_cell(
    tmp_path: Path,
) -> None:
    _, clean = run(tmp_path / "clean")
    try:
        bad = "return pixels\n\n\ntorch.set_default_dtype(torch.float64)\n\n\n"
        bad += "def unused(pixels):\n    if 1:"
        _, finished = run(tmp_path / "bad", bad=bad)
        assert torch.get_default_dtype() == torch.float64
    finally:
        torch.set_default_dtype(torch.float32)
    assert accuracies(clean).items() <= accuracies(finished).items()


def test_what_cannot_be_put_back_makes_the_process_unusable(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(memory, "_given_up", [])
    gone = tmp_path / "gone"
    gone.mkdir()
    monkeypatch.chdir(gone)
    _, finished = run(tmp_path, bad=f"os.path.exists({str(gone)!r}) and os.rmdir({str(gone)!r})")
    monkeypatch.chdir(tmp_path)
    reason = memory.unusable()
    assert reason is not None
    assert reason.startswith("defense bad: defend ")
    assert reason.endswith(" left the working folder changed")
    assert "mixed/clean/guo" in finished.scored


@pytest.mark.slow
def test_on_ray_a_worker_that_a_node_spoilt_is_not_used_again(tmp_path: Path) -> None:
    _, clean = run(tmp_path / "clean")
    spoils = "__import__('pipeline.execution.work.memory', fromlist=['give_up']).give_up('spoilt')"
    recorder, finished = run(tmp_path / "bad", inline=False, bad=spoils)
    assert "mixed/clean/bad" in finished.scored
    assert all(failure is None for failure in recorder.failed())
    assert accuracies(clean).items() <= accuracies(finished).items()
    assert data_files(tmp_path / "clean" / "store").items() <= (
        data_files(tmp_path / "bad" / "store").items()
    )


def test_out_of_memory_is_told_of_the_node_that_grew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(memory, "_grown", {})
    monkeypatch.setattr(memory, "_given_up", [])
    # Pages of its own: memory that an earlier test gave back to the allocator would not grow us.
    leak = (
        "import mmap; sys.modules.setdefault('leaked', []); "
        "sys.modules['leaked'] or sys.modules['leaked'].append(mmap.mmap(-1, 200_000_000)); "
        "sys.modules['leaked'][0][::4096] = bytes(len(range(0, 200_000_000, 4096)))"
    )
    poor = "raise MemoryError"
    try:
        _, finished = run(
            tmp_path, settings="kinds:\n  defend: {batch_size: 8}\n", leaky=leak, poor=poor
        )
    finally:
        sys.modules.pop("leaked", None)
    reason = finished.missing["mixed/clean/poor"]
    assert "out of memory; an earlier node holds" in reason
    assert re.search(r"holds 0\.[123] GB of this process: defense leaky: defend", reason)
    assert "mixed/clean/guo" in finished.scored


def test_a_process_that_users_nodes_grew_beyond_a_bound_is_given_up(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(memory, "_grown", {})
    monkeypatch.setattr(memory, "_given_up", [])
    memory.note_growth("defense small: defend 1", 10)
    memory.note_growth("defense leaky: defend 2", 600 * 2**20)
    assert memory.unusable() is None
    memory.note_growth("defense leaky: defend 3", 600 * 2**20)
    assert memory.unusable() == "defense leaky: defend 3 grew it by 0.6 GB"
    assert memory.resident_bytes() > 10_000_000


STUCK = "time.sleep(600)"


@pytest.mark.parametrize(
    "does",
    [
        STUCK,
        pytest.param("\n        while True:\n            pass", marks=pytest.mark.slow),
        pytest.param(
            "\n        while True:\n            try: time.sleep(1)\n            except OSError: 0",
            marks=pytest.mark.slow,
        ),
    ],
)
def test_a_node_that_never_returns_is_ended_inline_where_the_settings_say_so(
    tmp_path: Path, does: str
) -> None:
    before = signal.getsignal(signal.SIGALRM)
    began = time.monotonic()
    _, finished = run(tmp_path, settings="node_timeout_s: 6\n", bad=does)
    assert finished.missing == {
        "mixed/clean/bad": "defense bad: ended: it reported nothing for 6 s (node_timeout_s)"
    }
    assert "mixed/clean/guo" in finished.scored
    assert time.monotonic() - began < 120
    assert signal.getsignal(signal.SIGALRM) is before


@pytest.mark.slow
def test_a_node_that_never_returns_is_ended_on_ray_where_the_settings_say_so(
    tmp_path: Path,
) -> None:
    _, finished = run(tmp_path, inline=False, settings="node_timeout_s: 30\n", bad=STUCK)
    assert finished.missing == {
        "mixed/clean/bad": "ended: it reported nothing for 30 s (node_timeout_s)"
    }
    assert "mixed/clean/guo" in finished.scored


def test_a_node_that_tells_something_now_and_then_is_not_ended() -> None:
    with ended_when_silent(1.0) as told:
        for _ in range(8):
            time.sleep(0.25)
            told()


def test_no_time_limit_is_set_by_default_nor_outside_the_main_thread() -> None:
    assert Settings().node_timeout_s is None

    def inside() -> None:
        with ended_when_silent(0.01) as told:
            time.sleep(0.1)
            told()

    thread = threading.Thread(target=inside)
    thread.start()
    thread.join()
    left, _ = signal.getitimer(signal.ITIMER_REAL)
    with ended_when_silent(50.0):
        assert signal.getitimer(signal.ITIMER_REAL)[0] <= 50
    # somebody else's alarm, such as that of these tests, goes off when it would have
    assert signal.getitimer(signal.ITIMER_REAL)[0] == pytest.approx(left, abs=5)


def test_a_node_that_tells_nothing_is_told_of_after_a_while_and_ever_more_rarely(
    tmp_path: Path,
) -> None:
    session = open_session(
        "tiny", store=tmp_path / "store", configs=[write_configs(tmp_path / "configs")]
    )
    node = next(iter(session.scores.values()))
    now = 0.0
    told: list[Event] = []
    watch = Watch(told.append, limit_s=500.0, clock=lambda: now, every_s=3600.0)
    watch.notify(NodeStarted(node))
    now = 1000.0
    watch.look()
    assert told == []  # it waits for its turn
    watch.notify(NodeProgress(node.digest, Progress(0, 1)))
    for now in range(1000, 1300, 10):  # noqa: B007  the clock reads it
        watch.look()
    assert told == [
        NodeSilent(node, 60.0, 500.0),
        NodeSilent(node, 120.0, 500.0),
        NodeSilent(node, 240.0, 500.0),
    ]
    watch.notify(NodeProgress(node.digest, Progress(1, 2)))
    watch.look()
    assert len(told) == 3
    watch.close()


def test_a_ctrl_c_without_a_handler_of_the_program_still_ends_the_run_in_order(
    tmp_path: Path,
) -> None:
    def press() -> None:
        while not (tmp_path / "begun").exists():
            time.sleep(0.05)
        os.kill(os.getpid(), signal.SIGINT)

    timer = threading.Thread(target=press, daemon=True)
    timer.start()
    sleeps = f"os.mkdir({str(tmp_path / 'begun')!r}); time.sleep(60)"
    # a shell that starts the tests in the background lets them ignore it
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        _, finished = run(tmp_path, only="defense=[bn]*", bad=sleeps)
    finally:
        signal.signal(signal.SIGINT, before)
    timer.join()
    assert finished.interrupted


def test_a_run_from_the_command_line_says_which_cell_failed_and_goes_on(tmp_path: Path) -> None:
    configs = {
        "defenses/bad.py": HEAD + BODY.format(name="Bad", does="len(pixels) == 30 and sys.exit(0)")
    }
    write_configs(tmp_path / "configs", configs)
    words = ["run", "--grid", "tiny", "--inline", "--images", "30", "--add", "defense=bad"]
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "pipeline",
            *words,
            "--only",
            "attack=clean",
            "--mlflow",
            "http://127.0.0.1:1",
        ],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
        capture_output=True,
        text=True,
        timeout=280,
        check=False,
    )
    assert done.returncode == 1, done.stderr
    assert "failed  defense bad: SystemExit: 0 (configs/defenses/bad.py:10)" in done.stderr
    assert "5 of 6 cells scored" in done.stderr

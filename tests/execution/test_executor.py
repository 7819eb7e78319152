"""Attempts at a node: out of memory, lost workers, machines of no use."""

from __future__ import annotations

import dataclasses
import signal
import sys
import tempfile
import time
from collections.abc import Collection
from importlib.metadata import version
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from tiny import Recorder, Tiny, write_configs

from pipeline.catalogue.code.libraries import library_version
from pipeline.catalogue.code.own import pack
from pipeline.execution.events import Done, Failure, NodeRetried, Observers, Retry
from pipeline.execution.executors import machines as ray_machines
from pipeline.execution.executors import ray as ray_executor
from pipeline.execution.executors.base import Smaller, silent_for
from pipeline.execution.executors.ray import RayExecutor, _no_answer, begin
from pipeline.execution.executors.worker import Mailbox, look, perform_remotely
from pipeline.execution.settings import KindSettings, Settings
from pipeline.execution.signals import Interrupted, stopping
from pipeline.execution.work import evaluate as node_work
from pipeline.execution.work.inputs import NodeInputs
from pipeline.grid.graph import Node
from pipeline.grid.kinds import NODE_KINDS, NodeKind
from pipeline.problems import BadInput
from pipeline.store.store import Store
from tasks.progress import Progress
from tasks.specs import Shard

NODE = Node("craft", Shard(start=0, stop=5))


@pytest.fixture
def tiny(tmp_path: Path) -> Tiny:
    return Tiny(write_configs(tmp_path / "configs"), tmp_path / "store")


def run(tiny: Tiny, cell: str) -> tuple[Recorder, Any]:
    session = tiny.session(only=[f"cell={cell}"], images=300)
    session.store.prepare()
    recorder = Recorder()
    finished = session.run(
        Observers([recorder]), inline=True, address=None, workers=None, forced=set()
    )
    return recorder, finished


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"),
        MemoryError(),
        RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate"),
    ],
)
def test_what_runs_out_of_memory_is_tried_again_with_half_as_many_images_at_once(
    tiny: Tiny, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    real = node_work.craft

    def crowded(*args: Any, batch_size: int, **more: Any) -> Any:
        if batch_size > 130:
            raise error
        return real(*args, batch_size=batch_size, **more)

    monkeypatch.setattr(node_work, "craft", crowded)
    recorder, finished = run(tiny, "mixed/pgd/none")
    assert not finished.missing
    again = [event.reason for event in recorder.events if isinstance(event, NodeRetried)]
    # 1024, 512, 256
    assert again == ["out of memory; now with half the memory"] * 3
    (crafted,) = recorder.done("craft")
    assert crafted.done.how["batch_size"] == 128
    # only the node that needs it runs smaller
    assert recorder.done("defend")[0].done.how["batch_size"] == 512


def test_how_a_grid_was_made_names_the_instructions_that_decide_how_sums_are_rounded(
    tiny: Tiny,
) -> None:
    run(tiny, "mixed/clean/none")
    made = tiny.session().provenance()
    assert made["instructions"] == torch.backends.cpu.get_cpu_capability()


def test_the_cost_of_a_prediction_is_of_asking_and_not_of_reading_weights_and_images(
    tiny: Tiny, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = NodeInputs.context

    def slow(self: Any, precision: Any) -> Any:
        time.sleep(0.5)
        return real(self, precision)

    monkeypatch.setattr(NodeInputs, "context", slow)
    recorder, _ = run(tiny, "mixed/clean/none")
    (defended,), (scored,) = recorder.done("defend"), recorder.done("score")
    how, facts = defended.done.how, scored.done.facts
    assert 0 < how["asking_seconds"] <= how["seconds"] - 0.5
    assert facts["seconds_per_prediction"] == pytest.approx(how["asking_seconds"] / 300)


def test_a_score_tells_on_how_many_answers_a_defense_acts(tiny: Tiny) -> None:
    alone, _ = run(tiny, "mixed/pgd/none")
    recorder, _ = run(tiny, "mixed/pgd/guo")
    (bare,), (cropped,) = alone.done("score"), recorder.done("score")
    assert bare.done.facts["acts_on"] == 0
    (defended,) = recorder.done("defend")
    facts, answers = defended.done.facts, 300 * 2
    assert 0 < facts["acted_on_answers"] < answers
    assert cropped.done.facts["acts_on"] == 100 * facts["acted_on_answers"] / answers
    # what was asked for this is no cost of the defense
    assert cropped.done.facts["forwards_per_prediction"] == 2
    assert "abstained" not in cropped.done.facts


def test_what_fits_not_even_in_small_batches_fails_and_says_so(
    tiny: Tiny, monkeypatch: pytest.MonkeyPatch
) -> None:
    def crowded(*args: Any, **more: Any) -> Any:
        raise MemoryError

    monkeypatch.setattr(node_work, "craft", crowded)
    recorder, finished = run(tiny, "mixed/pgd/none")
    assert finished.missing == {"mixed/pgd/none": "out of memory with 8 images at once"}
    assert len([event for event in recorder.events if isinstance(event, NodeRetried)]) == 7


def test_a_training_that_runs_out_of_memory_fails_at_once() -> None:
    node = Node("train", Shard(start=0, stop=5))
    result = Smaller(Settings()).after(node, Retry(node.digest, "out of memory", smaller=True))
    assert isinstance(result, Failure)
    assert result.reason == "out of memory"


class Lost(Exception):
    """What Ray raises."""


@dataclasses.dataclass
class Cluster:
    """As much of Ray as the executor asks of it; each answer is returned or raised."""

    answers: list[object]
    submitted: list[dict[str, Any]] = dataclasses.field(default_factory=list)
    mailbox: Mailbox = dataclasses.field(default_factory=Mailbox)
    cancelled: list[object] = dataclasses.field(default_factory=list)
    busy: list[float] | None = None
    """The clock to wait by, while no task has ended."""
    late: bool = False
    """Whether the mailbox does not answer in time."""
    machines: list[dict[str, float]] = dataclasses.field(default_factory=lambda: [{"CPU": 2.0}])

    def __post_init__(self) -> None:
        self.exceptions = SimpleNamespace(
            RayError=Lost,
            GetTimeoutError=type("GetTimeoutError", (Lost,), {}),
            OutOfMemoryError=type("OutOfMemoryError", (Lost,), {}),
            RayTaskError=type("RayTaskError", (Lost,), {}),
        )

    def init(self, **_: object) -> None:
        pass

    def shutdown(self) -> None:
        pass

    def nodes(self) -> list[dict[str, Any]]:
        dead = {"Alive": False, "Resources": {"CPU": 128.0, "GPU": 16.0}}
        return [dead, *({"Alive": True, "Resources": found} for found in self.machines)]

    def remote(self, what: object) -> Any:
        """The task that nodes are handed to, or the actor that hears of them."""
        if what is not Mailbox:
            return self
        # as an actor does, it empties itself even if nobody waits for the answer
        mailbox = SimpleNamespace(drain=SimpleNamespace(remote=self.mailbox.drain))
        return SimpleNamespace(options=lambda **_: SimpleNamespace(remote=lambda: mailbox))

    def wait(
        self, references: list[int], *, timeout: float, **_: object
    ) -> tuple[list[int], list[int]]:
        if self.busy is None:
            return references[:1], references[1:]
        self.busy.append(timeout)
        return [], references

    def cancel(self, reference: object, **_: object) -> None:
        self.cancelled.append(reference)

    def get(self, reference: object, **_: object) -> object:
        if not isinstance(reference, int):
            if self.late:
                raise self.exceptions.GetTimeoutError
            return reference
        answer = self.answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        # beside the result, why the worker is given up
        return answer if isinstance(answer, tuple) else (answer, None)

    def options(self, **options: Any) -> Any:
        def remote(
            digest: str, parcel: Any, store: str, settings: Settings, *rest: object, **more: object
        ) -> int:
            size = settings.of(NODE.kind).batch_size
            self.submitted.append({**options, "batch_size": size, **more})
            return len(self.submitted)

        return SimpleNamespace(remote=remote)


@pytest.fixture
def pauses(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Time that only passes by sleeping, and the sleeps."""
    slept: list[float] = []
    clock = SimpleNamespace(monotonic=lambda: sum(slept), sleep=slept.append)
    monkeypatch.setattr(ray_executor, "time", clock)
    monkeypatch.setattr(ray_machines, "time", clock)
    return slept


def executor(
    cluster: Cluster, tmp_path: Path, used: Collection[NodeKind] = NODE_KINDS, **settings: Any
) -> RayExecutor:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ray_executor, "_ray", lambda: cluster)
        patch.setattr(ray_executor, "_copy_code", lambda folder: None)
        patch.setattr(ray_executor, "_prepare_environment", lambda address: None)
        patch.setattr(tempfile, "tempdir", str(tmp_path))
        return RayExecutor(Store(tmp_path / "store"), Settings(**settings), print, kinds=used)


def test_ctrl_c_while_ray_starts_waits_for_it_and_stops_it(tmp_path: Path) -> None:
    calls: list[str] = []

    class Starting(Cluster):
        def init(self, **_: object) -> None:
            # as Ray does
            signal.signal(signal.SIGTERM, lambda *_: sys.exit(15))
            signal.raise_signal(signal.SIGINT)
            calls.append("started")

        def shutdown(self) -> None:
            calls.append("stopped")

    with stopping(calls.append):
        ours = signal.getsignal(signal.SIGTERM)
        with pytest.raises(Interrupted):
            executor(Starting([]), tmp_path)
        assert signal.getsignal(signal.SIGTERM) is ours
    assert calls == ["stopping in order; once more stops at once", "started", "stopped"]
    assert not list(tmp_path.glob("pipeline-code-*"))


def test_the_user_is_told_that_ray_takes_long_to_stop(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    ray = executor(Cluster([]), tmp_path)
    monkeypatch.setattr(ray_executor, "TOLD_S", 0.01)
    monkeypatch.setattr(Cluster, "shutdown", lambda _: time.sleep(0.5))
    ray.close()
    assert capsys.readouterr().err == "stopping Ray\n"


def test_a_lost_worker_s_node_is_tried_again_after_pauses_that_double(
    tmp_path: Path, pauses: list[float]
) -> None:
    done = Done(NODE.digest, "c", {}, {})
    cluster = Cluster([Lost("gone"), Lost("gone"), done])
    ray = executor(cluster, tmp_path)
    ray.submit(NODE, replace=True)
    waits = []
    for _ in range(2):
        assert ray.next() == Retry(NODE.digest, "its worker was lost (Lost)")
        waits.append(sum(pauses))
    assert ray.next() == done
    waits.append(sum(pauses))
    assert [round(later - sooner) for sooner, later in pairwise(waits)] == [1, 2]
    assert [entry["replace"] for entry in cluster.submitted] == [True] * 3
    assert {entry["max_retries"] for entry in cluster.submitted} == {0}


def test_after_so_many_lost_workers_the_node_failed(tmp_path: Path, pauses: list[float]) -> None:
    ray = executor(Cluster([Lost("gone")] * 3), tmp_path)
    ray.submit(NODE)
    assert [type(ray.next()) for _ in range(2)] == [Retry, Retry]
    last = ray.next()
    assert isinstance(last, Failure)
    assert last.reason == "its worker was lost (Lost), 3 times"


def test_a_machine_that_runs_out_of_memory_gets_a_smaller_node_at_once(
    tmp_path: Path, pauses: list[float]
) -> None:
    cluster = Cluster([])
    done = Done(NODE.digest, "c", {}, {})
    cluster.answers = [cluster.exceptions.OutOfMemoryError("killed"), done]
    ray = executor(cluster, tmp_path, kinds={"craft": KindSettings(batch_size=100)})
    ray.submit(NODE)
    again = ray.next()
    assert isinstance(again, Retry)
    assert again.reason == "its machine ran out of memory; now with half the memory"
    assert ray.next() == done
    assert [entry["batch_size"] for entry in cluster.submitted] == [100, 50]
    assert pauses == []


def test_a_node_that_came_to_a_worker_which_was_given_up_is_not_to_blame(
    tmp_path: Path, pauses: list[float]
) -> None:
    done = Done(NODE.digest, "c", {}, {})
    cluster = Cluster([(done, "spoilt"), Lost("gone"), done])
    ray = executor(cluster, tmp_path)
    ray.submit(NODE)
    assert ray.next() == done
    ray.submit(NODE)
    assert ray.next() == Retry(NODE.digest, "its worker was given up: spoilt")
    assert ray.next() == done
    assert ray._lost == {}


def test_an_error_of_the_program_s_own_is_no_lost_worker(
    tmp_path: Path, pauses: list[float]
) -> None:
    cluster = Cluster([])
    said = "ray::perform()\n  File x\nModuleNotFoundError: No module named 'torch'"
    cluster.answers = [cluster.exceptions.RayTaskError(said)]
    ray = executor(cluster, tmp_path)
    ray.submit(NODE)
    failed = ray.next()
    assert isinstance(failed, Failure)
    assert failed.reason == "RayTaskError: ModuleNotFoundError: No module named 'torch'"


def test_a_mailbox_that_answers_late_makes_no_node_silent(
    tmp_path: Path, pauses: list[float]
) -> None:
    cluster = Cluster([], busy=pauses)
    ray = executor(cluster, tmp_path, node_timeout_s=3.0)
    ray.submit(NODE)
    for late in (False, True):
        cluster.late = late
        cluster.mailbox.put(NODE.digest, Progress(1, 200, "epoch"))
        ray.next(0.5)
    # the answer to what was asked before
    cluster.late = False
    pauses.append(1.5)
    ray.next(0.5)
    assert cluster.cancelled == []
    # without an answer nothing is known
    cluster.late = True
    pauses.append(5.0)
    ray.next(0.5)
    assert cluster.cancelled == []
    cluster.late = False
    ray.next(0.5)
    assert cluster.cancelled == [1]


def test_a_node_that_ended_is_not_silent(tmp_path: Path, pauses: list[float]) -> None:
    done = Done(NODE.digest, "c", {}, {})
    cluster = Cluster([done, done, Lost("cancelled")], busy=pauses)
    ray = executor(cluster, tmp_path, node_timeout_s=3.0)

    def begun() -> None:
        cluster.busy = pauses
        ray.submit(NODE)
        cluster.mailbox.put(NODE.digest, Progress(1, 200, "epoch"))
        ray.next(0.5)
        pauses.append(5.0)

    begun()
    cluster.busy = None  # it ended while the driver did something else
    assert ray.next() == done
    assert cluster.cancelled == []
    for result in (done, Failure(NODE.digest, silent_for(Settings(node_timeout_s=3.0)))):
        begun()
        ray.next(0.5)
        cluster.busy = None  # it ended when it was about to be cancelled, or because of that
        assert ray.next() == result
    assert cluster.cancelled == [2, 3]


def test_a_report_of_a_lost_attempt_is_not_one_of_the_next(
    tmp_path: Path, pauses: list[float]
) -> None:
    cluster = Cluster([Lost("gone")])
    ray = executor(cluster, tmp_path, node_timeout_s=3.0)
    ray.submit(NODE)
    assert isinstance(ray.next(), Retry)
    cluster.mailbox.put(NODE.digest, Progress(1, 200, "epoch"))
    pauses.append(5.0)
    cluster.busy = pauses  # the next attempt waits for a worker
    ray.next(0.5)
    pauses.append(5.0)
    ray.next(0.5)
    assert cluster.cancelled == []


def test_machines_that_join_later_are_used(tmp_path: Path, pauses: list[float]) -> None:
    done = Done(NODE.digest, "c", {}, {})
    # a head without CPUs, as on a cluster whose workers are started on demand
    cluster = Cluster([done], machines=[{}])
    ray = executor(cluster, tmp_path, kinds={"craft": KindSettings(threads=4, gpus=0.5)})
    assert (ray.name, ray.capacity) == ("ray (local, 1 CPUs)", 4)
    ray.submit(NODE)
    cluster.machines = [{}, {"CPU": 64.0, "GPU": 8.0}]
    pauses.append(ray_machines.KEPT_S)
    # the driver submits more, although no node has ended
    assert ray.next() is None
    assert (ray.name, ray.capacity) == ("ray (local, 64 CPUs, 8 GPUs)", 256)
    ray.submit(NODE)
    assert [(each["num_cpus"], each["num_gpus"]) for each in cluster.submitted] == [
        (1, 0),
        (4, 0.5),
    ]
    assert ray.next() == done


@pytest.mark.parametrize(
    ("machines", "threads", "gpus", "asked"),
    [
        ([{"CPU": 1.0}, {"CPU": 1.0}], 2, 0.0, 1),
        ([{"CPU": 1.0}, {"CPU": 4.0}], 2, 0.0, 2),
        ([{"CPU": 64.0}, {"CPU": 8.0, "GPU": 1.0}], 16, 0.0, 16),
        ([{"CPU": 64.0}, {"CPU": 8.0, "GPU": 1.0}], 16, 0.5, 8),
    ],
)
def test_a_node_asks_for_no_more_cpus_than_a_machine_has(
    tmp_path: Path, machines: list[dict[str, float]], threads: int, gpus: float, asked: int
) -> None:
    cluster = Cluster([], machines=machines)
    kinds = {"craft": KindSettings(threads=threads, gpus=gpus)}
    executor(cluster, tmp_path, kinds=kinds).submit(NODE)
    assert [(each["num_cpus"], each["num_gpus"]) for each in cluster.submitted] == [(asked, gpus)]


def test_more_gpus_than_any_machine_has_are_refused(tmp_path: Path, pauses: list[float]) -> None:
    kinds = {"craft": KindSettings(gpus=2)}
    said = "a craft node asks for 2 GPUs, and no machine has more than 1; set `gpus` of craft to 1"
    several = Cluster([], machines=[{"CPU": 8.0, "GPU": 1.0}] * 2)
    with pytest.raises(BadInput, match=said):
        executor(several, tmp_path, kinds=kinds)
    executor(several, tmp_path, kinds=kinds, device="cpu")
    executor(several, tmp_path, kinds=kinds, used=("train",))
    later = Cluster([])
    ray = executor(later, tmp_path, kinds=kinds)
    later.machines = several.machines
    pauses.append(ray_machines.KEPT_S)
    with pytest.raises(BadInput, match=said):
        ray.submit(NODE)


def test_a_node_that_waits_for_a_machine_that_was_lost_is_told_and_asks_for_less(
    tmp_path: Path, pauses: list[float]
) -> None:
    large, small = {"CPU": 8.0, "GPU": 2.0}, {"CPU": 2.0}
    cluster = Cluster([], machines=[large, small], busy=pauses)
    ray = executor(cluster, tmp_path, kinds={"craft": KindSettings(threads=8, gpus=2)})
    ray.submit(NODE, replace=True)
    assert ray.next(ray_executor.UNPLACED_S + 9) is None
    cluster.machines = [small, {"CPU": 4.0, "GPU": 1.0}]
    waiting = Retry(
        NODE.digest,
        "waiting for a machine with 8 CPUs and 2 GPUs; the largest has 4 CPUs and 1 GPU",
    )
    # as long as there are GPUs, the kind has to have its own
    assert [ray.next(), ray.next()] == [waiting, waiting]
    assert cluster.cancelled == []
    cluster.machines = [small]
    assert isinstance(ray.next(), Retry)
    assert ray.next(2 * ray_executor.UNPLACED_S) is None
    assert [(each["num_cpus"], each["num_gpus"]) for each in cluster.submitted] == [
        (8, 2.0),
        (2, 0),
    ]
    assert all(each["replace"] for each in cluster.submitted)
    assert cluster.cancelled == [1]


def test_a_machine_tells_whether_it_sees_the_store(tmp_path: Path) -> None:
    store = Store(tmp_path / "store")
    store.backend.write("scratch/token", b"token")
    assert look(store.address, "scratch/token", b"token").blind is None
    assert look(store.address, "scratch/token", b"other").blind == "another store is there"
    other = look(str(tmp_path / "elsewhere"), "scratch/token", b"token")
    assert other.blind == "what the driver wrote is not there"
    assert look("s3://b?x=1", "k", b"").blind == (
        "--store: unknown option 'x'; known: cache, cache_gb, endpoint, region"
    )


@pytest.mark.parametrize("library", ["torch", "pillow"])
def test_other_code_or_libraries_are_told_in_one_line(tmp_path: Path, library: str) -> None:
    here = look(str(tmp_path), "none", b"")
    assert here.differs(here) is None
    versions = tuple((name, "9.9" if name == library else seen) for name, seen in here.versions)
    assert here.differs(dataclasses.replace(here, versions=versions)) == (
        f"has {library} 9.9, the driver {version(library)}: install the same everywhere"
    )
    other = here.differs(dataclasses.replace(here, code="0"))
    assert other == "runs other code of this program than the driver"


def test_a_worker_that_cannot_open_the_store_fails_its_node_in_one_line() -> None:
    result, given_up = perform_remotely(
        NODE.digest, pack(NODE), "s3://b?x=1", Settings(), None, replace=False, until=None
    )
    assert given_up is None
    assert isinstance(result, Failure)
    assert "--store: unknown option 'x'" in result.reason


def test_a_worker_with_another_version_of_a_library_fails_its_node_in_one_line() -> None:
    result, _ = perform_remotely(
        NODE.digest,
        pack(NODE, {"foolbox": "9.9"}),
        "nowhere",
        Settings(),
        None,
        replace=False,
        until=None,
    )
    assert isinstance(result, Failure)
    assert result.reason == (
        f"foolbox: this worker has version {library_version('foolbox')} of it, the driver 9.9: "
        "install the same everywhere"
    )


def test_a_cluster_of_no_use_stops_the_run_before_the_user_s_files_are_read(
    tiny: Tiny, monkeypatch: pytest.MonkeyPatch
) -> None:
    def useless(*args: object, **more: object) -> None:
        raise BadInput("machine m does not see the store")

    monkeypatch.setattr(ray_executor, "RayExecutor", useless)
    session = tiny.session()
    session.store.prepare()
    recorder = Recorder()
    with pytest.raises(BadInput, match="machine m does not see"):
        session.run(Observers([recorder]), inline=False, address="h:1", workers=None, forced=set())
    assert list(session.store.each()) == []


class SlowRay:
    """A Ray whose first starts fail."""

    def __init__(self, *errors: Exception) -> None:
        self.errors, self.calls = list(errors), []

    def init(self, **options: Any) -> None:
        self.calls.append(options)
        if self.errors:
            raise self.errors.pop(0)

    def shutdown(self) -> None:
        self.calls.append("shutdown")


def test_a_ray_that_a_busy_machine_was_too_slow_for_is_started_once_more(
    capsys: pytest.CaptureFixture[str],
) -> None:
    slow = Exception("The current node timed out during startup. This could happen because")
    ray = SlowRay(slow)
    begin(ray, address="local", num_cpus=2)
    start = {"address": "local", "num_cpus": 2}
    assert ray.calls == [start, "shutdown", start]
    (line,) = capsys.readouterr().err.splitlines()
    assert line == "Ray took too long to start, as on a busy machine; trying once more"
    said = str(_no_answer(None, slow))
    assert said.startswith("Ray on this machine does not answer: The current node timed out")
    assert said.endswith("the machine may be too busy: try again, or use --inline")
    with pytest.raises(Exception, match="timed out"):
        begin(SlowRay(slow, slow), address="local")
    other = SlowRay(ConnectionError("refused"))
    with pytest.raises(ConnectionError):
        begin(other, address="local")
    assert len(other.calls) == 1

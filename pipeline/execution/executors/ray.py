"""Where nodes run on many workers: the only door to Ray.

Workers get the driver's own code: the packages are copied into a folder that Ray hands to
every worker as its working directory. So no module that happens to lie in the driver's
current folder stands before ours.
"""

from __future__ import annotations

import logging
import math
import os
import shutil
import socket
import tempfile
import time
import uuid
from pathlib import Path
from typing import Any

from pipeline.catalogue.code.own import pack
from pipeline.execution.events import Failure, Result, Retry
from pipeline.execution.executors.base import Report, Smaller, silent_for
from pipeline.execution.executors.worker import Machine, Mailbox, look, perform_remotely
from pipeline.execution.settings import Settings
from pipeline.grid.graph import Node
from pipeline.problems import BadInput, reason_of
from pipeline.store.store import Store

POLL_S = 1.0
PAUSE_S = 1.0
"""Before a node whose worker was lost is tried again; twice as long each time."""
LONGEST_PAUSE_S = 60.0
LOOK_S = 300.0
"""How long all machines together may take to start a worker and look at the store."""
SLOW_START = "timed out during startup"
"""What Ray says where its own processes took too long to find each other."""
CONNECT_S = 5.0
ANSWER_S = 10.0
"""How long a cluster's port may take to be reached, and then to say what it speaks."""
HTTP2_HELLO = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes([0, 0, 0, 4, 0, 0, 0, 0, 0])
"""With what gRPC, which Ray speaks, opens a connection: its preface and an empty SETTINGS frame,
which is also how the other side begins."""
OBJECT_STORE_BYTES = 128 * 2**20
"""Ray's own memory for objects: tensors go through the store, so little is needed."""


class RayExecutor:
    """Runs each node as a Ray task, on a cluster or on a local Ray of its own.

    BadInput where the cluster does not answer, or one of its machines is of no use: it does not
    see the store, or has other code or libraries.
    """

    def __init__(
        self,
        store: Store,
        settings: Settings,
        report: Report,
        *,
        address: str | None = None,
        workers: int | None = None,
        until: float | None = None,
    ) -> None:
        if address is not None:
            ask_port(address)
        _prepare_environment(address)
        self._ray = _ray()
        self._store = store
        self._attempts = settings.attempts
        self._on_gpu = settings.device != "cpu"
        self._settings = Smaller(settings)
        self._report = report
        self._until = until
        self._code = Path(tempfile.mkdtemp(prefix="pipeline-code-"))
        _copy_code(self._code)
        own = {
            "num_cpus": workers,
            "include_dashboard": False,
            "object_store_memory": OBJECT_STORE_BYTES,
        }
        try:
            begin(
                self._ray,
                # never the cluster that some leftover file or variable points to
                address=address or "local",
                runtime_env={"working_dir": str(self._code)},
                log_to_driver=False,
                configure_logging=False,
                **({} if address else own),
            )
        except Exception as error:  # noqa: BLE001  Ray raises bare ones, too
            shutil.rmtree(self._code, ignore_errors=True)
            raise _no_answer(address, error) from None
        resources = self._ray.cluster_resources()
        self._cpus = int(resources.get("CPU", 1))
        machines = (machine["Resources"].get("CPU", 1) for machine in self._ray.nodes())
        self._machine_cpus = int(max(machines, default=self._cpus))
        self._gpus = resources.get("GPU", 0.0)
        self._where = address or "local"
        self._task = self._ray.remote(perform_remotely)
        self._mailbox = self._ray.remote(Mailbox).options(num_cpus=0, max_restarts=-1).remote()
        self._running: dict[Any, tuple[Node, bool]] = {}
        self._later: list[tuple[float, Node, bool]] = []
        self._lost: dict[str, int] = {}
        self._heard: dict[str, float] = {}
        """When a node at work last told something, by `time.monotonic`."""
        self._ended: set[str] = set()
        """Nodes that are being ended since they told nothing for too long."""
        self._given_up: list[str] = []
        """Why workers ended of themselves, as far as no node has come to one of them since."""
        if address is not None:
            try:
                self._look_at_machines()
            except BaseException:
                self.close()
                raise

    @property
    def name(self) -> str:
        """`ray (local, 2 CPUs)`."""
        gpus = f", {self._gpus:g} GPUs" if self._gpus else ""
        return f"ray ({self._where}, {self._cpus} CPUs{gpus})"

    @property
    def capacity(self) -> int:
        """Enough that no worker waits for the driver."""
        return 4 * max(self._cpus, 1)

    def submit(self, node: Node, *, replace: bool = False) -> None:
        """Hand a node to Ray with the resources that its kind asks for."""
        settings = self._settings.of(node)
        kind = settings.of(node.kind)
        options = {
            "name": f"{node.kind} {node.digest[:8]}",
            "num_cpus": min(kind.threads, self._cpus),
            "num_gpus": kind.gpus if self._gpus and self._on_gpu else 0,
            "scheduling_strategy": "SPREAD",
            # the executor's own attempts pause in between, and are told of
            "max_retries": 0,
        }
        reference = self._task.options(**options).remote(
            node.digest,
            pack(node),
            self._store.address,
            settings.model_copy(update={"beside": max(1, self._machine_cpus // kind.threads)}),
            self._mailbox,
            replace=replace,
            until=self._until,
        )
        self._running[reference] = (node, replace)
        self._heard.pop(node.digest, None)

    def next(self, patience_s: float | None = None) -> Result | None:
        """Wait for one task, telling meanwhile how far the others are."""
        until = math.inf if patience_s is None else time.monotonic() + patience_s
        while time.monotonic() < until:
            self._submit_due()
            if not self._running:
                time.sleep(POLL_S / 10)
                continue
            ready, _ = self._ray.wait(list(self._running), num_returns=1, timeout=POLL_S)
            self._tell()
            self._end_silent()
            if ready:
                node, replace = self._running.pop(ready[0])
                result = self._result(ready[0], node)
                if isinstance(result, Retry) and result.smaller:
                    result = self._settings.after(node, result)
                if isinstance(result, Retry):
                    pause = 0.0 if result.smaller else self._pause(node)
                    self._later.append((time.monotonic() + pause, node, replace))
                return result
        return None

    def _result(self, reference: Any, node: Node) -> Result:
        """What a task returned, or what became of it."""
        errors = self._ray.exceptions
        if node.digest in self._ended:
            self._ended.remove(node.digest)
            return Failure(node.digest, silent_for(self._settings.of(node)))
        try:
            result: Result
            result, given_up = self._ray.get(reference)
        except errors.OutOfMemoryError:
            return Retry(node.digest, "its machine ran out of memory", smaller=True)
        except errors.RayTaskError as error:
            return Failure(node.digest, _one_line(error), str(error))
        except errors.RayError as error:
            return self._after_loss(node, error)
        if given_up is not None:
            self._given_up.append(given_up)
        return result

    def _after_loss(self, node: Node, error: Exception) -> Retry | Failure:
        """What follows for a node whose worker was lost."""
        if self._given_up:
            # what came to a worker that was about to end is not to blame
            return Retry(node.digest, f"its worker was given up: {self._given_up.pop()}")
        self._lost[node.digest] = lost = self._lost.get(node.digest, 0) + 1
        reason = f"its worker was lost ({type(error).__name__})"
        if lost >= self._attempts:
            return Failure(node.digest, f"{reason}, {lost} times", str(error))
        return Retry(node.digest, reason)

    def _end_silent(self) -> None:
        """End the workers of nodes that told nothing for longer than the settings allow."""
        for reference, (node, _) in self._running.items():
            limit = self._settings.of(node).node_timeout_s
            heard = self._heard.get(node.digest)
            if limit is None or heard is None or node.digest in self._ended:
                continue
            if time.monotonic() - heard > limit:
                self._ended.add(node.digest)
                self._ray.cancel(reference, force=True)

    def _pause(self, node: Node) -> float:
        lost = self._lost.get(node.digest, 0)
        return min(PAUSE_S * 2.0 ** (lost - 1), LONGEST_PAUSE_S) if lost else 0.0

    def _submit_due(self) -> None:
        due = [entry for entry in self._later if entry[0] <= time.monotonic()]
        for entry in due:
            self._later.remove(entry)
            self.submit(entry[1], replace=entry[2])

    def _look_at_machines(self) -> None:
        """BadInput, naming the machine, where one sees no store or has other code."""
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

        key, token = f"scratch/token-{uuid.uuid4().hex}", uuid.uuid4().bytes
        self._store.backend.write(key, token)
        here = look(self._store.address, key, token)
        task = self._ray.remote(look)
        asked = {}
        for machine in self._machines():
            there = NodeAffinitySchedulingStrategy(machine, soft=False)
            options = {"num_cpus": 0, "max_retries": 0, "scheduling_strategy": there}
            asked[machine] = task.options(**options).remote(self._store.address, key, token)
        try:
            ready, _ = self._ray.wait(list(asked.values()), num_returns=len(asked), timeout=LOOK_S)
            # one that died meanwhile, or before Ray took notice, gets no work and is no hindrance
            for machine, name in self._machines().items():
                if machine not in asked:
                    continue
                if asked[machine] not in ready:
                    raise BadInput(f"machine {name} does not answer within {LOOK_S:.0f} s")
                self._check(name, asked[machine], here)
        finally:
            self._store.backend.remove(key)

    def _machines(self) -> dict[str, str]:
        """Those that Ray takes to be alive, by their ids."""
        return {
            machine["NodeID"]: f"{machine['NodeManagerHostname']} ({machine['NodeName']})"
            for machine in self._ray.nodes()
            if machine["Alive"]
        }

    def _check(self, name: str, reference: Any, here: Machine) -> None:
        try:
            there: Machine = self._ray.get(reference)
        except self._ray.exceptions.RayError as error:
            raise BadInput(f"machine {name} cannot run this program: {_one_line(error)}") from None
        if there.blind is not None:
            raise BadInput(
                f"machine {name} does not see the store {self._store.address}: {there.blind}"
            )
        if (difference := here.differs(there)) is not None:
            raise BadInput(f"machine {name} {difference}")

    def _tell(self) -> None:
        try:
            latest = self._ray.get(self._mailbox.drain.remote(), timeout=POLL_S)
        except self._ray.exceptions.RayError:
            return
        for digest, progress in latest.items():
            self._heard[digest] = time.monotonic()
            self._report(digest, progress)

    def close(self) -> None:
        """Leave the cluster or end the local Ray; either ends the tasks of this driver.

        They are not cancelled before: Ray was seen to abort a driver to which the end of a
        cancelled task came while it shut down.
        """
        self._running.clear()
        self._later.clear()
        self._ray.shutdown()
        shutil.rmtree(self._code, ignore_errors=True)


def cluster_summary(address: str) -> str:
    """What a running cluster has; BadInput where it does not answer."""
    ask_port(address)
    _prepare_environment(address)
    ray = _ray()
    try:
        ray.init(address=address, log_to_driver=False, configure_logging=False)
    except Exception as error:  # noqa: BLE001  Ray raises bare ones, too
        raise _no_answer(address, error) from None
    resources = ray.cluster_resources()
    nodes = len(ray.nodes())
    ray.shutdown()
    cpus, gpus = resources.get("CPU", 0), resources.get("GPU", 0)
    return f"{address}: {nodes} nodes, {cpus:g} CPUs, {gpus:g} GPUs"


def begin(ray: Any, **options: Any) -> None:
    """`ray.init`; once more where a busy machine was too slow for Ray, which allows itself 30 s."""
    try:
        ray.init(**options)
    except Exception as error:
        if SLOW_START not in str(error):
            raise
        ray.shutdown()
        ray.init(**options)


def ask_port(address: str) -> None:
    """BadInput where no Ray listens at `HOST:PORT`, within seconds; Ray itself tries for minutes.

    Addresses without a port, such as `auto`, are left to Ray.
    """
    plain = address.removeprefix("ray://")
    host, colon, port = plain.rpartition(":")
    if not colon or "/" in plain:
        return
    if not port.isdecimal() or not 0 < int(port) < 2**16:
        raise BadInput(f"--address {address}: expected HOST:PORT, such as 127.0.0.1:6379")
    try:
        with socket.create_connection((host.strip("[]"), int(port)), CONNECT_S) as connection:
            connection.settimeout(ANSWER_S)
            connection.sendall(HTTP2_HELLO)
            heard = connection.recv(9) if not os.environ.get("RAY_USE_TLS") else HTTP2_HELLO[-9:]
    except OSError as error:
        raise BadInput(f"Ray at {address} does not answer: {reason_of(error)}") from None
    if heard[3:4] != HTTP2_HELLO[-6:-5]:
        raise BadInput(f"Ray at {address} does not answer: what listens there is not Ray")


def _ray() -> Any:
    """Ray, whose own types do not follow options and actors; BadInput where it is not there."""
    try:
        import ray
    except ModuleNotFoundError as error:
        raise BadInput(f"{error.name} is not installed here; --inline runs without Ray") from None
    return ray


def _one_line(error: Exception) -> str:
    """The last of what an error says: of a remote one the cause, below its traceback."""
    said = [line.strip() for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {said[-1] if said else 'no message'}"[:300]


def _no_answer(address: str | None, error: Exception) -> BadInput:
    reason = " ".join(str(error).split()) or type(error).__name__
    where = f"at {address}" if address else "on this machine"
    return BadInput(f"Ray {where} does not answer: {reason[:300]}")


def _prepare_environment(address: str | None) -> None:
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    # else a driver started by uv makes every worker build an environment of its own
    os.environ.setdefault("RAY_ENABLE_UV_RUN_RUNTIME_ENV", "0")
    # a driver that is itself a job of the cluster hands on its own copy of the code
    os.environ.setdefault("RAY_OVERRIDE_JOB_RUNTIME_ENV", "1")
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    token = os.environ.get("RAY_AUTH_TOKEN") or (Path.home() / ".ray" / "auth_token").exists()
    if address and token:
        os.environ.setdefault("RAY_AUTH_MODE", "token")
    if not address:
        # else the servers of Ray listen on all of a machine's addresses; on the systems that the
        # variable is named for, Ray alone would do this
        os.environ.setdefault("RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", "0")
        # a local cluster's own token concerns nobody, and its notice would open every run
        name = "ray._private.authentication.authentication_token_setup"
        logging.getLogger(name).setLevel(logging.ERROR)


def _copy_code(folder: Path) -> None:
    import pipeline
    import tasks

    for package in (pipeline, tasks):
        source = Path(str(package.__file__)).parent
        shutil.copytree(
            source, folder / source.name, ignore=shutil.ignore_patterns("__pycache__", "configs")
        )

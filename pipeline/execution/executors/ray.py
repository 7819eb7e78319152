"""The Ray executor: computes nodes on many workers. The only module that imports Ray.

Workers use the driver's code: the packages are copied into a folder that Ray distributes as the
workers' working directory. So a module in the driver's current folder cannot shadow them.
"""

from __future__ import annotations

import logging
import math
import os
import shutil
import socket
import sys
import tempfile
import threading
import time
import uuid
from collections.abc import Collection
from pathlib import Path
from typing import Any

from pipeline.catalogue.code.own import pack
from pipeline.execution.events import Failure, Result, Retry
from pipeline.execution.executors.base import Report, Smaller, silent_for
from pipeline.execution.executors.machines import Machines
from pipeline.execution.executors.worker import Machine, Mailbox, look, perform_remotely
from pipeline.execution.settings import Settings
from pipeline.execution.signals import deferred
from pipeline.grid.graph import Node
from pipeline.grid.kinds import NODE_KINDS, NodeKind
from pipeline.plan.words import counted
from pipeline.problems import BadInput, reason_of
from pipeline.store.store import Store

POLL_S = 1.0
PAUSE_S = 1.0
"""Pause before a node whose worker was lost is retried; doubled each time."""
LONGEST_PAUSE_S = 60.0
UNPLACED_S = 60.0
"""Time after which it is told, each time, that no machine is large enough for a queued node."""
LOOK_S = 300.0
"""Timeout for all machines together to start a worker and check the store."""
TOLD_S = 2.0
"""Time after which the user is told that Ray is still stopping. Its processes get up to a second
each to end by themselves."""
SLOW_START = "timed out during startup"
"""Part of Ray's message if its own processes needed too long to start."""
CONNECT_S = 5.0
ANSWER_S = 10.0
"""Timeouts for connecting to a cluster's port, and then for its answer."""
HTTP2_HELLO = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes([0, 0, 0, 4, 0, 0, 0, 0, 0])
"""How gRPC, which Ray uses, opens a connection: the HTTP/2 preface and an empty SETTINGS frame. The
other side begins with such a frame, too."""
OBJECT_STORE_BYTES = 128 * 2**20
"""Size of Ray's object store; small, since tensors are passed through the artifact store."""


class RayExecutor:
    """Computes each node as a Ray task, on a running cluster or on a local Ray of its own.

    Raises:
        BadInput: If the cluster does not answer, or if one of its machines is unusable: it does not
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
        kinds: Collection[NodeKind] = NODE_KINDS,
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
        own = {
            "num_cpus": workers,
            "include_dashboard": False,
            "object_store_memory": OBJECT_STORE_BYTES,
        }
        # Ray packs the folder while it connects and does not read it afterwards
        with tempfile.TemporaryDirectory(prefix="pipeline-code-") as code:
            _copy_code(Path(code))
            try:
                # an interrupted start would leave processes of a local Ray behind
                with deferred():
                    begin(
                        self._ray,
                        # never connect to a cluster that a leftover file or variable points to
                        address=address or "local",
                        runtime_env={"working_dir": code},
                        log_to_driver=False,
                        configure_logging=False,
                        **({} if address else own),
                    )
            except Exception as error:  # noqa: BLE001  Ray raises bare ones, too
                raise _no_answer(address, error) from None
            except BaseException:
                self._ray.shutdown()
                raise
        self._where = address or "local"
        self._task = self._ray.remote(perform_remotely)
        self._mailbox = self._ray.remote(Mailbox).options(num_cpus=0, max_restarts=-1).remote()
        self._drain: Any = None
        """The request to the mailbox that has not been answered yet."""
        self._running: dict[Any, tuple[Node, bool]] = {}
        self._later: list[tuple[float, Node, bool]] = []
        self._lost: dict[str, int] = {}
        self._heard: dict[str, float] = {}
        """Time, by `time.monotonic`, of each running node's last progress report."""
        self._queued: dict[str, tuple[float, dict[str, float]]] = {}
        """When a node was submitted, told to wait or had a large enough machine; its request."""
        self._ended: set[str] = set()
        """Nodes that are being cancelled because they reported no progress for too long."""
        self._given_up: list[str] = []
        """Reasons of workers that ended on their own, not yet matched to a task lost with one."""
        try:
            self._machines = Machines(self._ray, settings, kinds)
            if address is not None:
                self._look_at_machines()
        except BaseException:
            self.close()
            raise

    @property
    def name(self) -> str:
        """Such as `ray (local, 2 CPUs)`."""
        gpus = f", {self._machines.gpus:g} GPUs" if self._machines.gpus else ""
        return f"ray ({self._where}, {self._machines.cpus} CPUs{gpus})"

    @property
    def capacity(self) -> int:
        """Enough queued nodes that no worker has to wait for the driver."""
        return 4 * self._machines.cpus

    def submit(self, node: Node, *, replace: bool = False) -> None:
        """Submit a node as a Ray task, with the resources set for its kind."""
        settings = self._settings.of(node)
        kind = settings.of(node.kind)
        request = self._request(node)
        options = {
            "name": f"{node.kind} {node.digest[:8]}",
            **request,
            "scheduling_strategy": "SPREAD",
            # the executor retries by itself, with pauses and with events
            "max_retries": 0,
        }
        reference = self._task.options(**options).remote(
            node.digest,
            pack(node, node.libraries),
            self._store.address,
            settings.model_copy(
                update={"beside": max(1, self._machines.largest() // kind.threads)}
            ),
            self._mailbox,
            replace=replace,
            until=self._until,
        )
        self._running[reference] = (node, replace)
        self._heard.pop(node.digest, None)
        self._queued[node.digest] = (time.monotonic(), request)

    def next(self, patience_s: float | None = None) -> Result | None:
        """Wait for a task, forwarding the progress of the others meanwhile.

        Returns None also when machines have joined, so that more nodes are submitted.
        """
        until = math.inf if patience_s is None else time.monotonic() + patience_s
        while time.monotonic() < until:
            self._submit_due()
            if self._machines.grew():
                return None
            if not self._running:
                time.sleep(POLL_S / 10)
                continue
            ready, _ = self._ray.wait(list(self._running), num_returns=1, timeout=POLL_S)
            if self._tell():
                self._end_silent()
            if not ready and (waiting := self._unplaced()) is not None:
                return waiting
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
        """The result of a task, even if it was being cancelled, or what its error means."""
        errors = self._ray.exceptions
        silent = node.digest in self._ended
        self._ended.discard(node.digest)
        try:
            result: Result
            result, given_up = self._ray.get(reference)
        except errors.RayError as error:
            if silent:
                return Failure(node.digest, silent_for(self._settings.of(node)))
            if isinstance(error, errors.OutOfMemoryError):
                return Retry(node.digest, "its machine ran out of memory", smaller=True)
            if isinstance(error, errors.RayTaskError):
                return Failure(node.digest, _one_line(error), str(error))
            return self._after_loss(node, error)
        if given_up is not None:
            self._given_up.append(given_up)
        return result

    def _after_loss(self, node: Node, error: Exception) -> Retry | Failure:
        """Retry a node whose worker was lost, or fail it after `attempts` losses."""
        if self._given_up:
            # the task reached a worker that was about to end, which does not count as an attempt
            return Retry(node.digest, f"its worker was given up: {self._given_up.pop()}")
        self._lost[node.digest] = lost = self._lost.get(node.digest, 0) + 1
        reason = f"its worker was lost ({type(error).__name__})"
        if lost >= self._attempts:
            return Failure(node.digest, f"{reason}, {lost} times", str(error))
        return Retry(node.digest, reason)

    def _end_silent(self) -> None:
        """Cancel tasks of nodes that reported no progress for longer than `node_timeout_s`."""
        for reference, (node, _) in self._running.items():
            limit = self._settings.of(node).node_timeout_s
            heard = self._heard.get(node.digest)
            if limit is None or heard is None or node.digest in self._ended:
                continue
            is_late = time.monotonic() - heard > limit
            if is_late and not self._ray.wait([reference], timeout=0)[0]:
                self._ended.add(node.digest)
                self._ray.cancel(reference, force=True)

    def _pause(self, node: Node) -> float:
        lost = self._lost.get(node.digest, 0)
        return min(PAUSE_S * 2.0 ** (lost - 1), LONGEST_PAUSE_S) if lost else 0.0

    def _submit_due(self) -> None:
        due = [entry for entry in self._later if entry[0] <= time.monotonic()]
        if due:
            # what the lost attempt has still reported is not the next one's
            self._tell()
        for entry in due:
            self._later.remove(entry)
            self.submit(entry[1], replace=entry[2])

    def _unplaced(self) -> Retry | None:
        """Tell that a queued node waits for a machine as large as one that was lost.

        Ray itself would keep it waiting without a word. If a machine has what the node would
        request now, it is submitted again.
        """
        told = None
        now = time.monotonic()
        for reference, (node, replace) in list(self._running.items()):
            since, request = self._queued[node.digest]
            if node.digest in self._heard or (lack := self._machines.lack(request)) is None:
                self._queued[node.digest] = now, request
            elif now - since >= UNPLACED_S:
                self._queued[node.digest] = now, request
                told = told or Retry(node.digest, f"waiting for {lack}")
                if self._machines.lack(self._request(node)) is None:
                    self._ray.cancel(reference, force=True)
                    del self._running[reference]
                    self.submit(node, replace=replace)
        return told

    def _request(self, node: Node) -> dict[str, float]:
        kind = self._settings.of(node).of(node.kind)
        return self._machines.request(kind, on_gpu=self._on_gpu)

    def _look_at_machines(self) -> None:
        """Check all machines; BadInput names one that does not see the store or has other code."""
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

        key, token = f"scratch/token-{uuid.uuid4().hex}", uuid.uuid4().bytes
        self._store.backend.write(key, token)
        here = look(self._store.address, key, token)
        task = self._ray.remote(look)
        asked = {}
        for machine in self._machines.names():
            there = NodeAffinitySchedulingStrategy(machine, soft=False)
            options = {"num_cpus": 0, "max_retries": 0, "scheduling_strategy": there}
            asked[machine] = task.options(**options).remote(self._store.address, key, token)
        try:
            ready, _ = self._ray.wait(list(asked.values()), num_returns=len(asked), timeout=LOOK_S)
            # a machine that died meanwhile, or before Ray noticed, gets no work and is ignored
            for machine, name in self._machines.names().items():
                if machine not in asked:
                    continue
                if asked[machine] not in ready:
                    raise BadInput(f"machine {name} does not answer within {LOOK_S:.0f} s")
                self._check(name, asked[machine], here)
        finally:
            self._store.backend.remove(key)

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

    def _tell(self) -> bool:
        """Forward the progress that nodes have reported; False if the mailbox does not answer."""
        # a request that is not answered in time is kept, since its answer empties the mailbox
        if self._drain is None:
            self._drain = self._mailbox.drain.remote()
        try:
            latest = self._ray.get(self._drain, timeout=POLL_S)
        except self._ray.exceptions.RayError as error:
            if not isinstance(error, self._ray.exceptions.GetTimeoutError):
                self._drain = None
            return False
        self._drain = None
        for digest, progress in latest.items():
            self._heard[digest] = time.monotonic()
            self._report(digest, progress)
        return True

    def close(self) -> None:
        """Disconnect from the cluster or stop the local Ray, which ends this driver's tasks.

        Tasks are not cancelled first: Ray was seen to abort a driver that received the end of a
        cancelled task during shutdown.
        """
        self._running.clear()
        self._later.clear()
        stopping = threading.Timer(TOLD_S, sys.stderr.write, ["stopping Ray\n"])
        stopping.start()
        try:
            with deferred():
                self._ray.shutdown()
        finally:
            stopping.cancel()


def cluster_summary(address: str) -> str:
    """Resources of a running cluster, for people; BadInput if it does not answer."""
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
    return f"{address}: {counted(nodes, 'node')}, {cpus:g} CPUs, {gpus:g} GPUs"


def begin(ray: Any, **options: Any) -> None:
    """Call `ray.init`, once more if a busy machine exceeded Ray's startup limit of 30 s."""
    try:
        ray.init(**options)
    except Exception as error:
        if SLOW_START not in str(error):
            raise
        sys.stderr.write("Ray took too long to start, as on a busy machine; trying once more\n")
        ray.shutdown()
        ray.init(**options)


def ask_port(address: str) -> None:
    """Check quickly that Ray listens at `HOST:PORT`; Ray itself would retry for minutes.

    Addresses without a port, such as `auto`, are left to Ray.

    Raises:
        BadInput: If nothing answers there, or it is not Ray.
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
    """Import Ray; BadInput if it is not installed. Untyped, since Ray's types are incomplete."""
    try:
        import ray
    except ModuleNotFoundError as error:
        raise BadInput(f"{error.name} is not installed here; --inline runs without Ray") from None
    return ray


def _one_line(error: Exception) -> str:
    """The last line of an error's message; of a remote one, the cause below its traceback."""
    said = [line.strip() for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {said[-1] if said else 'no message'}"[:300]


def _no_answer(address: str | None, error: Exception) -> BadInput:
    reason = " ".join(str(error).split()) or type(error).__name__
    where = f"at {address}" if address else "on this machine"
    advice = "; the machine may be too busy: try again, or use --inline"
    slow = advice if address is None and SLOW_START in reason else ""
    return BadInput(f"Ray {where} does not answer: {reason[:300]}{slow}")


def _prepare_environment(address: str | None) -> None:
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    # otherwise, with a driver started by uv, every worker would build its own environment
    os.environ.setdefault("RAY_ENABLE_UV_RUN_RUNTIME_ENV", "0")
    # a driver that is itself a job of the cluster passes on its own copy of the code
    os.environ.setdefault("RAY_OVERRIDE_JOB_RUNTIME_ENV", "1")
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    token = os.environ.get("RAY_AUTH_TOKEN") or (Path.home() / ".ray" / "auth_token").exists()
    if address and token:
        os.environ.setdefault("RAY_AUTH_MODE", "token")
    if not address:
        # otherwise Ray's servers listen on all addresses of the machine; Ray itself restricts them
        # only on Windows and macOS, which the variable is named for
        os.environ.setdefault("RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", "0")
        # the notice about a local cluster's token is irrelevant and would precede every run
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

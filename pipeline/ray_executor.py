"""Where nodes run on many workers: the only door to Ray.

Workers get the driver's own code: the packages are copied into a folder that Ray hands to
every worker as its working directory. So no module that happens to lie in the driver's
current folder stands before ours.
"""

from __future__ import annotations

import logging
import os
import shutil
import tempfile
import time
from pathlib import Path
from typing import Any

from pipeline.events import Done, Failure, Stopped
from pipeline.executor import Report
from pipeline.graph import Node
from pipeline.own_code import Parcel, pack, unpack
from pipeline.problems import BadInput
from pipeline.settings import Settings
from pipeline.store import Store
from tasks.progress import Progress

POLL_S = 1.0
TELL_S = 1.0
OBJECT_STORE_BYTES = 128 * 2**20
"""Ray's own memory for objects: tensors go through the store, so little is needed."""


class Mailbox:
    """An actor that holds the latest word of every node at work."""

    def __init__(self) -> None:
        self._latest: dict[str, Progress] = {}

    def put(self, digest: str, progress: Progress) -> None:
        """Keep how far a node is."""
        self._latest[digest] = progress

    def drain(self) -> dict[str, Progress]:
        """What came since the last time."""
        latest, self._latest = self._latest, {}
        return latest


def perform_remotely(
    digest: str,
    parcel: Parcel,
    store: str,
    settings: Settings,
    mailbox: Any,
    *,
    replace: bool,
    until: float | None,
) -> Done | Failure | Stopped:
    """What a Ray task does: `work.attempt`, its progress sent to the mailbox now and then.

    parcel: of the node, with code of a user's own. What waited for a worker until the time of
    the run was up does not begin.
    """
    from pipeline.work import attempt

    if until is not None and time.time() >= until:
        return Stopped(digest)
    try:
        node: Node = unpack(parcel)
    except BadInput as problem:
        return Failure(digest, str(problem))
    last = 0.0

    def tell(progress: Progress) -> None:
        nonlocal last
        if time.monotonic() - last >= TELL_S:
            last = time.monotonic()
            mailbox.put.remote(node.digest, progress)

    return attempt(node, Store(Path(store)), settings, tell, replace=replace, until=until)


class RayExecutor:
    """Runs each node as a Ray task, on a cluster or on a local Ray of its own."""

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
        _prepare_environment(address)
        self._ray = _ray()
        self._store = store
        self._settings = settings
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
            self._ray.init(
                # never the cluster that some leftover file or variable points to
                address=address or "local",
                runtime_env={"working_dir": str(self._code)},
                log_to_driver=False,
                configure_logging=False,
                **({} if address else own),
            )
        except (OSError, ValueError, RuntimeError) as error:
            shutil.rmtree(self._code, ignore_errors=True)
            raise _no_answer(address, error) from None
        resources = self._ray.cluster_resources()
        self._cpus = int(resources.get("CPU", 1))
        self._gpus = resources.get("GPU", 0.0)
        self._where = address or "local"
        self._task = self._ray.remote(perform_remotely)
        self._mailbox = self._ray.remote(Mailbox).options(num_cpus=0).remote()
        self._running: dict[Any, Node] = {}

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
        kind = self._settings.of(node.kind)
        options = {
            "name": f"{node.kind} {node.digest[:8]}",
            "num_cpus": min(kind.threads, self._cpus),
            "num_gpus": kind.gpus if self._gpus and self._settings.device != "cpu" else 0,
            "max_retries": self._settings.attempts - 1,
        }
        reference = self._task.options(**options).remote(
            node.digest,
            pack(node),
            str(self._store.root),
            self._settings,
            self._mailbox,
            replace=replace,
            until=self._until,
        )
        self._running[reference] = node

    def next(self) -> Done | Failure | Stopped:
        """Wait for one task, telling meanwhile how far the others are."""
        while True:
            ready, _ = self._ray.wait(list(self._running), num_returns=1, timeout=POLL_S)
            self._tell()
            if ready:
                node = self._running.pop(ready[0])
                try:
                    result: Done | Failure | Stopped = self._ray.get(ready[0])
                except self._ray.exceptions.RayError as error:
                    reason = f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"
                    return Failure(node.digest, reason, str(error))
                return result

    def _tell(self) -> None:
        try:
            latest = self._ray.get(self._mailbox.drain.remote(), timeout=POLL_S)
        except self._ray.exceptions.RayError:
            return
        for digest, progress in latest.items():
            self._report(digest, progress)

    def close(self) -> None:
        """Cancel what has not begun, end the local Ray."""
        for reference in self._running:
            self._ray.cancel(reference, force=True)
        self._running.clear()
        self._ray.shutdown()
        shutil.rmtree(self._code, ignore_errors=True)


def cluster_summary(address: str) -> str:
    """What a running cluster has; BadInput where it does not answer."""
    _prepare_environment(address)
    ray = _ray()
    try:
        ray.init(address=address, log_to_driver=False, configure_logging=False)
    except (OSError, ValueError, RuntimeError) as error:
        raise _no_answer(address, error) from None
    resources = ray.cluster_resources()
    nodes = len(ray.nodes())
    ray.shutdown()
    cpus, gpus = resources.get("CPU", 0), resources.get("GPU", 0)
    return f"{address}: {nodes} nodes, {cpus:g} CPUs, {gpus:g} GPUs"


def _ray() -> Any:
    """Ray, whose own types do not follow options and actors; BadInput where it is not there."""
    try:
        import ray
    except ModuleNotFoundError as error:
        raise BadInput(f"{error.name} is not installed here; --inline runs without Ray") from None
    return ray


def _no_answer(address: str | None, error: Exception) -> BadInput:
    reason = " ".join(str(error).split()) or type(error).__name__
    where = f"at {address}" if address else "on this machine"
    return BadInput(f"Ray {where} does not answer: {reason[:300]}")


def _prepare_environment(address: str | None) -> None:
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    # else a driver started by uv makes every worker build an environment of its own
    os.environ.setdefault("RAY_ENABLE_UV_RUN_RUNTIME_ENV", "0")
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    token = os.environ.get("RAY_AUTH_TOKEN") or (Path.home() / ".ray" / "auth_token").exists()
    if address and token:
        os.environ.setdefault("RAY_AUTH_MODE", "token")
    if not address:
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

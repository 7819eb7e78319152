"""Code that runs on the workers of a cluster: computing a node, and checking the machine.

Independent of Ray: the executor wraps these as tasks and an actor.
"""

from __future__ import annotations

import hashlib
import os
import platform
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.catalogue.code.libraries import versions_of
from pipeline.catalogue.code.own import Parcel, unpack
from pipeline.execution.events import Failure, Result, Stopped
from pipeline.execution.executors.base import BEGUN
from pipeline.execution.settings import Settings
from pipeline.grid.graph import Node
from pipeline.problems import BadInput, Unwritable, reason_of
from pipeline.store.store import Store
from tasks.progress import Progress

TELL_S = 1.0
ENDS_AFTER_S = 1.0
"""Delay between a worker's last result and its exit, so that the result is delivered."""
LIBRARIES = ("torch", "numpy", "pillow", "scipy", "torchvision", "pyarrow", "safetensors")
"""Libraries whose versions may affect results or the format of artifacts."""


class Mailbox:
    """An actor that holds the latest progress of each running node."""

    def __init__(self) -> None:
        self._latest: dict[str, Progress] = {}

    def put(self, digest: str, progress: Progress) -> None:
        """Store a node's progress."""
        self._latest[digest] = progress

    def drain(self) -> dict[str, Progress]:
        """Return and clear what was stored since the last call."""
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
) -> tuple[Result, str | None]:
    """Call `work.attempt` on a worker and send its progress to the mailbox.

    A node that was still queued at the time limit is not started.

    Args:
        parcel: The pickled node, with the user code that it needs.

    Returns:
        The result, and the reason why this worker will exit and take no further node, or None. The
            reason is that a node changed global state that cannot be restored, or leaked memory.
    """
    from pipeline.execution.work import memory

    if memory.unusable() is not None:
        # the worker is about to exit because of the previous node; Ray will report the loss
        time.sleep(60 * ENDS_AFTER_S)
    result = _performed(digest, parcel, store, settings, mailbox, replace=replace, until=until)
    reason = memory.unusable()
    if reason is not None:
        # exits after the result was delivered
        ending = threading.Timer(ENDS_AFTER_S, os._exit, (0,))
        ending.daemon = True
        ending.start()
    return result, reason


def _performed(
    digest: str,
    parcel: Parcel,
    store: str,
    settings: Settings,
    mailbox: Any,
    *,
    replace: bool,
    until: float | None,
) -> Result:
    from pipeline.execution.work.attempt import attempt

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

    try:
        place = Store(store)
    except BadInput as problem:
        return Failure(node.digest, f"{platform.node()}: {problem}")
    mailbox.put.remote(node.digest, BEGUN)
    return attempt(node, place, settings, tell, replace=replace, until=until)


@dataclass(frozen=True)
class Machine:
    """Properties of a machine that may affect results."""

    code: str
    versions: tuple[tuple[str, str], ...]
    blind: str | None = None
    """Why it does not see the store; None if it does."""

    def differs(self, other: Machine) -> str | None:
        """The first difference of another machine's code or libraries; None if there is none."""
        for (name, here), (_, there) in zip(self.versions, other.versions, strict=True):
            if here != there:
                return f"has {name} {there}, the driver {here}: install the same everywhere"
        if self.code != other.code:
            return "runs other code of this program than the driver"
        return None


def look(store: str, key: str, token: bytes) -> Machine:
    """Describe this machine, and check that it can read the driver's token from the store."""
    blind = None
    try:
        if Store(store).backend.read(key) != token:
            blind = "another store is there"
    except FileNotFoundError:
        blind = "what the driver wrote is not there"
    except (BadInput, Unwritable) as problem:
        blind = str(problem)
    except OSError as error:
        blind = reason_of(error)
    return Machine(_code(), _versions(), blind)


def _versions() -> tuple[tuple[str, str], ...]:
    return ("Python", platform.python_version()), *versions_of(LIBRARIES).items()


def _code() -> str:
    """SHA-256 of the source code of both packages on this machine."""
    import pipeline
    import tasks

    found = hashlib.sha256()
    for package in (pipeline, tasks):
        folder = Path(str(package.__file__)).parent
        for path in sorted(folder.rglob("*.py")):
            found.update(f"{package.__name__}/{path.relative_to(folder).as_posix()}\n".encode())
            found.update(path.read_bytes())
    return found.hexdigest()

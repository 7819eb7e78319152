"""Leases coordinate concurrent runs on a store, so that each node is computed by one of them.

`<store>/leases/<digest>/<number>` names the run that computes a node. It is created only if it does
not exist; the highest number counts. `<store>/leases/runs/<run>` holds the time until which a run
is assumed to be alive: each run renews its own every few seconds and deletes it at the end. If a
run has ended or its lease has expired, another run takes over with the next number; of several that
try, exactly one succeeds.

Leases only avoid duplicate work; results do not depend on them. If two runs compute the same node,
one of the two artifacts is kept (see `store`).
"""

from __future__ import annotations

import contextlib
import json
import os
import platform
import threading
import time
import uuid
from dataclasses import asdict, dataclass
from pathlib import Path

from pipeline.problems import Unwritable
from pipeline.store.backend import Backend, FileInfo
from pipeline.store.reading import Malformed, parsed

LASTS_S = 60.0
"""Time after its last renewal at which a run's lease expires, by the reader's clock."""
RENEWED_S = 15.0
TRIES = 20
"""Attempts to take a lease that others take and release at the same time."""
REFUSALS = (OSError, Unwritable)
"""Errors of a store that currently accepts no leases."""


@dataclass(frozen=True)
class Holder:
    """A run that holds leases.

    Attributes:
        process: See `process_mark`.
        until: Time of expiry, Unix time in seconds.
    """

    host: str
    pid: int
    process: str
    until: float

    @property
    def alive(self) -> bool:
        """Whether the run may still be active; known exactly for visible processes of this machine.

        Other users' processes are not visible if `/proc` is mounted with the option `hidepid`.
        """
        here = self.process.rpartition(" ")[0]
        if here and here == process_mark(os.getpid()).rpartition(" ")[0]:
            mark = process_mark(self.pid)
            if mark or not _hidden(self.pid):
                return mark == self.process
        return time.time() < self.until

    def __str__(self) -> str:
        return f"{self.host}, process {self.pid}"


class Leases:
    """The leases of one run, registered from its first claim until `close`."""

    def __init__(self, backend: Backend) -> None:
        self._backend = backend
        self._run = uuid.uuid4().hex
        self._mine: set[str] = set()
        self._unsure: set[str] = set()
        """Claimed nodes of which this run may or may not hold the lease."""
        self._left: set[str] = set()
        """Released nodes whose lease, if this run holds it, remains to be deleted."""
        self._owners: dict[tuple[str, float], str] = {}
        self._over = threading.Event()
        self._thread: threading.Thread | None = None

    def claim(self, digest: str) -> bool:
        """Take the lease of a node; False if another live run holds it.

        Also True if the store accepts no leases: computing the node will then report the problem.
        """
        try:
            self._begin()
            if not self._take(digest):
                return False
        except REFUSALS:
            # an answer that came too late leaves open whether the lease was created
            self._unsure.add(digest)
            return True
        self._mine.add(digest)
        return True

    def release(self, digest: str) -> None:
        """Release the lease of a node, which is stored now or will not be computed by this run."""
        if digest in self._mine:
            self._mine.discard(digest)
            self._remove(digest)
        elif digest in self._unsure:
            self._left.add(digest)
            self._remove_left()
        self._unsure.discard(digest)

    def others(self) -> dict[str, Holder]:
        """The other live run that holds the lease of a node, by digest; empty if not known."""
        with contextlib.suppress(*REFUSALS):
            return self.at_work()
        return {}

    def at_work(self) -> dict[str, Holder]:
        """Like `others`.

        Raises:
            OSError, Unwritable: If the leases cannot be read.
        """
        latest: dict[str, tuple[int, FileInfo]] = {}
        runs: dict[str, Holder | None] = {self._run: None}
        found = {}
        for entry in self._backend.find("leases/*/*"):
            _, digest, number = entry.key.split("/")
            if digest != "runs" and number.isdecimal():
                count = int(number)
                if digest not in latest or latest[digest][0] < count:
                    latest[digest] = (count, entry)
        for digest, (_, entry) in latest.items():
            mark = (entry.key, entry.changed)
            if mark not in self._owners:
                self._owners[mark] = self._owner(entry.key) or ""
            run = self._owners[mark]
            if run not in runs:
                runs[run] = self._alive(run)
            if (holder := runs[run]) is not None:
                found[digest] = holder
        return found

    def close(self) -> None:
        """Release all leases and unregister the run."""
        self._over.set()
        if self._thread is None:
            return
        self._thread.join()
        for digest in list(self._mine):
            self.release(digest)
        with contextlib.suppress(*REFUSALS):
            self._backend.remove(f"leases/runs/{self._run}")

    def _begin(self) -> None:
        if self._thread is None:
            self._renew()
            self._thread = threading.Thread(target=self._keep, name="leases", daemon=True)
            self._thread.start()

    def _keep(self) -> None:
        while not self._over.wait(RENEWED_S):
            with contextlib.suppress(*REFUSALS):
                self._renew()

    def _renew(self) -> None:
        pid = os.getpid()
        holder = Holder(platform.node(), pid, process_mark(pid), time.time() + LASTS_S)
        self._backend.write(f"leases/runs/{self._run}", json.dumps(asdict(holder)).encode())
        self._remove_left()

    def _remove_left(self) -> None:
        """Delete what is left of this run's leases; another run's are kept."""
        for digest in self._left - self._mine:
            with contextlib.suppress(*REFUSALS):
                if self._holds(digest):
                    self._backend.remove(_folder(digest))
                self._left.discard(digest)

    def _holds(self, digest: str) -> bool:
        highest = max(self._numbers(digest), default=None)
        return highest is not None and self._owner(f"{_folder(digest)}/{highest}") == self._run

    def _remove(self, digest: str) -> None:
        """Delete the lease of a node, or try again at the next renewal."""
        try:
            self._backend.remove(_folder(digest))
        except FileNotFoundError:
            pass
        except REFUSALS:
            self._left.add(digest)
            return
        self._left.discard(digest)

    def _take(self, digest: str) -> bool:
        number = 0
        for _ in range(TRIES):
            if self._write(digest, number):
                return True
            highest = max(self._numbers(digest), default=None)
            run = None if highest is None else self._owner(f"{_folder(digest)}/{highest}")
            if highest is None or run is None:
                number = 0  # released at this moment
            elif run == self._run:
                # an earlier request was answered by an error though it was carried out, or a
                # release failed
                return True
            elif self._alive(run) is not None:
                return False
            else:
                number = highest + 1
        return True

    def _write(self, digest: str, number: int) -> bool:
        """Create the lease with this number; False if it exists."""
        with self._backend.scratch() as scratch:
            draft = scratch / "lease"
            draft.write_text(self._run)
            try:
                self._backend.create(draft, f"{_folder(digest)}/{number}")
            except (FileExistsError, FileNotFoundError):
                # FileNotFoundError: the folder was deleted at this moment
                return False
        return True

    def _numbers(self, digest: str) -> list[int]:
        names = (
            entry.key.rpartition("/")[2] for entry in self._backend.find(f"{_folder(digest)}/*")
        )
        return [int(name) for name in names if name.isdecimal()]

    def _owner(self, key: str) -> str | None:
        """The run named by a lease; empty if the file is invalid, None if it is gone."""
        try:
            named = self._backend.read(key).decode("ascii", "replace")
        except FileNotFoundError:
            return None
        return named if named.isalnum() else ""

    def _alive(self, run: str) -> Holder | None:
        """The holder of a run if it may still be active, otherwise None."""
        with contextlib.suppress(FileNotFoundError, Malformed):
            if run:
                holder = parsed(self._backend.read(f"leases/runs/{run}"), Holder)
                return holder if holder.alive else None
        return None


def process_mark(pid: int) -> str:
    """An identifier that distinguishes a process of this machine from all others at any time.

    Composed of the machine's boot id, the PID namespace, the PID and the process's start time.
    Empty if unknown.
    """
    proc = Path("/proc")
    try:
        boot = (proc / "sys/kernel/random/boot_id").read_text().strip()
        space = (proc / "self/ns/pid").stat().st_ino
        fields = (proc / str(pid) / "stat").read_text().rpartition(")")[2].split()
        state, start = fields[0], fields[19]
    except (OSError, IndexError):
        return ""
    if state in "ZX":
        return ""  # a zombie or dead process
    return f"{boot} {space} {pid}:{start}"


def _hidden(pid: int) -> bool:
    """Whether a process of another user exists."""
    try:
        os.kill(pid, 0)
    except PermissionError:
        return True
    except (OSError, OverflowError):
        return False
    return False


def _folder(digest: str) -> str:
    return f"leases/{digest}"

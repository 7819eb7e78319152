"""Which run is at which node: of runs that see each other's leases one computes a node.

`<store>/leases/<digest>/<number>` names the run that computes a node, and is written only if
absent; the one with the highest number counts. `<store>/leases/runs/<run>` says until when a run
is to be taken as alive: each run renews its own every few seconds, and takes it away at its end.
A lease of a run that is over or has lapsed gives way to one with the next number, so of several
runs that take it over exactly one does.

Leases save work; no result depends on them. Runs that do not see each other compute a node
twice, and of the two artifacts one stands (see `store`).
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
"""A run that has not renewed its lease for so long, by the reader's clock, has lapsed."""
RENEWED_S = 15.0
TRIES = 20
"""Of taking a lease that others take and give back in the same instants."""
REFUSALS = (OSError, Unwritable)
"""What a store answers that takes no leases just now."""


@dataclass(frozen=True)
class Holder:
    """A run. until: Unix time, s. process: see `process_mark`."""

    host: str
    pid: int
    process: str
    until: float

    @property
    def alive(self) -> bool:
        """Whether it may still be at work; of this machine's processes one knows at once."""
        here = self.process.rpartition(" ")[0]
        if here and here == process_mark(os.getpid()).rpartition(" ")[0]:
            return process_mark(self.pid) == self.process
        return time.time() < self.until

    def __str__(self) -> str:
        return f"{self.host}, process {self.pid}"


class Leases:
    """The leases of one run, which is known to others from its first claim until `close`."""

    def __init__(self, backend: Backend) -> None:
        self._backend = backend
        self._run = uuid.uuid4().hex
        self._mine: set[str] = set()
        self._owners: dict[tuple[str, float], str] = {}
        self._over = threading.Event()
        self._thread: threading.Thread | None = None

    def claim(self, digest: str) -> bool:
        """Take the lease of a node; False where a live run has it.

        True also where the store takes no lease: what computes the node will say so.
        """
        try:
            self._begin()
            if not self._take(digest):
                return False
        except REFUSALS:
            return True
        self._mine.add(digest)
        return True

    def release(self, digest: str) -> None:
        """Give a node's lease back: its artifact is in the store, or will not be of this run."""
        if digest in self._mine:
            self._mine.discard(digest)
            with contextlib.suppress(*REFUSALS):
                self._backend.remove(_folder(digest))

    def others(self) -> dict[str, Holder]:
        """Digest → the other live run that has its lease."""
        latest: dict[str, tuple[int, FileInfo]] = {}
        runs: dict[str, Holder | None] = {self._run: None}
        found = {}
        with contextlib.suppress(*REFUSALS):
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
        """Give all leases back, and be known no more."""
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

    def _take(self, digest: str) -> bool:
        number = 0
        for _ in range(TRIES):
            if self._write(digest, number):
                return True
            highest = max(self._numbers(digest), default=None)
            run = None if highest is None else self._owner(f"{_folder(digest)}/{highest}")
            if highest is None or run is None:
                number = 0  # given back in this instant
            elif self._alive(run) is not None:
                return False
            else:
                number = highest + 1
        return True

    def _write(self, digest: str, number: int) -> bool:
        """Whether a lease of this number could be written, where there was none."""
        with self._backend.scratch() as scratch:
            draft = scratch / "lease"
            draft.write_text(self._run)
            try:
                self._backend.create(draft, f"{_folder(digest)}/{number}")
            except (FileExistsError, FileNotFoundError):
                # not found: its folder was taken away in this instant
                return False
        return True

    def _numbers(self, digest: str) -> list[int]:
        names = (
            entry.key.rpartition("/")[2] for entry in self._backend.find(f"{_folder(digest)}/*")
        )
        return [int(name) for name in names if name.isdecimal()]

    def _owner(self, key: str) -> str | None:
        """The run that a lease names, empty where it names none; None where it is gone."""
        try:
            named = self._backend.read(key).decode("ascii", "replace")
        except FileNotFoundError:
            return None
        return named if named.isalnum() else ""

    def _alive(self, run: str) -> Holder | None:
        """A run, if it may still be at work."""
        with contextlib.suppress(FileNotFoundError, Malformed):
            if run:
                holder = parsed(self._backend.read(f"leases/runs/{run}"), Holder)
                return holder if holder.alive else None
        return None


def process_mark(pid: int) -> str:
    """What tells a process of this machine from all others, ever; empty where that is unknown.

    The machine's start, the name space of processes, the process and its start.
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
        return ""  # ended, and only waited for
    return f"{boot} {space} {pid}:{start}"


def _folder(digest: str) -> str:
    return f"leases/{digest}"

"""The ledger: a log of all runs on a store, one small file for each, never rewritten.

It records the score of each cell at each run, and what was logged to which tracking server.
Tracebacks of failures are stored beside it, in `ledger/failures/`.
"""

from __future__ import annotations

import contextlib
import getpass
import hashlib
import json
import os
import platform
import time
import uuid
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import PurePosixPath
from typing import ClassVar

from pydantic import ConfigDict

from pipeline.problems import reason_of
from pipeline.store.backend import Backend
from pipeline.store.facts import check_facts
from pipeline.store.reading import Malformed, parsed, words


def user_name() -> str:
    """Name of the current user, or the user id if there is no name, as in some containers."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return str(os.getuid())


@dataclass(frozen=True)
class CellEntry:
    """State of a cell at the end of a run: its score node, and the score if there is one."""

    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(extra="forbid")

    score: str
    content: str | None = None
    facts: Mapping[str, object] | None = None
    computed: bool = False


@dataclass(frozen=True)
class Invocation:
    """One run: time, user, command and the state of its cells."""

    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(extra="forbid")

    grid: str
    command: Sequence[str]
    version: str
    cells: Mapping[str, CellEntry]
    time: float = field(default_factory=time.time)
    user: str = field(default_factory=user_name)
    host: str = field(default_factory=platform.node)


def read_invocation(data: bytes) -> Invocation:
    """Parse a file of the ledger; Malformed if it is invalid."""
    invocation = parsed(data, Invocation)
    for name, cell in invocation.cells.items():
        try:
            check_facts("score", cell.facts or {})
        except Malformed as malformed:
            raise Malformed(f"cell {name[:60]}: {malformed}") from None
    return invocation


class Ledger:
    """The log of runs on a store, oldest first."""

    def __init__(self, backend: Backend) -> None:
        self._backend = backend

    @cached_property
    def runs(self) -> dict[str, Invocation]:
        """All readable entries by their 8-digit identifier; read once."""
        found: dict[str, Invocation] = {}
        for key in sorted(entry.key for entry in self._backend.find("ledger/*.json")):
            # damaged files are skipped here and reported by `pipeline verify`
            with contextlib.suppress(OSError, Malformed):
                name = PurePosixPath(key).stem.rpartition("-")[2]
                found[name] = read_invocation(self._backend.read(key))
        return found

    @property
    def invocations(self) -> list[Invocation]:
        """All readable entries, oldest first."""
        return list(self.runs.values())

    def last(self, grid: str, cell: str) -> CellEntry | None:
        """The latest entry of a cell of a grid that has a score."""
        for invocation in reversed(self.invocations):
            entry = invocation.cells.get(cell)
            if invocation.grid == grid and entry is not None and entry.facts is not None:
                return entry
        return None

    def write(self, invocation: Invocation) -> str:
        """Add an entry; returns the key of its file."""
        name = f"{int(invocation.time * 1000):015d}-{uuid.uuid4().hex[:8]}"
        key = f"ledger/{name}.json"
        self._create(key, json.dumps(asdict(invocation), indent=1))
        self.__dict__.pop("runs", None)
        return key

    def keep_details(self, key: str, details: Mapping[str, str]) -> str:
        """Store details of a run's failures, such as tracebacks; returns the key of the file.

        Args:
            key: The key that `write` returned.
            details: Details by the line that was shown to the user.
        """
        place = f"ledger/failures/{PurePosixPath(key).stem}.txt"
        parts = (f"{line}\n\n{detail.rstrip()}\n" for line, detail in details.items())
        self._create(place, "\n".join(parts))
        return place

    def want(self, digests: Iterable[str]) -> None:
        """Record the nodes that a run wants, when it begins.

        A run that is killed does not call `write`; with this record `gc` keeps what it had
        finished. There is one file for each set of nodes, and its time is that of the last run that
        wanted them.
        """
        text = "".join(f"{digest}\n" for digest in sorted(digests))
        key = f"ledger/wanted/{hashlib.sha256(text.encode()).hexdigest()[:32]}"
        try:
            self._backend.touch(key)
        except FileNotFoundError:
            self._create(key, text)

    def wanted(self, since: float, at_work: Collection[str] = ()) -> set[str]:
        """Digests of the nodes wanted by runs that began after `since`, Unix time in seconds.

        Args:
            at_work: Digests of nodes that are being computed; runs that wanted one of them are
                included, whenever they began.

        Raises:
            Malformed: If a file is damaged or cannot be read, with its key: the result would be
                incomplete.
        """
        found: set[str] = set()
        for entry in self._backend.find("ledger/wanted/[!.]*"):
            late = entry.changed >= since
            if late or at_work:
                try:
                    named = words(self._backend.read(entry.key))
                except FileNotFoundError:
                    continue
                except Malformed as malformed:
                    raise Malformed(f"{entry.key}: {malformed}") from None
                except OSError as error:
                    raise Malformed(f"{entry.key}: {reason_of(error)}") from None
                if late or not set(at_work).isdisjoint(named):
                    found.update(named)
        return found

    def scores(self, since: float) -> set[str]:
        """Digests of the scores of runs that ended after `since`, Unix time in seconds.

        Damaged files are skipped, as in `runs`.

        Raises:
            Malformed: If a file cannot be read, with its key: the result would be incomplete.
        """
        found: set[str] = set()
        for entry in self._backend.find("ledger/*.json"):
            try:
                invocation = read_invocation(self._backend.read(entry.key))
            except (Malformed, IsADirectoryError):
                continue
            except OSError as error:
                raise Malformed(f"{entry.key}: {reason_of(error)}") from None
            if invocation.time >= since:
                found.update(cell.score for cell in invocation.cells.values())
        return found

    def logged(self, server: str) -> set[str]:
        """Keys of what was already logged to a tracking server."""
        found = self._backend.find(f"{_server(server)}/[!.]*")
        return {PurePosixPath(entry.key).name for entry in found}

    def mark_logged(self, server: str, key: str, what: str) -> None:
        """Record that something was logged to a server; `what` is its run there, or a verdict."""
        self._create(f"{_server(server)}/{key}", what)

    def logged_as(self, server: str, key: str) -> str | None:
        """What was recorded by `mark_logged`; None if nothing, or if the file is damaged."""
        try:
            return self._backend.read(f"{_server(server)}/{key}").decode()
        except (OSError, UnicodeDecodeError):
            return None

    def _create(self, key: str, text: str) -> None:
        """Write a text file atomically; Unwritable if that fails."""
        self._backend.write(key, text.encode())


def _server(server: str) -> str:
    return f"ledger/logged/{hashlib.sha256(server.encode()).hexdigest()[:16]}"

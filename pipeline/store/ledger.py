"""The ledger: one small file for each invocation, never rewritten.

It knows which score each cell had when, and what was logged to which tracking server. Tracebacks
of what failed lie beside the invocation, in `ledger/failures/`.
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
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import PurePosixPath
from typing import ClassVar

from pydantic import ConfigDict

from pipeline.store.backend import Backend
from pipeline.store.facts import check_facts
from pipeline.store.reading import Malformed, parsed, words


def user_name() -> str:
    """Who runs this program; the number of a user who has no name, as in some containers."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return str(os.getuid())


@dataclass(frozen=True)
class CellEntry:
    """A cell as an invocation left it: its score node, and what it scored, if it did."""

    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(extra="forbid")

    score: str
    content: str | None = None
    facts: Mapping[str, object] | None = None
    computed: bool = False


@dataclass(frozen=True)
class Invocation:
    """One run: when, who, what, and its cells."""

    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(extra="forbid")

    grid: str
    command: Sequence[str]
    version: str
    cells: Mapping[str, CellEntry]
    time: float = field(default_factory=time.time)
    user: str = field(default_factory=user_name)
    host: str = field(default_factory=platform.node)


def read_invocation(data: bytes) -> Invocation:
    """What a file of the ledger holds; Spoilt where it is none."""
    invocation = parsed(data, Invocation)
    for name, cell in invocation.cells.items():
        try:
            check_facts("score", cell.facts or {})
        except Malformed as malformed:
            raise Malformed(f"cell {name[:60]}: {malformed}") from None
    return invocation


class Ledger:
    """The invocations on a store, oldest first."""

    def __init__(self, backend: Backend) -> None:
        self._backend = backend

    @cached_property
    def runs(self) -> dict[str, Invocation]:
        """What can be read of the ledger when it is first asked, by identifiers of 8 digits."""
        found: dict[str, Invocation] = {}
        for key in sorted(entry.key for entry in self._backend.find("ledger/*.json")):
            # what is spoilt says nothing, and `pipeline verify` says so; the rest still counts
            with contextlib.suppress(OSError, Malformed):
                name = PurePosixPath(key).stem.rpartition("-")[2]
                found[name] = read_invocation(self._backend.read(key))
        return found

    @property
    def invocations(self) -> list[Invocation]:
        """The same, oldest first."""
        return list(self.runs.values())

    def last(self, grid: str, cell: str) -> CellEntry | None:
        """The latest entry of a cell of a grid that has a score."""
        for invocation in reversed(self.invocations):
            entry = invocation.cells.get(cell)
            if invocation.grid == grid and entry is not None and entry.facts is not None:
                return entry
        return None

    def write(self, invocation: Invocation) -> str:
        """Add an invocation; the key of its file."""
        name = f"{int(invocation.time * 1000):015d}-{uuid.uuid4().hex[:8]}"
        key = f"ledger/{name}.json"
        self._create(key, json.dumps(asdict(invocation), indent=1))
        self.__dict__.pop("runs", None)
        return key

    def keep_details(self, key: str, details: Mapping[str, str]) -> str:
        """Keep the details of an invocation's failures, such as tracebacks; the key of the file.

        key: as `write` returned it; details: the line that a person saw → what it was short for.
        """
        place = f"ledger/failures/{PurePosixPath(key).stem}.txt"
        parts = (f"{line}\n\n{detail.rstrip()}\n" for line, detail in details.items())
        self._create(place, "\n".join(parts))
        return place

    def want(self, digests: Iterable[str]) -> None:
        """Remember that a run that begins now wants these nodes, finished or not.

        A run that is killed never gets to `write`; yet `gc` must leave what it had finished.
        One file holds each set of nodes, and its time is when a run last wanted them.
        """
        text = "".join(f"{digest}\n" for digest in sorted(digests))
        key = f"ledger/wanted/{hashlib.sha256(text.encode()).hexdigest()[:32]}"
        try:
            self._backend.touch(key)
        except FileNotFoundError:
            self._create(key, text)

    def wanted(self, since: float) -> set[str]:
        """Digests of the nodes that runs begun after `since`, Unix time in s, wanted.

        Spoilt, with its key, where a file cannot be read: what is wanted is not known then.
        """
        found: set[str] = set()
        for entry in self._backend.find("ledger/wanted/[!.]*"):
            if entry.changed >= since:
                try:
                    found.update(words(self._backend.read(entry.key)))
                except FileNotFoundError:
                    continue
                except Malformed as malformed:
                    raise Malformed(f"{entry.key}: {malformed}") from None
        return found

    def logged(self, server: str) -> set[str]:
        """Keys of what a tracking server already has."""
        found = self._backend.find(f"{_server(server)}/[!.]*")
        return {PurePosixPath(entry.key).name for entry in found}

    def mark_logged(self, server: str, key: str, what: str) -> None:
        """Remember that a server has something, and as what: its run there, or a verdict."""
        self._create(f"{_server(server)}/{key}", what)

    def logged_as(self, server: str, key: str) -> str | None:
        """As what a server was last told something; None where it was not, or that is spoilt."""
        try:
            return self._backend.read(f"{_server(server)}/{key}").decode()
        except (OSError, UnicodeDecodeError):
            return None

    def _create(self, key: str, text: str) -> None:
        """A file, whole; Unwritable, in one line, where the disk is full or the like."""
        self._backend.write(key, text.encode())


def _server(server: str) -> str:
    return f"ledger/logged/{hashlib.sha256(server.encode()).hexdigest()[:16]}"

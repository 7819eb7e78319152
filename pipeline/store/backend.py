"""Storage backends: the few things that a folder and a bucket both can do for a store.

A key is a path below the store's own place, with slashes: `train/ab/abcd.../meta.json`.
"""

from __future__ import annotations

import contextlib
import shutil
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol


@dataclass(frozen=True)
class FileInfo:
    """A file or, on a backend that has them, a folder of 0 bytes.

    changed: Unix time, s, of the last change.
    """

    key: str
    size_bytes: int
    changed: float


class Backend(Protocol):
    """A storage backend: where a store's files lie. Every file is whole whenever it is seen.

    What is not there raises FileNotFoundError. Unwritable where the backend can no longer be
    used in mid-run, as when a disk is full or a bucket out of reach.
    """

    @property
    def address(self) -> str:
        """By which every process opens the same backend, and a person knows it. No secrets."""

    def prepare(self) -> None:
        """Make it ready to be written; BadInput where it cannot be."""

    def check(self) -> None:
        """BadInput where there is no such backend."""

    def read(self, key: str) -> bytes:
        """A small file."""

    def write(self, key: str, data: bytes) -> None:
        """A small file, new or in the place of another."""

    def touch(self, key: str) -> None:
        """Make a file's time of change now."""

    def settle(self, draft: Path, key: str) -> None:
        """Move a local file, safely, to a place that holds nothing else or the same."""

    def create(self, draft: Path, key: str) -> None:
        """Move a local file to its place; FileExistsError where there is one."""

    def path(self, key: str, *, fresh: bool = False) -> Path:
        """A local path at which a file can be read and mapped.

        fresh: not from a copy that this machine may have.
        """

    def find(self, pattern: str) -> Iterator[FileInfo]:
        """What matches a glob pattern, in no order; `**` stands for any folders."""

    def move(self, key: str, target: str) -> None:
        """Move a folder with all that is in it."""

    def remove(self, key: str) -> None:
        """Delete a file, or a folder with all that is in it; never to be seen in part."""

    def scratch(self) -> contextlib.AbstractContextManager[Path]:
        """A local folder for drafts, gone afterwards."""

    def writing(self) -> contextlib.AbstractContextManager[None]:
        """Where drafts are written: what the system refuses becomes Unwritable, in one line."""


@contextlib.contextmanager
def draft_folder(parent: Path) -> Iterator[Path]:
    """A new folder below another, gone afterwards."""
    draft = parent / uuid.uuid4().hex
    draft.mkdir(parents=True)
    try:
        yield draft
    finally:
        shutil.rmtree(draft, ignore_errors=True)

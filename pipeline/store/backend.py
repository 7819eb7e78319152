"""The storage backend interface: the operations that folders and buckets have in common.

A key is a path relative to the root of the store, with slashes: `train/ab/abcd.../meta.json`.
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
    """A file or, on backends that have them, a folder, with a size of 0 bytes.

    changed: Unix time of the last change, in seconds.
    """

    key: str
    size_bytes: int
    changed: float


class Backend(Protocol):
    """Storage of a store's files. Files appear atomically: a reader never sees a part of one.

    Raises:
        FileNotFoundError: From methods that are given a key that does not exist.
        Unwritable: If the backend fails during a run, such as when a disk is full or a bucket
            cannot be reached.
    """

    @property
    def address(self) -> str:
        """Address for people, and for other processes to open the same backend. Without secrets."""

    def prepare(self) -> None:
        """Prepare for writing; BadInput if that is not possible."""

    def check(self) -> None:
        """Raise BadInput if the backend does not exist."""

    def read(self, key: str) -> bytes:
        """Read a small file."""

    def write(self, key: str, data: bytes) -> None:
        """Write a small file, replacing an existing one."""

    def touch(self, key: str) -> None:
        """Set a file's time of change to now."""

    def settle(self, draft: Path, key: str) -> None:
        """Move a local file durably to `key`, which is free or holds the same file."""

    def create(self, draft: Path, key: str) -> None:
        """Move a local file to `key`; FileExistsError if it is taken."""

    def path(self, key: str, *, fresh: bool = False) -> Path:
        """A local path from which a file can be read and memory-mapped.

        fresh: do not use a cached copy on this machine.
        """

    def find(self, pattern: str) -> Iterator[FileInfo]:
        """Files that match a glob pattern, in any order; `**` matches any number of folders.

        Folders that this user may not list are left out; PermissionError if the pattern is of the
        leases or the ledger, which are listed as a whole.
        """

    def move(self, key: str, target: str) -> None:
        """Move a folder with its contents."""

    def remove(self, key: str) -> None:
        """Delete a file, or a folder with its contents; no partial state is ever visible."""

    def scratch(self) -> contextlib.AbstractContextManager[Path]:
        """Context manager for a temporary local folder for drafts."""

    def writing(self) -> contextlib.AbstractContextManager[None]:
        """Context manager for writing drafts: system errors become Unwritable, with one line."""


@contextlib.contextmanager
def draft_folder(parent: Path) -> Iterator[Path]:
    """Context manager for a new temporary folder inside `parent`."""
    draft = parent / uuid.uuid4().hex
    draft.mkdir(parents=True)
    try:
        yield draft
    finally:
        shutil.rmtree(draft, ignore_errors=True)

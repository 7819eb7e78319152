"""The copies of a bucket's files that a machine keeps, up to a size."""

from __future__ import annotations

import contextlib
import hashlib
import os
import time
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from filelock import BaseFileLock

IN_USE_S = 600.0
"""Cached files used within this time are not evicted, since they may be about to be opened."""
ABANDONED_S = 86_400.0
"""A draft older than this was left by a process that was killed; any other may await its upload."""


class BucketCache:
    """A folder of copies, by key; several processes and users may share it.

    Args:
        folder: The folder; it need not exist.
        bound: Size of the copies above which the least recently used are evicted, in bytes.
    """

    def __init__(self, folder: Path, bound: float) -> None:
        self.folder = folder
        self._bound = bound
        self._unseen = bound  # bytes cached since the last eviction

    @property
    def scratch(self) -> Path:
        """The folder of drafts, which is on the same file system as the copies."""
        return self.folder / "scratch"

    def place(self, key: str) -> Path:
        """Path of a key's copy, whether or not there is one."""
        return self.folder / "files" / key

    def has(self, key: str) -> bool:
        """Whether there is a copy that can be read; notes that it was used."""
        return _used(self.place(key))

    def lock(self, key: str) -> BaseFileLock:
        """A lock of this machine, so that a file is downloaded once; a context manager."""
        # imported here, since machines that use no bucket may not have it
        from filelock import FileLock

        return FileLock(self.folder / f"lock-{hashlib.sha256(key.encode()).hexdigest()[:2]}")

    def drop(self, key: str) -> None:
        """Delete a copy, if there is one."""
        self.place(key).unlink(missing_ok=True)

    def keep(self, draft: Path, key: str) -> None:
        """Move a file into the cache, and evict others from time to time."""
        copy = self.place(key)
        copy.parent.mkdir(parents=True, exist_ok=True)
        self._unseen += draft.stat().st_size
        draft.replace(copy)
        _used(copy)
        if self._unseen > self._bound / 20:
            self._unseen = 0.0
            self._make_room()

    def _make_room(self) -> None:
        """Evict the least recently used files until the cache is within its limit."""
        total, idle = 0, []
        for name, age in (("files", IN_USE_S), ("scratch", ABANDONED_S)):
            # not Path.glob, which fails if another process deletes its draft folder meanwhile
            for folder, _, files in os.walk(self.folder / name):
                for path in (Path(folder) / file for file in files):
                    with contextlib.suppress(FileNotFoundError):
                        status = path.stat()
                        total += status.st_size
                        if status.st_mtime <= time.time() - age:
                            idle.append((status.st_mtime, status.st_size, path))
        for _, size, path in sorted(idle):
            if total <= self._bound:
                return
            path.unlink(missing_ok=True)
            total -= size


def _used(copy: Path) -> bool:
    """Update the time of use of a cached file; False if it does not exist."""
    try:
        os.utime(copy)
    except FileNotFoundError:
        return False
    except PermissionError:
        # another user's copy, in a cache that users share
        return os.access(copy, os.R_OK)
    return True

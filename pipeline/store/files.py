"""SHA-256 of source files, cached by size, times and inode; and atomic writing of files."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import tempfile
import time
import uuid
from collections.abc import Iterator, Sequence
from pathlib import Path

from pipeline.problems import BadInput, reason_of, regular, shown

CACHE = "test-time-defense-bench"
"""Name of this program's folder in the user's cache folder."""
MEMORY = "file-hashes.json"
FRESH_NS = 2_000_000_000
"""Time after a change during which another change may leave the time stamp unchanged."""


def cache_folder() -> Path:
    """Folder for data that can be recomputed at any time."""
    try:
        base = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    except RuntimeError:
        # a user without a name or home, as in some containers
        base = Path(tempfile.gettempdir()) / f"cache-{os.getuid()}"
    return base / CACHE


def sha256_of(path: Path) -> str:
    """SHA-256 of a file, cached while the file does not change; BadInput if it is unreadable."""
    try:
        status = regular(path).stat()
        key = str(path.resolve())
        stamp = stamp_of(status)
        memory = _remembered()
        match memory.get(key):
            case [list(seen), str(known)] if seen == stamp:
                return known
        with path.open("rb") as handle:
            digest = hashlib.file_digest(handle, "sha256").hexdigest()
    except OSError as error:
        raise _unreadable(path, error) from None
    if not is_fresh(status):
        _remember({**memory, key: [stamp, digest]})
    return digest


def read_whole(path: Path, sha256: str) -> bytes:
    """Read a file and check its SHA-256, without the cache.

    Raises:
        BadInput: If the file is unreadable or has changed. A wrong entry is removed from the cache.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise _unreadable(path, error) from None
    require_sha256(path, hashlib.sha256(data).hexdigest(), sha256)
    return data


def require_sha256(path: Path, found: str, expected: str) -> None:
    """Raise BadInput if a file or folder changed since its SHA-256 was determined."""
    if found == expected:
        return
    memory = _remembered()
    if memory.pop(str(path.resolve()), None) is not None:
        _remember(memory)
    raise BadInput(
        f"{shown(path)}: changed since the grid was loaded: its SHA-256 is {found[:12]}..., "
        f"not {expected[:12]}...; load the grid again"
    )


def stamp_of(status: os.stat_result) -> list[int]:
    """Values that differ after a file was changed or replaced, even with its size and time kept."""
    return [status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino]


def is_fresh(status: os.stat_result) -> bool:
    """Whether a file changed so recently that the next change may not be detected."""
    return time.time_ns() - max(status.st_mtime_ns, status.st_ctime_ns) < FRESH_NS


def _unreadable(path: Path, error: OSError) -> BadInput:
    return BadInput(f"{shown(path)}: cannot be read: {reason_of(error)}")


def sha256_of_all(folder: Path, files: Sequence[Path]) -> str:
    """One SHA-256 of several files in a folder and of their relative paths; cached."""
    try:
        stamps = [(path.relative_to(folder).as_posix(), path.stat()) for path in files]
        seen = [f"{name} {stamp_of(status)}" for name, status in stamps]
        key = str(folder.resolve())
        stamp = [len(files), hashlib.sha256("\n".join(seen).encode()).hexdigest()]
        memory = _remembered()
        match memory.get(key):
            case [list(seen_before), str(known)] if seen_before == stamp:
                return known
        whole = Together()
        for path, (name, _) in zip(files, stamps, strict=True):
            whole.add(name, path.read_bytes())
    except OSError as error:
        raise BadInput(f"{error.filename}: cannot be read: {reason_of(error)}") from None
    if not any(is_fresh(status) for _, status in stamps):
        _remember({**memory, key: [stamp, whole.sha256]})
    return whole.sha256


class Together:
    """SHA-256 of several files' names and contents, added one after the other."""

    def __init__(self) -> None:
        self._whole = hashlib.sha256()

    def add(self, name: str, data: bytes) -> None:
        """Add a file."""
        self._whole.update(f"{hashlib.sha256(data).hexdigest()} {name}\n".encode())

    @property
    def sha256(self) -> str:
        """SHA-256 of all files added so far, 64 hexadecimal digits."""
        return self._whole.hexdigest()


def _remembered() -> dict[str, object]:
    try:
        memory = json.loads((cache_folder() / MEMORY).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return memory if isinstance(memory, dict) else {}


def _remember(memory: dict[str, object]) -> None:
    # without a writable cache the next call reads the file again
    with contextlib.suppress(OSError):
        replace_text(cache_folder() / MEMORY, json.dumps(memory))


@contextlib.contextmanager
def replacing(target: Path) -> Iterator[Path]:
    """Context manager for atomic replacement: yields a draft that replaces `target` at the end.

    Readers see either the old or the new file, complete. The draft is on the same disk, and is
    deleted after an error. Parent folders are created.
    """
    draft = target.with_name(f".{target.name}-{uuid.uuid4().hex[:8]}")
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        yield draft
        draft.replace(target)
    finally:
        with contextlib.suppress(OSError):
            draft.unlink()


def replace_bytes(target: Path, data: bytes) -> None:
    """Write a file atomically; OSError if that fails."""
    with replacing(target) as draft:
        draft.write_bytes(data)


def replace_text(target: Path, text: str) -> None:
    """Write a text file atomically."""
    replace_bytes(target, text.encode())

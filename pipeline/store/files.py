"""SHA-256 of source files, remembered by what tells a change: size, times and inode."""

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
"""The folder of this program in a folder of caches."""
MEMORY = "file-hashes.json"
FRESH_NS = 2_000_000_000
"""How long after a change a file may change again without a new time stamp."""


def cache_folder() -> Path:
    """Where this program keeps what it can always find out again."""
    try:
        base = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    except RuntimeError:
        # a container's user who has neither a name nor a home
        base = Path(tempfile.gettempdir()) / f"cache-{os.getuid()}"
    return base / CACHE


def sha256_of(path: Path) -> str:
    """64 hexadecimal digits, from memory if the file has not changed; BadInput if unreadable."""
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
    """A file's bytes, if they have this SHA-256; BadInput, one line, if they are others now.

    What a digest names is what is read: no memory is asked, and one that said otherwise forgets.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise _unreadable(path, error) from None
    require_sha256(path, hashlib.sha256(data).hexdigest(), sha256)
    return data


def require_sha256(path: Path, found: str, expected: str) -> None:
    """BadInput where what was read of a file or folder is not what was there to be read."""
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
    """What differs where a file was changed or replaced, even with its size and time kept."""
    return [status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino]


def is_fresh(status: os.stat_result) -> bool:
    """Whether a file changed this very moment, so that its stamp may not tell the next change."""
    return time.time_ns() - max(status.st_mtime_ns, status.st_ctime_ns) < FRESH_NS


def _unreadable(path: Path, error: OSError) -> BadInput:
    return BadInput(f"{shown(path)}: cannot be read: {reason_of(error)}")


def sha256_of_all(folder: Path, files: Sequence[Path]) -> str:
    """One SHA-256 of files under a folder and of their places in it, remembered as one."""
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
    """One SHA-256 of several files' bytes and names, added in order."""

    def __init__(self) -> None:
        self._whole = hashlib.sha256()

    def add(self, name: str, data: bytes) -> None:
        """Take in the next file."""
        self._whole.update(f"{hashlib.sha256(data).hexdigest()} {name}\n".encode())

    @property
    def sha256(self) -> str:
        """64 hexadecimal digits, of all files so far."""
        return self._whole.hexdigest()


def _remembered() -> dict[str, object]:
    try:
        memory = json.loads((cache_folder() / MEMORY).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return memory if isinstance(memory, dict) else {}


def _remember(memory: dict[str, object]) -> None:
    # where nothing can be kept, the next call reads the file again
    with contextlib.suppress(OSError):
        replace_text(cache_folder() / MEMORY, json.dumps(memory))


@contextlib.contextmanager
def replacing(target: Path) -> Iterator[Path]:
    """A draft to write, beside its target and on the same disk, which it then replaces.

    So a reader sees the old file or the new one, whole; what is broken off leaves nothing. The
    folder is made. OSError where the system refuses.
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
    """Write a whole file or none; OSError where that cannot be."""
    with replacing(target) as draft:
        draft.write_bytes(data)


def replace_text(target: Path, text: str) -> None:
    """The same of text."""
    replace_bytes(target, text.encode())

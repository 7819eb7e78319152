"""SHA-256 of source files, remembered by path, size and time of change."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import tempfile
import uuid
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from pipeline.problems import BadInput, regular, shown

MEMORY = "file-hashes.json"


def cache_folder() -> Path:
    """Where this program keeps what it can always find out again."""
    try:
        base = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    except RuntimeError:
        # a container's user who has neither a name nor a home
        base = Path(tempfile.gettempdir()) / f"cache-{os.getuid()}"
    return base / "test-time-defense-bench"


def sha256_of(path: Path) -> str:
    """64 hexadecimal digits, from memory if the file has not changed; BadInput if unreadable."""
    try:
        status = regular(path).stat()
        key = str(path.resolve())
        stamp = [status.st_size, status.st_mtime_ns]
        memory = _remembered()
        match memory.get(key):
            case [size, changed, str(known)] if [size, changed] == stamp:
                return known
        with path.open("rb") as handle:
            digest = hashlib.file_digest(handle, "sha256").hexdigest()
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        raise BadInput(f"{shown(path)}: cannot be read: {reason}") from None
    _remember({**memory, key: [*stamp, digest]})
    return digest


def sha256_of_all(folder: Path, files: Sequence[Path]) -> str:
    """One SHA-256 of files under a folder and of their places in it, remembered as one."""
    try:
        stamps = [(path.relative_to(folder).as_posix(), path.stat()) for path in files]
        seen = [f"{name} {status.st_size} {status.st_mtime_ns}" for name, status in stamps]
        key = str(folder.resolve())
        stamp = [len(files), hashlib.sha256("\n".join(seen).encode()).hexdigest()]
        memory = _remembered()
        match memory.get(key):
            case [count, seen_before, str(known)] if [count, seen_before] == stamp:
                return known
        whole = hashlib.sha256()
        for path, (name, _) in zip(files, stamps, strict=True):
            whole.update(f"{hashlib.sha256(path.read_bytes()).hexdigest()} {name}\n".encode())
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        raise BadInput(f"{error.filename}: cannot be read: {reason}") from None
    _remember({**memory, key: [*stamp, whole.hexdigest()]})
    return whole.hexdigest()


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


def stamps(files: Iterable[Path]) -> list[list[object]]:
    """Path, size and time of change of files that are there, sorted by path."""
    found: list[list[object]] = []
    for path in sorted(files):
        with contextlib.suppress(OSError):
            status = path.stat()
            found.append([str(path), status.st_size, status.st_mtime_ns])
    return found

"""SHA-256 of source files, remembered by path, size and time of change."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import tempfile
from collections.abc import Iterable, Sequence
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
    target = cache_folder() / MEMORY
    scratch = target.with_suffix(f".{os.getpid()}")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        scratch.write_text(json.dumps(memory), encoding="utf-8")
        scratch.replace(target)
    except OSError:
        # nothing can be kept here: the next call reads the file again
        with contextlib.suppress(OSError):
            scratch.unlink()


def replace_text(target: Path, text: str) -> None:
    """Write a whole file or none; OSError where that cannot be."""
    scratch = target.with_name(f"{target.name}.{os.getpid()}")
    try:
        scratch.write_text(text, encoding="utf-8")
        scratch.replace(target)
    except OSError:
        with contextlib.suppress(OSError):
            scratch.unlink()
        raise


def stamps(files: Iterable[Path]) -> list[list[object]]:
    """Path, size and time of change of files that are there, sorted by path."""
    found: list[list[object]] = []
    for path in sorted(files):
        with contextlib.suppress(OSError):
            status = path.stat()
            found.append([str(path), status.st_size, status.st_mtime_ns])
    return found

"""Persistent cache of slow, deterministic parts of a report.

P-values, intervals and figure files are kept in an SQLite file in the user's cache folder. The key
is the SHA-256 of the inputs and of the code that computes them. If the cache cannot be read or
written, values are computed again.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import sqlite3
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path

import numpy as np
from pydantic import BaseModel

from pipeline.store.files import cache_folder

FILE = "report.sqlite"
LARGEST_BYTES = 200_000_000
"""Maximum total size of the values; beyond it the older half is deleted."""


def kept(code: Sequence[Path], parts: Sequence[object], make: Callable[[], bytes]) -> bytes:
    """The bytes that `make` returns, cached for these inputs and this code.

    Args:
        code: Source files that determine the value.
        parts: Inputs: None, numbers, text, bytes, arrays, dataclasses, pydantic models, and
            sequences and mappings of these.

    Raises:
        TypeError: For inputs of other types.
    """
    whole = hashlib.sha256(b"".join(map(_digest_of, code)))
    for piece in _pieces(tuple(parts)):
        whole.update(len(piece).to_bytes(8, "big") + piece)
    key, path = whole.hexdigest(), cache_folder() / FILE
    try:
        row = _database(path).execute("SELECT value FROM kept WHERE key = ?", [key]).fetchone()
        if row is not None:
            return bytes(row[0])
    except (OSError, sqlite3.Error):
        pass
    value = make()
    with contextlib.suppress(OSError, sqlite3.Error):
        _keep(_database(path), key, value)
    return value


def kept_numbers(
    code: Sequence[Path], parts: Sequence[object], make: Callable[[], Sequence[float]]
) -> list[float]:
    """The same for a sequence of numbers, including infinite ones."""
    text = kept(code, parts, lambda: json.dumps([float(each) for each in make()]).encode())
    return [float(each) for each in json.loads(text)]


def _keep(database: sqlite3.Connection, key: str, value: bytes) -> None:
    with database:
        database.execute("INSERT OR REPLACE INTO kept VALUES (?, ?)", [key, value])
        (total,) = database.execute("SELECT sum(length(value)) FROM kept").fetchone()
        if total > LARGEST_BYTES:
            half = "(SELECT max(rowid) - count(*) / 2 FROM kept)"
            database.execute(f"DELETE FROM kept WHERE rowid <= {half}")  # noqa: S608


@cache
def _database(path: Path) -> sqlite3.Connection:
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        return _opened(path)
    except sqlite3.OperationalError:
        raise  # busy or read-only
    except sqlite3.DatabaseError:
        path.unlink()  # damaged
        return _opened(path)


def _opened(path: Path) -> sqlite3.Connection:
    database = sqlite3.connect(path, timeout=1.0)
    # a value lost in a crash is computed again
    database.execute("PRAGMA synchronous = OFF")
    with database:
        database.execute("CREATE TABLE IF NOT EXISTS kept (key TEXT PRIMARY KEY, value BLOB)")
    return database


@cache
def _digest_of(module: Path) -> bytes:
    return hashlib.sha256(module.read_bytes()).digest()


def _pieces(value: object) -> Iterator[bytes]:
    """Serialise a value to bytes for hashing; different values give different bytes."""
    if isinstance(value, np.ndarray):
        yield f"array {value.dtype.str} {value.shape}".encode()
        yield np.ascontiguousarray(value).tobytes()
    elif dataclasses.is_dataclass(value) and not isinstance(value, type):
        yield type(value).__qualname__.encode()
        fields = {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
        yield from _pieces(fields)
    elif isinstance(value, BaseModel):
        yield type(value).__qualname__.encode()
        yield from _pieces(value.model_dump(mode="json"))
    elif isinstance(value, Mapping):
        yield f"mapping {len(value)}".encode()
        for key, each in value.items():
            yield from _pieces(key)
            yield from _pieces(each)
    elif isinstance(value, str | bytes | int | float | None):
        yield f"{type(value).__name__} {value!r}".encode()
    elif isinstance(value, Sequence):
        yield f"sequence {len(value)}".encode()
        for each in value:
            yield from _pieces(each)
    else:
        raise TypeError(f"nothing can be kept by a {type(value).__name__}")

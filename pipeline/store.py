"""The store: digest → artifact, with record, path and put, in a folder that many may share.

`<store>/<kind>/<2 hex>/<digest>/` holds data files that carry their own SHA-256 in their names
and, written last and only if absent, `meta.json`. An artifact exists if and only if its
meta.json does, so a process killed at any moment leaves whole artifacts only, and of two
writers one wins whole.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import shutil
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.graph import Node
from pipeline.hashing import spec_classes
from pipeline.problems import BadInput

META = "meta.json"
Writer = Callable[[Path], None]


class Damaged(Exception):
    """An artifact that is not what its record says."""

    def __init__(self, kind: str, digest: str, reason: str) -> None:
        super().__init__(kind, digest, reason)
        self.kind, self.digest, self.reason = kind, digest, reason

    def __str__(self) -> str:
        return f"{self.kind} {self.digest[:12]}: {self.reason}"


@dataclass(frozen=True)
class Record:
    """What meta.json says: spec, lineage, files and how it was computed."""

    kind: str
    digest: str
    content: str
    """SHA-256 over the names and SHA-256 of the data files: what children record having read."""
    spec: Mapping[str, object]
    versions: Mapping[str, int]
    """Class → version, of every spec inside the spec."""
    parents: Mapping[str, tuple[str, str]]
    """Role → (kind, digest)."""
    lineage: Mapping[str, str]
    """Digest → content of every ancestor as it was when this was computed."""
    files: Mapping[str, Mapping[str, object]]
    facts: Mapping[str, object]
    how: Mapping[str, object]


class Store:
    """A local or network folder of artifacts."""

    def __init__(self, root: Path) -> None:
        self.root = root.resolve()
        self._checked: set[tuple[str, str, str]] = set()

    def prepare(self) -> None:
        """Make the folder; BadInput where it cannot be written."""
        try:
            self.root.mkdir(parents=True, exist_ok=True)
            probe = self.root / f".probe-{uuid.uuid4().hex}"
            probe.touch()
            probe.unlink()
        except OSError as error:
            reason = (error.strerror or str(error)).lower()
            raise BadInput(f"store {self.root}: cannot be written to: {reason}") from None

    def folder(self, kind: str, digest: str) -> Path:
        """Where an artifact lies or would lie."""
        return self.root / kind / digest[:2] / digest

    def record(self, kind: str, digest: str) -> Record | None:
        """An artifact's record, or None where there is no artifact.

        Damaged where meta.json is there and is not this artifact's; BadInput where it may not
        be read.
        """
        try:
            text = (self.folder(kind, digest) / META).read_bytes()
        except (FileNotFoundError, NotADirectoryError):
            return None
        except OSError as error:
            reason = (error.strerror or str(error)).lower()
            raise BadInput(
                f"store {self.root}: {META} of {kind} {digest[:12]} cannot be read: {reason}"
            ) from None
        try:
            fields = json.loads(text)
            record = Record(**fields)
        except (ValueError, TypeError) as error:
            raise Damaged(kind, digest, f"{META} cannot be read: {error}") from None
        if (record.kind, record.digest) != (kind, digest) or not _well_formed(fields):
            raise Damaged(kind, digest, f"{META} is not the record of this artifact")
        return record

    def path(self, record: Record, name: str) -> Path:
        """A data file of an artifact, its checksum checked once in this process."""
        entry = record.files.get(name)
        if entry is None:
            raise Damaged(record.kind, record.digest, f"its record has no {name}")
        path = self.folder(record.kind, record.digest) / str(entry["file"])
        key = (record.digest, record.content, name)
        if key not in self._checked:
            try:
                with path.open("rb") as handle:
                    found = hashlib.file_digest(handle, "sha256").hexdigest()
            except FileNotFoundError:
                raise Damaged(record.kind, record.digest, f"{path.name} is missing") from None
            except OSError as error:
                reason = f"{path.name} cannot be read: {(error.strerror or str(error)).lower()}"
                raise Damaged(record.kind, record.digest, reason) from None
            if found != entry["sha256"]:
                reason = f"{path.name} does not match its checksum"
                raise Damaged(record.kind, record.digest, reason)
            self._checked.add(key)
        return path

    def put(
        self,
        node: Node,
        writers: Mapping[str, Writer],
        *,
        lineage: Mapping[str, str],
        facts: Mapping[str, object],
        how: Mapping[str, object],
    ) -> Record:
        """Write an artifact's files, then its record; the record that stands is returned.

        writers: file name → a function that writes the file at the path it is given.
        """
        folder = self.folder(node.kind, node.digest)
        with self._scratch() as scratch:
            for name, write in writers.items():
                write(scratch / name)
            folder.mkdir(parents=True, exist_ok=True)
            files = {name: _settle(scratch / name, folder, name) for name in writers}
            content = hashlib.sha256(
                json.dumps(
                    sorted((name, entry["sha256"]) for name, entry in files.items())
                ).encode()
            ).hexdigest()
            record = {
                "kind": node.kind,
                "digest": node.digest,
                "content": content,
                "spec": node.spec.model_dump(mode="json"),
                "versions": {found.__name__: found.version for found in spec_classes(node.spec)},
                "parents": {role: (parent.kind, parent.digest) for role, parent in node.parents},
                "lineage": dict(lineage),
                "files": files,
                "facts": dict(facts),
                "how": {"written": time.time(), **how},
            }
            draft = scratch / META
            _write_synced(draft, json.dumps(record, indent=1).encode())
            # a link, not a rename: it fails where another writer's record already stands
            with contextlib.suppress(FileExistsError):
                _link(draft, folder / META)
        standing = self.record(node.kind, node.digest)
        if standing is None:
            raise Damaged(node.kind, node.digest, "was taken away while it was put")
        kept = {str(entry["file"]) for entry in standing.files.values()}
        if standing.content != content:
            for entry in files.values():
                if entry["file"] not in kept:
                    (folder / str(entry["file"])).unlink(missing_ok=True)
        return standing

    def set_aside(self, kind: str, digest: str) -> Path | None:
        """Move an artifact out of the way, whole; None where there is none."""
        folder = self.folder(kind, digest)
        aside = self.root / "aside" / f"{kind}-{digest[:12]}-{time.time_ns()}"
        aside.parent.mkdir(parents=True, exist_ok=True)
        try:
            folder.rename(aside)
        except FileNotFoundError:
            return None
        self._checked = {key for key in self._checked if key[0] != digest}
        return aside

    def each(self) -> Iterator[tuple[str, str]]:
        """(kind, digest) of every artifact."""
        for meta in sorted(self.root.glob(f"*/??/*/{META}")):
            yield meta.parts[-4], meta.parts[-2]

    def partial(self, digest: str) -> Path:
        """Where unfinished work of a node keeps its last state; no artifact."""
        return self.root / "partial" / digest

    @contextlib.contextmanager
    def _scratch(self) -> Iterator[Path]:
        scratch = self.root / "scratch" / uuid.uuid4().hex
        scratch.mkdir(parents=True)
        try:
            yield scratch
        finally:
            shutil.rmtree(scratch, ignore_errors=True)


def _well_formed(fields: Mapping[str, Any]) -> bool:
    """Whether the parts of a record that other modules walk through have the types they expect."""
    parts = ("spec", "versions", "parents", "lineage", "files", "facts", "how")
    return (
        isinstance(fields["content"], str)
        and all(isinstance(fields[part], dict) for part in parts)
        and all(isinstance(pair, list) and len(pair) == 2 for pair in fields["parents"].values())
        and all(
            isinstance(file, dict) and {"file", "sha256"} <= file.keys()
            for file in fields["files"].values()
        )
    )


def _settle(draft: Path, folder: Path, name: str) -> dict[str, object]:
    """Move a written file to its place, named by its checksum, safely on disk first."""
    with draft.open("rb+") as handle:
        sha256 = hashlib.file_digest(handle, "sha256").hexdigest()
        os.fsync(handle.fileno())
        size = handle.seek(0, os.SEEK_END)
    stem, dot, ending = name.partition(".")
    target = folder / f"{stem}-{sha256[:16]}{dot}{ending}"
    draft.replace(target)
    return {"file": target.name, "sha256": sha256, "bytes": size}


def _write_synced(path: Path, data: bytes) -> None:
    with path.open("wb") as handle:
        handle.write(data)
        handle.flush()
        os.fsync(handle.fileno())


def _link(source: Path, target: Path) -> None:
    try:
        os.link(source, target)
    except OSError as error:
        if error.errno not in {errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS}:
            raise
        # A file system without hard links: a rename leaves no torn record, and of two writers
        # in the same instant the later one stands, as whole as the other.
        if target.exists():
            raise FileExistsError(target) from None
        source.replace(target)

"""The store: digest → artifact, with record, path and put, in a folder that many may share.

`<store>/<kind>/<2 hex>/<digest>/` holds data files that carry their own SHA-256 in their names
and, written last and only if absent, `meta.json`. An artifact exists if and only if its
meta.json does, so a process killed at any moment leaves whole artifacts only, and of two
writers one wins whole.

`<store>/elsewhere/` holds records of artifacts whose files are in another store: see `known`.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import shutil
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from itertools import chain, islice
from pathlib import Path

from pipeline.graph import Node
from pipeline.hashing import spec_classes
from pipeline.problems import BadInput, writing_to
from pipeline.records import META, Damaged, Record, as_json, content_of, data_file, parse_record

__all__ = ["META", "Damaged", "Record", "Store", "Writer"]

Writer = Callable[[Path], None]


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
        return parse_record(text, kind, digest)

    def known(self, kind: str, digest: str) -> Record | None:
        """The record of an artifact here or, as an import told it, of one in another store.

        What only another store has counts as absent; None also where the record is damaged.
        """
        try:
            if (record := self.record(kind, digest)) is not None:
                return record
            return parse_record(self._elsewhere(kind, digest).read_bytes(), kind, digest)
        except (Damaged, OSError):
            return None

    def remember(self, record: Record) -> None:
        """Keep the record of an artifact whose files stay in another store."""
        place = self._elsewhere(record.kind, record.digest)
        place.parent.mkdir(parents=True, exist_ok=True)
        with self._scratch() as scratch:
            _write_synced(scratch / META, as_json(record))
            (scratch / META).replace(place)

    def _elsewhere(self, kind: str, digest: str) -> Path:
        return self.root / "elsewhere" / kind / digest[:2] / f"{digest}.json"

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

        writers: file name → a function that writes the file at the path it is given. Unwritable
        where the disk is full or the like.
        """
        folder = self.folder(node.kind, node.digest)
        with self._scratch() as scratch:
            for name, write in writers.items():
                write(scratch / name)
            folder.mkdir(parents=True, exist_ok=True)
            files = {name: _settle(scratch / name, folder, name) for name in writers}
            record = Record(
                kind=node.kind,
                digest=node.digest,
                content=content_of(files),
                spec=node.spec.model_dump(mode="json"),
                versions={found.__name__: found.version for found in spec_classes(node.spec)},
                parents={role: (parent.kind, parent.digest) for role, parent in node.parents},
                lineage=dict(lineage),
                files=files,
                facts=dict(facts),
                how={"written": time.time(), **how},
            )
            return self._stand(record, scratch)

    def adopt(self, record: Record, writers: Mapping[str, Writer]) -> Record:
        """Put an artifact of another store under its own record; the record that stands.

        Damaged, and nothing put, where what the writers write is not what the record says.
        """
        folder = self.folder(record.kind, record.digest)
        with self._scratch() as scratch:
            for name, write in writers.items():
                write(scratch / name)
            folder.mkdir(parents=True, exist_ok=True)
            files = {name: _settle(scratch / name, folder, name) for name in writers}
            if files != record.files:
                self._clear(record, files)
                raise Damaged(record.kind, record.digest, "its files are not what its record says")
            return self._stand(record, scratch)

    def _stand(self, record: Record, scratch: Path) -> Record:
        """Let a record whose files are in place stand, unless another already does."""
        draft = scratch / META
        _write_synced(draft, as_json(record))
        # a link, not a rename: it fails where another writer's record already stands
        with contextlib.suppress(FileExistsError):
            _link(draft, self.folder(record.kind, record.digest) / META)
        standing = self.record(record.kind, record.digest)
        if standing is None:
            raise Damaged(record.kind, record.digest, "was taken away while it was put")
        if standing.content != record.content:
            self._clear(record, record.files)
        return standing

    def _clear(self, record: Record, files: Mapping[str, Mapping[str, object]]) -> None:
        """Delete files that the record that stands, if one does, does not name."""
        standing = self.record(record.kind, record.digest)
        kept = {entry["file"] for entry in standing.files.values()} if standing else set()
        for entry in files.values():
            if entry["file"] not in kept:
                path = self.folder(record.kind, record.digest) / str(entry["file"])
                path.unlink(missing_ok=True)

    def set_aside(self, kind: str, digest: str, folder: Path | None = None) -> Path | None:
        """Move an artifact out of the way, whole; None where there is none.

        folder: where it lies, if that is not its own place.
        """
        folder = folder or self.folder(kind, digest)
        aside = self.root / "aside" / f"{kind}-{digest[:12]}-{time.time_ns()}"
        with self.writing():
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

    def some(self, kind: str, count: int) -> Iterator[str]:
        """Digests of up to `count` artifacts of a kind, here or told by an import; any of them."""
        here = self.root.glob(f"{kind}/??/*/{META}")
        elsewhere = self.root.glob(f"elsewhere/{kind}/??/*.json")
        names = chain((path.parts[-2] for path in here), (path.stem for path in elsewhere))
        return islice(names, count)

    def partial(self, digest: str) -> Path:
        """Where unfinished work of a node keeps its last state; no artifact."""
        return self.root / "partial" / digest

    def writing(self) -> contextlib.AbstractContextManager[None]:
        """Where the store is written: a full disk and the like raise Unwritable, in one line."""
        return writing_to(f"store {self.root}")

    @contextlib.contextmanager
    def _scratch(self) -> Iterator[Path]:
        scratch = self.root / "scratch" / uuid.uuid4().hex
        with self.writing():
            scratch.mkdir(parents=True)
            try:
                yield scratch
            finally:
                shutil.rmtree(scratch, ignore_errors=True)


def _settle(draft: Path, folder: Path, name: str) -> dict[str, object]:
    """Move a written file to its place, named by its checksum, safely on disk first."""
    with draft.open("rb+") as handle:
        sha256 = hashlib.file_digest(handle, "sha256").hexdigest()
        os.fsync(handle.fileno())
        size = handle.seek(0, os.SEEK_END)
    target = folder / data_file(name, sha256)
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

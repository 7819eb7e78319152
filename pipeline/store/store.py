"""The artifact store: maps a node's digest to its artifact, on a backend that processes can share.

`<store>/<kind>/<2 hex>/<digest>/` holds data files, with their SHA-256 in their names, and
`meta.json`, which is written last and only if it does not exist. An artifact exists if and only if
its `meta.json` does. So a process that is killed leaves no partial artifact, and if two processes
write the same artifact, one of them wins as a whole.

`<store>/elsewhere/` holds records of artifacts whose files are in another store: see `known`.
`<store>/store.json` marks the location as a store: see `pipeline.store.layout`.
"""

from __future__ import annotations

import contextlib
import hashlib
import re
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from itertools import chain, islice
from pathlib import Path, PurePosixPath

from pipeline.problems import BadInput, Unwritable, reason_of
from pipeline.problems.sanitize import without_secrets
from pipeline.store import layout
from pipeline.store.backend import Backend
from pipeline.store.bucket import SCHEMES, Bucket
from pipeline.store.folder import Folder
from pipeline.store.records import (
    ABSENT,
    META,
    ArtifactState,
    Damaged,
    File,
    Gone,
    Identity,
    Record,
    as_json,
    content_of,
    data_file,
    parse_record,
)

__all__ = ["META", "Damaged", "Gone", "Record", "Store", "Writer", "folder_of"]

BUCKETS = f"a bucket's address, which begins with {', '.join(SCHEMES[:-1])} or {SCHEMES[-1]}"
ADDRESSES = ("s3", "gs", "gcs", "az", "abfs", "file", "https?", "hdfs", "postgresql", "sqlite")
"""Prefixes that are recognised as addresses; a folder with such a name is given as `./s3:name`."""
Writer = Callable[[Path], None]


class Store:
    """Artifacts in a folder, local or on a network, or in a bucket.

    Raises:
        BadInput: If `location` is not a valid address, or the bucket cannot be reached.
    """

    def __init__(self, location: Path | str | Backend) -> None:
        if isinstance(location, str) and location.startswith(SCHEMES):
            location = Bucket(location)
        if isinstance(location, str | Path):
            _check_folder_name(str(location))
        self.backend: Backend = (
            Folder(Path(location)) if isinstance(location, str | Path) else location
        )
        self._checked: set[tuple[str, str, str]] = set()

    @property
    def address(self) -> str:
        """Address with which any process opens the same store."""
        return self.backend.address

    @property
    def root(self) -> Path | None:
        """The folder of the store; None for a bucket."""
        return self.backend.root if isinstance(self.backend, Folder) else None

    def prepare(self) -> str | None:
        """Create the store and mark it as one.

        Returns:
            A line for the user if a store without a marker was adopted, otherwise None.

        Raises:
            BadInput: If the location is not writable or contains other files, in which case nothing
                is written.
        """
        marked = layout.marked(self.backend)
        old = not marked and layout.holds_store(self.backend)
        self.backend.prepare()
        if marked:
            return None
        if old:
            return layout.adopt(self.backend)
        try:
            layout.mark(self.backend)
        except Unwritable as problem:
            raise BadInput(str(problem)) from None
        return None

    def check(self) -> str | None:
        """Check that the store exists; adopts a store of an older version.

        Returns:
            A line for the user if a store was adopted, otherwise None.

        Raises:
            BadInput: If there is no store, or the location contains other files.
        """
        self.backend.check()
        return layout.adopt(self.backend)

    def record(self, kind: str, digest: str) -> Record | None:
        """The record of an artifact; None if it does not exist.

        Raises:
            Damaged: If `meta.json` is invalid.
            BadInput: If it cannot be read.
        """
        text = self._told(kind, digest)
        while text is not None:
            try:
                return parse_record(text, kind, digest)
            except Damaged:
                # a file that is being replaced may be read with the old length
                again = self._told(kind, digest)
                if again == text:
                    raise
                text = again
        return None

    def state(self, kind: str, digest: str) -> ArtifactState:
        """The state of an artifact: there, absent or damaged.

        Outdated artifacts are not detected here, but in `pipeline.plan.snapshot`. BadInput as in
        `record`.
        """
        try:
            record = self.record(kind, digest)
        except Damaged as damaged:
            return ArtifactState("damaged", reason=damaged.reason)
        return ABSENT if record is None else ArtifactState("there", record)

    def required(self, kind: str, digest: str) -> Record:
        """The record of an artifact; Gone if it does not exist, Damaged if it is invalid."""
        record = self.record(kind, digest)
        if record is None:
            raise Gone(kind, digest, "is not in this store")
        return record

    def _told(self, kind: str, digest: str, key: str = "") -> bytes | None:
        """Read a record, by default the one of this store; None if there is none."""
        try:
            return self.backend.read(key or f"{folder_of(kind, digest)}/{META}")
        except FileNotFoundError:
            return None
        except OSError as error:
            raise self._unread(kind, digest, META, error) from None

    def _unread(self, kind: str, digest: str, file: str, error: OSError) -> Damaged | BadInput:
        """What is to be raised where a file cannot be read.

        Only a folder in its place is damage: the causes of other errors, such as a network file
        system that does not answer, too little memory or no permission, do not lie in the file.
        """
        if isinstance(error, IsADirectoryError):
            return Damaged(kind, digest, f"{file} cannot be read: {reason_of(error)}")
        what = f"store {self.address}: {file} of {kind} {digest[:12]}"
        return BadInput(f"{what} cannot be read: {reason_of(error)}")

    def known(self, kind: str, digest: str) -> Record | None:
        """The record of an artifact in this store or, if an import provided it, in another one.

        Artifacts that only another store has count as absent elsewhere. None if the record is
        damaged. BadInput as in `record`.
        """
        try:
            state = self.state(kind, digest)
            if state.status != "absent":
                return state.record
            text = self._told(kind, digest, _elsewhere(kind, digest))
            return None if text is None else parse_record(text, kind, digest)
        except Damaged:
            return None

    def remember(self, record: Record) -> None:
        """Keep the record of an artifact whose files are in another store."""
        self.backend.write(_elsewhere(record.kind, record.digest), as_json(record))

    def whereabouts(self, record: Record) -> str | None:
        """Location of an artifact's files, for people; None if only another store has them."""
        folder = folder_of(record.kind, record.digest)
        found = any(self.backend.find(f"{folder}/{META}"))
        return f"{self.address.partition('?')[0]}/{folder}" if found else None

    def path(self, record: Record, name: str, *, fresh: bool = False) -> Path:
        """Local path of a data file, after its checksum was verified once in this process.

        Args:
            fresh: Verify again, and do not use a cached copy.

        Raises:
            Damaged: If the file is missing, no file or does not match its checksum.
            Gone: If another process removed the artifact.
            BadInput: If it cannot be read, which may pass.
        """
        entry = record.files.get(name)
        if entry is None:
            raise Damaged(record.kind, record.digest, f"its record has no {name}")
        mark = (record.digest, record.content, name)
        key = f"{folder_of(record.kind, record.digest)}/{entry['file']}"
        try:
            path = self.backend.path(key, fresh=fresh)
            if mark in self._checked and not fresh:
                path.stat()
            elif _sha256(path) != entry["sha256"]:
                # a cached copy may be damaged while the original is not
                path = self.backend.path(key, fresh=True)
                if _sha256(path) != entry["sha256"]:
                    reason = f"{path.name} does not match its checksum"
                    raise Damaged(record.kind, record.digest, reason)
        except FileNotFoundError:
            standing = self.record(record.kind, record.digest)
            what = Damaged if standing and standing.content == record.content else Gone
            raise what(record.kind, record.digest, f"{entry['file']} is missing") from None
        except OSError as error:
            raise self._unread(record.kind, record.digest, entry["file"], error) from None
        self._checked.add(mark)
        return path

    def put(
        self,
        identity: Identity,
        writers: Mapping[str, Writer],
        *,
        lineage: Mapping[str, str],
        facts: Mapping[str, object],
        how: Mapping[str, object],
        replace: bool = False,
    ) -> Record:
        """Write an artifact's files, then its record.

        Args:
            writers: Functions that write a file to the given path, by file name.
            lineage, facts, how: See `Record`.
            replace: Replace an existing artifact. If the content is the same, the artifact exists
                at every moment.

        Returns:
            The record that is in the store afterwards, which may be another writer's.

        Raises:
            Unwritable: If the disk is full or the like.
        """
        with self.backend.scratch() as scratch:
            files = _drafts(writers, scratch)
            record = Record(
                kind=identity.kind,
                digest=identity.digest,
                content=content_of(files),
                spec=identity.spec,
                versions=identity.versions,
                parents=identity.parents,
                lineage=dict(lineage),
                files=files,
                facts=dict(facts),
                how={"written": time.time(), **how},
                sealed=True,
            )
            return self._stand(record, scratch, over=replace and self._gives_way(record))

    def adopt(self, record: Record, writers: Mapping[str, Writer]) -> Record:
        """Copy an artifact from another store, under its own record; returns the stored record.

        Raises:
            Damaged: If the written files do not match the record; nothing is stored.
        """
        with self.backend.scratch() as scratch:
            if _drafts(writers, scratch) != record.files:
                raise Damaged(record.kind, record.digest, "its files are not what its record says")
            return self._stand(record, scratch)

    def seal(self, record: Record) -> None:
        """Add the checksum to a record; the artifact exists at every moment."""
        with self.backend.scratch() as scratch:
            draft = scratch / META
            draft.write_bytes(as_json(replace(record, sealed=True)))
            self.backend.settle(draft, f"{folder_of(record.kind, record.digest)}/{META}")

    def _gives_way(self, record: Record) -> bool:
        """Whether an artifact with the same content exists; one with other content is set aside."""
        state = self.state(record.kind, record.digest)
        if state.status == "absent":
            return False
        if state.record is not None and state.record.content == record.content:
            return True
        self.set_aside(record.kind, record.digest)
        return False

    def _stand(self, record: Record, scratch: Path, *, over: bool = False) -> Record:
        """Move an artifact's files and record into place; returns the record that is stored then.

        over: replace the record of an artifact with the same content. Otherwise an existing record
        is kept.
        """
        folder = folder_of(record.kind, record.digest)
        draft = scratch / META
        draft.write_bytes(as_json(record))
        gone = Gone(record.kind, record.digest, "was taken away while it was put")
        try:
            for name, entry in record.files.items():
                self.backend.settle(scratch / name, f"{folder}/{entry['file']}")
            if over:
                self.backend.settle(draft, f"{folder}/{META}")
            else:
                with contextlib.suppress(FileExistsError):
                    self.backend.create(draft, f"{folder}/{META}")
        except FileNotFoundError:
            # another run, which replaces the artifact, moved its folder away
            raise gone from None
        standing = self.record(record.kind, record.digest)
        if standing is None:
            raise gone
        kept = {entry["file"] for entry in standing.files.values()}
        for entry in record.files.values():
            if entry["file"] not in kept:
                with contextlib.suppress(FileNotFoundError):
                    self.backend.remove(f"{folder}/{entry['file']}")
        return standing

    def set_aside(self, kind: str, digest: str, folder: str | None = None) -> str | None:
        """Move an artifact out of the way; returns its new key, or None if there is none.

        folder: the key of its folder, if that is not the regular one.
        """
        aside = f"aside/{kind}-{digest[:12]}-{time.time_ns()}"
        try:
            self.backend.move(folder or folder_of(kind, digest), aside)
        except FileNotFoundError:
            return None
        self._checked = {key for key in self._checked if key[0] != digest}
        return aside

    def each(self) -> Iterator[tuple[str, str]]:
        """Iterate over kind and digest of all artifacts."""
        for key in sorted(entry.key for entry in self.backend.find(f"*/??/*/{META}")):
            kind, _, digest, _ = key.split("/")
            yield kind, digest

    def some(self, kind: str, count: int) -> Iterator[str]:
        """Digests of up to `count` artifacts of a kind, in any order, imported records included."""
        here = self.backend.find(f"{kind}/??/*/{META}")
        elsewhere = self.backend.find(f"elsewhere/{kind}/??/*.json")
        names = chain(
            (entry.key.split("/")[-2] for entry in here),
            (PurePosixPath(entry.key).stem for entry in elsewhere),
        )
        return islice(names, count)


def _drafts(writers: Mapping[str, Writer], scratch: Path) -> dict[str, File]:
    """Write the files into a scratch folder; returns their entries for the record."""
    files: dict[str, File] = {}
    for name, write in writers.items():
        draft = scratch / name
        write(draft)
        sha256 = _sha256(draft)
        size = draft.stat().st_size
        files[name] = {"file": data_file(name, sha256), "sha256": sha256, "bytes": size}
    return files


def folder_of(kind: str, digest: str) -> str:
    """Key of an artifact's folder, whether it exists or not."""
    return f"{kind}/{digest[:2]}/{digest}"


def _elsewhere(kind: str, digest: str) -> str:
    return f"elsewhere/{kind}/{digest[:2]}/{digest}.json"


def _sha256(path: Path) -> str:
    with path.open("rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()


def _check_folder_name(location: str) -> None:
    """Raise BadInput for an address that no store can have, given in place of a folder."""
    address = without_secrets(location)
    scheme = re.match(r"([A-Za-z][A-Za-z0-9+.-]*):/", location)
    known = re.match(rf"({'|'.join(ADDRESSES)}):", location, re.IGNORECASE)
    if not location or not location.isprintable():
        raise BadInput(f"--store {location!r}: expected a folder or {BUCKETS}")
    if found := scheme or known:
        raise BadInput(
            f"--store {address}: no store has an address that begins with '{found[1]}:'; expected "
            f"a folder's path, such as /data/store, or {BUCKETS}"
        )

"""Bundles: exported results in one zip file, with a manifest, records and data files.

    manifest.json                       format, program, grid, and every record's checksum
    records/<kind>/<digest>.json        the record of an artifact (its meta.json)
    files/<kind>/<digest>/<file>        the data files of artifacts that are included whole
    configs/<section>/<file>            the grid, the configs that it uses, and user code

A bundle is untrusted input: all of it is verified before anything is used, and member names are
composed from validated parts, never taken from the archive.
"""

from __future__ import annotations

import contextlib
import hashlib
import re
import shutil
import zipfile
import zlib
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from pipeline.problems import BadInput, reason_of, regular, shown
from pipeline.store.files import replacing
from pipeline.store.records import Damaged, Record, as_json, content_of, data_file, parse_record

MANIFEST = "manifest.json"
LARGEST_TEXT = 2**26
"""Maximum size of a manifest or record, in bytes; far more than any has."""
DATE = (1980, 1, 1, 0, 0, 0)
"""Date of all members, so that equal results give identical files."""
UNREADABLE = (
    zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError, ValueError
)  # fmt: skip
"""What zipfile raises for files that are damaged, encrypted or compressed in another way."""

FILE_NAME = re.compile(r"[a-z][a-z0-9_]*(\.[a-z]+)?")

Checksum = Annotated[str, Field(pattern="^[0-9a-f]{64}$")]


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class BundleItem(_Part):
    """An artifact in a bundle. `whole`: its files are included; `record`: SHA-256 of its record."""

    kind: str
    digest: Checksum
    whole: bool
    record: Checksum


CONFIG = (
    r"(datasets|models|recipes|attacks|defenses|grids)/"
    r"[^./\\\x00-\x1f][^/\\\x00-\x1f]{0,199}\.(yaml|py)"
)
"""Pattern of the names of configs in a bundle."""


class Manifest(_Part):
    """Contents of a bundle.

    cells: digest of the score of each cell, by name; configs: SHA-256 of each config; options:
    command-line options with which the grid was loaded. Format 1 had neither of the last two.
    """

    format: Literal[1, 2] = 2
    program: str
    grid: str
    cells: dict[str, Checksum]
    artifacts: list[BundleItem]
    configs: dict[Annotated[str, Field(pattern=f"^{CONFIG}$")], Checksum] = {}
    options: list[Annotated[str, Field(max_length=1000)]] = []


class Bundle:
    """A verified bundle: its manifest, and the records in the manifest's order."""

    def __init__(self, path: Path, archive: zipfile.ZipFile, kinds: Collection[str]) -> None:
        self._path = path
        self._kinds = kinds
        self._archive = archive
        self.manifest = self._read_manifest()
        self.records = [self._read_record(item) for item in self.manifest.artifacts]
        self._check_files()

    def whole(self) -> Iterator[Record]:
        """Records of the artifacts whose files are included."""
        for item, record in zip(self.manifest.artifacts, self.records, strict=True):
            if item.whole:
                yield record

    def configs(self) -> dict[str, bytes]:
        """The configs by `section/file`."""
        return {name: self._text(f"configs/{name}") for name in self.manifest.configs}

    def copy(self, record: Record, name: str, target: Path) -> None:
        """Extract a data file of an artifact to `target`."""
        with self._archive.open(_file(record, name)) as reader, target.open("wb") as writer:
            shutil.copyfileobj(reader, writer)

    def _problem(self, message: str) -> BadInput:
        return BadInput(f"{shown(self._path)}: {message}")

    def _text(self, member: str) -> bytes:
        if member not in self._archive.NameToInfo:
            raise self._problem(f"no file of `pipeline export`: it has no {member}")
        if self._archive.getinfo(member).file_size > LARGEST_TEXT:
            raise self._problem(f"{member} is larger than any that `pipeline export` writes")
        return self._archive.read(member)

    def _read_manifest(self) -> Manifest:
        try:
            manifest = Manifest.model_validate_json(self._text(MANIFEST))
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(map(str, first["loc"]))
            said = "another version's" if where == "format" else f"{where}: {first['msg']}"
            raise self._problem(f"its {MANIFEST} is not readable here: {said}") from None
        for item in manifest.artifacts:
            if item.kind not in self._kinds:
                raise self._problem(f"its {MANIFEST} has an unknown kind of node '{item.kind}'")
        return manifest

    def _read_record(self, item: BundleItem) -> Record:
        text = self._text(_record(item.kind, item.digest))
        if hashlib.sha256(text).hexdigest() != item.record:
            raise self._problem(f"the record of {_named(item)} does not match its checksum")
        try:
            record = parse_record(text, item.kind, item.digest)
        except Damaged as damaged:
            raise self._problem(str(damaged)) from None
        named = all(
            FILE_NAME.fullmatch(name)
            and re.fullmatch("[0-9a-f]{64}", str(file["sha256"]))
            and file["file"] == data_file(name, str(file["sha256"]))
            for name, file in record.files.items()
        )
        if not named or record.content != content_of(record.files):
            raise self._problem(f"the record of {_named(item)} does not fit its files")
        return record

    def _check_files(self) -> None:
        expected = {MANIFEST} | {
            _record(item.kind, item.digest) for item in self.manifest.artifacts
        }
        for name, checksum in self.manifest.configs.items():
            expected.add(f"configs/{name}")
            if hashlib.sha256(self._text(f"configs/{name}")).hexdigest() != checksum:
                raise self._problem(f"configs/{name} does not match its checksum")
        for record in self.whole():
            for name, file in record.files.items():
                member = _file(record, name)
                expected.add(member)
                if member not in self._archive.NameToInfo:
                    raise self._problem(f"it has no {member}")
                with self._archive.open(member) as handle:
                    found = hashlib.file_digest(handle, "sha256").hexdigest()  # type: ignore[arg-type]
                if found != file["sha256"]:
                    raise self._problem(f"{member} does not match its checksum")
        members = self._archive.namelist()
        foreign = sorted(set(members) - expected)
        if foreign or len(members) != len(expected):
            what = repr(foreign[0]) if foreign else "a member twice"
            raise self._problem(f"it holds {what}, which is none of its results")


@contextlib.contextmanager
def open_bundle(path: Path, kinds: Collection[str]) -> Iterator[Bundle]:
    """Context manager: open and verify a bundle.

    Args:
        kinds: Kinds of artifact that it may contain.

    Raises:
        BadInput: If it is not a complete and valid bundle.
    """
    try:
        archive = zipfile.ZipFile(regular(path))
    except OSError as error:
        reason = reason_of(error)
        raise BadInput(f"{shown(path)}: cannot be read: {reason}") from None
    except UNREADABLE as error:
        raise BadInput(f"{shown(path)}: no whole file of `pipeline export`: {error}") from None
    with archive:
        try:
            bundle = Bundle(path, archive, kinds)
        except (*UNREADABLE, OSError) as error:
            raise BadInput(f"{shown(path)}: no whole file of `pipeline export`: {error}") from None
        yield bundle


def write_bundle(
    path: Path,
    records: Sequence[tuple[Record, bool]],
    *,
    grid: str,
    program: str,
    cells: Mapping[str, str],
    locate: Callable[[Record, str], Path],
    configs: Mapping[str, bytes] | None = None,
    options: Sequence[str] = (),
) -> None:
    """Write a bundle atomically.

    Args:
        records: Records, and whether to include the files of each.
        locate: Finds a data file of a record.
        configs, options: See `Manifest`.

    Raises:
        BadInput: If the file cannot be written.
    """
    items = [
        BundleItem(
            kind=record.kind,
            digest=record.digest,
            whole=whole,
            record=hashlib.sha256(as_json(record)).hexdigest(),
        )
        for record, whole in records
    ]
    configs = configs or {}
    manifest = Manifest(
        program=program,
        grid=grid,
        cells=dict(cells),
        artifacts=items,
        configs={name: hashlib.sha256(data).hexdigest() for name, data in configs.items()},
        options=list(options),
    )
    try:
        with replacing(path) as draft, zipfile.ZipFile(draft, "x") as archive:
            archive.writestr(_member(MANIFEST), manifest.model_dump_json(indent=1))
            for name, data in configs.items():
                archive.writestr(_member(f"configs/{name}"), data)
            for record, whole in records:
                archive.writestr(_member(_record(record.kind, record.digest)), as_json(record))
                for name in record.files if whole else ():
                    member = _member(_file(record, name))
                    with (
                        locate(record, name).open("rb") as reader,
                        archive.open(member, "w", force_zip64=True) as writer,
                    ):
                        shutil.copyfileobj(reader, writer)
    except OSError as error:
        reason = reason_of(error)
        raise BadInput(f"{shown(path)}: cannot be written: {reason}") from None


def _member(name: str) -> zipfile.ZipInfo:
    info = zipfile.ZipInfo(name, DATE)
    info.compress_type = zipfile.ZIP_DEFLATED
    return info


def _record(kind: str, digest: str) -> str:
    return f"records/{kind}/{digest}.json"


def _file(record: Record, name: str) -> str:
    return f"files/{record.kind}/{record.digest}/{record.files[name]['file']}"


def _named(item: BundleItem) -> str:
    return f"{item.kind} {item.digest[:12]}"

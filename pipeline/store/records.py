"""Records of artifacts: what meta.json says of one, and what is wrong with one that is damaged."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal

META = "meta.json"


class Damaged(Exception):
    """An artifact that is not what its record says."""

    def __init__(self, kind: str, digest: str, reason: str) -> None:
        super().__init__(kind, digest, reason)
        self.kind, self.digest, self.reason = kind, digest, reason

    def __str__(self) -> str:
        return f"{self.kind} {self.digest[:12]}: {self.reason}"


class Gone(Damaged):
    """An artifact that is no longer there: another process took it away, and may bring it back."""


@dataclass(frozen=True)
class Identity:
    """What an artifact is of, whatever was computed.

    kind, digest: its place in the store; spec: as JSON holds it; versions: class to version, of
    every spec inside the spec; parents: role to (kind, digest).
    """

    kind: str
    digest: str
    spec: Mapping[str, object]
    versions: Mapping[str, int]
    parents: Mapping[str, tuple[str, str]]


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


@dataclass(frozen=True)
class ArtifactState:
    """What the store holds of an artifact.

    status: `outdated` where it was made from other content of an ancestor than the store holds
    now, which `pipeline.plan.look` finds out. record: where it is there or outdated. reason: why
    it is not there, in one line.
    """

    status: Literal["there", "absent", "outdated", "damaged"]
    record: Record | None = None
    reason: str = ""

    @property
    def standing(self) -> Record | None:
        """The record of an artifact that counts as there."""
        return self.record if self.status == "there" else None


ABSENT = ArtifactState("absent", reason="not computed yet")


def parse_record(text: bytes, kind: str, digest: str) -> Record:
    """The record that a meta.json holds; Damaged where it is not that of this artifact."""
    try:
        fields = json.loads(text)
        record = Record(**fields)
    except (ValueError, TypeError) as error:
        raise Damaged(kind, digest, f"{META} cannot be read: {error}") from None
    if (record.kind, record.digest) != (kind, digest) or not _well_formed(fields):
        raise Damaged(kind, digest, f"{META} is not the record of this artifact")
    return record


def content_of(files: Mapping[str, Mapping[str, object]]) -> str:
    """SHA-256 over the names and SHA-256 of an artifact's files."""
    pairs = sorted((name, entry["sha256"]) for name, entry in files.items())
    return hashlib.sha256(json.dumps(pairs).encode()).hexdigest()


def data_file(name: str, sha256: str) -> str:
    """The name under which a file of an artifact lies in its folder."""
    stem, dot, ending = name.partition(".")
    return f"{stem}-{sha256[:16]}{dot}{ending}"


def as_json(record: Record) -> bytes:
    """What meta.json holds of a record."""
    return json.dumps(asdict(record), indent=1).encode()


def _well_formed(fields: Mapping[str, Any]) -> bool:
    """Whether the parts of a record that other modules walk through have the types they expect."""
    for part in ("spec", "versions", "parents", "lineage", "files", "facts", "how"):
        if not isinstance(fields[part], dict):
            return False
    for pair in fields["parents"].values():
        if not isinstance(pair, list) or len(pair) != 2:
            return False
    for file in fields["files"].values():
        if not isinstance(file, dict) or "file" not in file or "sha256" not in file:
            return False
    return isinstance(fields["content"], str)


Made = tuple[tuple[str, str], ...]
"""Device, a CPU's instructions and versions of libraries, and their values."""


def hardware(record: Record) -> dict[str, str]:
    """On what an artifact was computed: its device and, of a CPU, the instructions."""
    how = record.how
    return {name: str(how[name]) for name in ("device", "instructions") if name in how}


def how_made(record: Record) -> Made:
    """On what, and with which versions of libraries, an artifact was computed."""
    versions = record.how.get("versions")
    seen = versions if isinstance(versions, dict) else {}
    named = {"device": None, **hardware(record), **seen}
    return tuple((str(key), str(value)) for key, value in named.items())

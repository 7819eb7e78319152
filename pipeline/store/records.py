"""Records of artifacts: what meta.json says of one, and what is wrong with one that is damaged."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import ClassVar, Literal, NotRequired

from pydantic import ConfigDict, with_config
from typing_extensions import TypedDict

from pipeline.store.facts import check_facts
from pipeline.store.reading import Malformed, checked, parsed

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


@with_config(ConfigDict(extra="allow"))
class File(TypedDict):
    """A data file: its name in the artifact's folder, the SHA-256 and the size of its bytes."""

    file: str
    sha256: str
    bytes: NotRequired[int]


@with_config(ConfigDict(extra="allow"))
class How(TypedDict, total=False):
    """How an artifact was computed, where other modules read it; there may be more."""

    written: float
    seconds: float
    asking_seconds: float
    forwards: int
    backwards: int
    device: str | None
    instructions: str
    versions: dict[str, str]


RENAMED = {"worst": "right_in_every_redraw"}
"""Facts that earlier versions recorded under another name."""


@dataclass(frozen=True)
class Record:
    """What meta.json says: spec, lineage, files and how it was computed."""

    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(extra="forbid")

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
    files: Mapping[str, File]
    facts: Mapping[str, object]
    how: Mapping[str, object]
    sealed: bool = False
    """Whether meta.json ends with a checksum of its own, which older ones do not have."""


SEAL = re.compile(rb',\n "seal": "([0-9a-f]{64})"\n}\Z')
"""How a sealed meta.json ends: the SHA-256 of all that stands before."""
SEALED = 100
"""Of so many bytes at the end of meta.json a seal is a part."""


@dataclass(frozen=True)
class ArtifactState:
    """What the store holds of an artifact.

    status: `outdated` where it was made from other content of an ancestor than the store holds
    now, which `pipeline.plan.snapshot` finds out. record: where it is there or outdated. reason:
    why it is not there, in one line.
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
    """The record that a meta.json holds; Damaged where it is not that of this artifact.

    Damaged also where it is sealed and was changed since, or a fact has not its type.
    """
    seal = SEAL.search(text, max(0, len(text) - SEALED))
    body = text if seal is None else text[: seal.start()] + b', "sealed": true}'
    own = b"" if seal is None else hashlib.sha256(text[: seal.start()]).hexdigest().encode()
    if own != (b"" if seal is None else seal[1]) or (seal is None and b'"seal"' in text[-SEALED:]):
        raise Damaged(kind, digest, f"{META} does not match its own checksum")
    try:
        found = parsed(body, Record)
        facts = {RENAMED.get(name, name): fact for name, fact in found.facts.items()}
        record = replace(found, facts=facts)
        check_facts(kind, record.facts)
        checked(record.how, How)
    except Malformed as malformed:
        raise Damaged(kind, digest, f"{META} cannot be read: {malformed}") from None
    if (record.kind, record.digest, record.sealed) != (kind, digest, seal is not None):
        raise Damaged(kind, digest, f"{META} is not the record of this artifact")
    return record


def content_of(files: Mapping[str, File]) -> str:
    """SHA-256 over the names and SHA-256 of an artifact's files."""
    pairs = sorted((name, entry["sha256"]) for name, entry in files.items())
    return hashlib.sha256(json.dumps(pairs).encode()).hexdigest()


def data_file(name: str, sha256: str) -> str:
    """The name under which a file of an artifact lies in its folder."""
    stem, dot, ending = name.partition(".")
    return f"{stem}-{sha256[:16]}{dot}{ending}"


def as_json(record: Record) -> bytes:
    """What meta.json holds of a record."""
    fields = asdict(record)
    del fields["sealed"]
    text = json.dumps(fields, indent=1).encode()
    if not record.sealed:
        return text
    body = text.removesuffix(b"\n}")
    return body + f',\n "seal": "{hashlib.sha256(body).hexdigest()}"\n}}'.encode()


Provenance = tuple[tuple[str, str], ...]
"""Device, a CPU's instructions and versions of libraries, and their values."""


def hardware(record: Record) -> dict[str, str]:
    """On what an artifact was computed: its device and, of a CPU, the instructions."""
    how = record.how
    return {name: str(how[name]) for name in ("device", "instructions") if name in how}


def provenance_of(record: Record) -> Provenance:
    """On what, and with which versions of libraries, an artifact was computed."""
    versions = record.how.get("versions")
    seen = versions if isinstance(versions, dict) else {}
    named = {"device": None, **hardware(record), **seen}
    return tuple((str(key), str(value)) for key, value in named.items())

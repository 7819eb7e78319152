"""Records of artifacts: the content of `meta.json`, its validation and its checksum."""

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
    """An artifact does not match its record."""

    def __init__(self, kind: str, digest: str, reason: str) -> None:
        super().__init__(kind, digest, reason)
        self.kind, self.digest, self.reason = kind, digest, reason

    def __str__(self) -> str:
        return f"{self.kind} {self.digest[:12]}: {self.reason}"


class Gone(Damaged):
    """An artifact is missing: another process removed it, and it may be computed again."""


@dataclass(frozen=True)
class Identity:
    """Identifies an artifact by its recipe.

    Attributes:
        spec: The node's spec as JSON.
        versions: Version of each spec class in the spec, by class name.
        parents: Kind and digest of each parent, by role.
    """

    kind: str
    digest: str
    spec: Mapping[str, object]
    versions: Mapping[str, int]
    parents: Mapping[str, tuple[str, str]]


@with_config(ConfigDict(extra="allow"))
class File(TypedDict):
    """A data file: its name in the artifact's folder, and the SHA-256 and size of its content."""

    file: str
    sha256: str
    bytes: NotRequired[int]


@with_config(ConfigDict(extra="allow"))
class How(TypedDict, total=False):
    """How an artifact was computed: the keys that other modules read; there may be others."""

    written: float
    seconds: float
    asking_seconds: float
    forwards: int
    backwards: int
    device: str | None
    instructions: str
    versions: dict[str, str]
    libraries: dict[str, str]
    own_modules: dict[str, dict[str, str]]


RENAMED = {"worst": "right_in_every_redraw", "felled": "broken"}
"""Old names of facts and of parts of `candidates`, and the current ones."""


@dataclass(frozen=True)
class Record:
    """The content of `meta.json`: spec, lineage, files and how the artifact was computed."""

    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(extra="forbid")

    kind: str
    digest: str
    content: str
    """Content hash: SHA-256 of the names and SHA-256 of the data files. Children record it."""
    spec: Mapping[str, object]
    versions: Mapping[str, int]
    """Version of each spec class in the spec, by class name."""
    parents: Mapping[str, tuple[str, str]]
    """Kind and digest of each parent, by role."""
    lineage: Mapping[str, str]
    """Content hash of each ancestor at the time of the computation, by digest."""
    files: Mapping[str, File]
    facts: Mapping[str, object]
    how: Mapping[str, object]
    sealed: bool = False
    """Whether `meta.json` ends with a checksum of itself, which old records lack."""


SEAL = re.compile(rb',\n "seal": "([0-9a-f]{64})"\n}\Z')
"""The end of a sealed `meta.json`: SHA-256 of everything before it."""
SEALED = 100
"""Number of bytes at the end of `meta.json` that contain the seal."""


@dataclass(frozen=True)
class ArtifactState:
    """State of an artifact in the store.

    Attributes:
        status: `outdated` means that an ancestor has other content now than when the artifact was
            computed; only `pipeline.plan.snapshot` detects this.
        record: The record, if the status is `there` or `outdated`.
        reason: Why it is not there, in one line.
    """

    status: Literal["there", "absent", "outdated", "damaged"]
    record: Record | None = None
    reason: str = ""

    @property
    def standing(self) -> Record | None:
        """The record of a valid artifact, otherwise None."""
        return self.record if self.status == "there" else None


ABSENT = ArtifactState("absent", reason="not computed yet")


def parse_record(text: bytes, kind: str, digest: str) -> Record:
    """Parse and verify the content of a `meta.json`.

    Raises:
        Damaged: If it is invalid, is of another artifact, or does not match its seal.
    """
    seal = SEAL.search(text, max(0, len(text) - SEALED))
    body = text if seal is None else text[: seal.start()] + b', "sealed": true}'
    own = b"" if seal is None else hashlib.sha256(text[: seal.start()]).hexdigest().encode()
    if own != (b"" if seal is None else seal[1]) or (seal is None and b'"seal"' in text[-SEALED:]):
        raise Damaged(kind, digest, f"{META} does not match its own checksum")
    try:
        found = parsed(body, Record)
        record = replace(found, facts=_as_named_now(found.facts))
        check_facts(kind, record.facts)
        checked(record.how, How)
    except Malformed as malformed:
        raise Damaged(kind, digest, f"{META} cannot be read: {malformed}") from None
    if (record.kind, record.digest, record.sealed) != (kind, digest, seal is not None):
        raise Damaged(kind, digest, f"{META} is not the record of this artifact")
    return record


def _as_named_now(facts: Mapping[str, object]) -> dict[str, object]:
    """Facts of any version under their current names."""
    named = {RENAMED.get(name, name): fact for name, fact in facts.items()}
    if isinstance(told := named.get("candidates"), list):
        named["candidates"] = [
            _as_named_now(each) if isinstance(each, Mapping) else each for each in told
        ]
    return named


def content_of(files: Mapping[str, File]) -> str:
    """Content hash of an artifact: SHA-256 of the names and SHA-256 of its files."""
    pairs = sorted((name, entry["sha256"]) for name, entry in files.items())
    return hashlib.sha256(json.dumps(pairs).encode()).hexdigest()


def data_file(name: str, sha256: str) -> str:
    """Name of a data file in the artifact's folder, which contains its checksum."""
    stem, dot, ending = name.partition(".")
    return f"{stem}-{sha256[:16]}{dot}{ending}"


def as_json(record: Record) -> bytes:
    """The `meta.json` of a record."""
    fields = asdict(record)
    del fields["sealed"]
    text = json.dumps(fields, indent=1).encode()
    if not record.sealed:
        return text
    body = text.removesuffix(b"\n}")
    return body + f',\n "seal": "{hashlib.sha256(body).hexdigest()}"\n}}'.encode()


Provenance = tuple[tuple[str, str], ...]
"""Device, CPU instruction set and library versions, as pairs of name and value."""


def hardware(record: Record) -> dict[str, str]:
    """The hardware that an artifact was computed on: device and CPU instruction set."""
    how = record.how
    return {name: str(how[name]) for name in ("device", "instructions") if name in how}


def provenance_of(record: Record) -> Provenance:
    """The hardware and library versions that an artifact was computed with."""
    named = {"device": None, **hardware(record)}
    for key in ("versions", "libraries"):
        seen = record.how.get(key)
        named |= seen if isinstance(seen, dict) else {}
    return tuple((str(key), str(value)) for key, value in named.items())

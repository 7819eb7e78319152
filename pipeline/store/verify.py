"""Verification of a store: every artifact is compared with its record.

Runs only detect damage in artifacts that they read.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import PurePosixPath

from pipeline.problems import BadInput
from pipeline.store import arrow
from pipeline.store.ledger import read_invocation
from pipeline.store.reading import Malformed, words
from pipeline.store.records import META, Damaged, Gone, Record, content_of, parse_record
from pipeline.store.recount import contradiction
from pipeline.store.store import Store, folder_of


@dataclass(frozen=True)
class Damage:
    """What is wrong with an artifact or file; aside: the key that it was moved to, if it was."""

    kind: str
    digest: str
    reason: str
    aside: str | None = None


@dataclass
class Verified:
    """Result of a verification.

    Attributes:
        sound: Number of valid artifacts.
        sound_bytes: Their total size.
        unsealed: How many of them have a record without a checksum.
        sealed: How many records were given a checksum.
        damages: All damage found.
    """

    sound: int = 0
    sound_bytes: int = 0
    unsealed: int = 0
    sealed: int = 0
    damages: list[Damage] = field(default_factory=list)


def verify(
    store: Store,
    *,
    set_aside: bool = False,
    seal: bool = False,
    tell: Callable[[int, int], object] | None = None,
) -> Verified:
    """Read all files of a store and compare each artifact with its record.

    Facts are compared with what the files contain, see `pipeline.store.recount`.

    Args:
        set_aside: Move damaged artifacts out of the way, so that a run computes them again. What
            cannot be read at this moment is reported and stays.
        seal: Add the checksum to valid old records that lack one.
        tell: Called with the number of artifacts done and in total.

    Raises:
        BadInput: If there is no store.
    """
    store.check()
    found = Verified()
    # a new Store, which has not verified any file yet
    fresh = Store(store.backend)
    metas = sorted(entry.key for entry in store.backend.find(f"*/??/*/{META}"))
    for count, meta in enumerate(metas, start=1):
        folder = meta.removesuffix(f"/{META}")
        kind, _, digest = folder.split("/")
        try:
            record, size = _check_again(fresh, folder, kind, digest)
        except (Damaged, BadInput) as problem:
            damaged = isinstance(problem, Damaged)
            reason = problem.reason if isinstance(problem, Damaged) else str(problem)
            if not _there(store, meta):
                continue  # another process removed it meanwhile
            aside = store.set_aside(kind, digest, folder) if set_aside and damaged else None
            found.damages.append(Damage(kind, digest, reason, aside))
        else:
            if record is not None:
                found.sound += 1
                found.sound_bytes += size
                found.unsealed += not (record.sealed or seal)
                if seal and not record.sealed:
                    store.seal(record)
                    found.sealed += 1
        if tell is not None:
            tell(count, len(metas))
    found.damages += _beside(store)
    return found


def still_damaged(store: Store, kind: str, digest: str) -> bool:
    """Look at an artifact that was found damaged once more: a read may have failed only once."""
    try:
        # a new Store, which has not verified any file yet
        _check(Store(store.backend), folder_of(kind, digest), kind, digest)
    except Damaged as damaged:
        return not isinstance(damaged, Gone)
    except BadInput:
        return False
    return False


def _beside(store: Store) -> Iterator[Damage]:
    """Damage in files other than artifacts: the ledger, and records of other stores."""
    readers: Mapping[str, Callable[[str, bytes], object]] = {
        "ledger/*.json": lambda _, data: read_invocation(data),
        "ledger/wanted/[!.]*": lambda _, data: words(data),
        "elsewhere/*/??/*.json": lambda key, data: parse_record(
            data, key.split("/")[1], PurePosixPath(key).stem
        ),
    }
    for pattern, read in readers.items():
        for key in sorted(entry.key for entry in store.backend.find(pattern)):
            try:
                read(key, store.backend.read(key))
            except FileNotFoundError:
                continue
            except Damaged as damaged:
                yield Damage("file", key, damaged.reason)
            except (Malformed, OSError) as error:
                yield Damage("file", key, str(error))


def _there(store: Store, key: str) -> bool:
    return any(entry.key == key for entry in store.backend.find(key))


def _check_again(store: Store, folder: str, kind: str, digest: str) -> tuple[Record | None, int]:
    """Like `_check`, twice where something is wrong: a run may have replaced the artifact."""
    try:
        return _check(store, folder, kind, digest)
    except (Damaged, BadInput):
        return _check(store, folder, kind, digest)


def _check(store: Store, folder: str, kind: str, digest: str) -> tuple[Record | None, int]:
    """Verify an artifact; returns its record, or None if it is gone, and its size in bytes.

    Raises:
        Damaged: If it does not match its record.
    """
    middle = folder.split("/")[1]
    if middle != digest[:2]:
        raise Damaged(kind, digest, f"lies in the folder {middle}, where nobody looks")
    record = store.record(kind, digest)
    if record is None:
        return None, 0
    if record.content != content_of(record.files):
        raise _damaged(record, f"{META} names other files than those of its own checksum")
    sizes = {entry.key: entry.size_bytes for entry in store.backend.find(f"{folder}/*")}
    size = sum(_check_file(store, record, folder, name, sizes) for name in record.files)
    said = contradiction(record, lambda name: store.path(record, name))
    said = said or _mixture(store, record)
    if said is not None:
        raise _damaged(record, said)
    return record, size + sizes.get(f"{folder}/{META}", 0)


def _mixture(store: Store, record: Record) -> str | None:
    """Why an artifact that counts as valid was made from an outdated parent; None if it was not.

    An artifact that is outdated itself is no damage: a run computes it again.
    """
    for kind, parent in record.parents.values():
        made_from = store.known(kind, parent)
        if made_from is None or made_from.content != record.lineage.get(parent):
            continue
        for digest, content in made_from.lineage.items():
            stated = record.lineage.get(digest, content)
            if stated != content and _content(store, digest) in {stated, None}:
                return f"names another {digest[:12]} than its {kind} {parent[:12]} was made from"
    return None


def _content(store: Store, digest: str) -> str | None:
    """Content hash of an artifact of any kind; None if the store does not have it."""
    for entry in store.backend.find(f"*/{digest[:2]}/{digest}/{META}"):
        record = store.known(entry.key.split("/")[0], digest)
        return record.content if record is not None else None
    return None


def _check_file(
    store: Store, record: Record, folder: str, name: str, sizes: Mapping[str, int]
) -> int:
    entry = record.files[name]
    file = str(entry["file"])
    if "/" in file or file in {"", ".", ".."}:
        raise _damaged(record, f"{META} names a file outside its folder: {file}")
    size = sizes.get(f"{folder}/{file}")
    # a missing file is reported by the store
    if size is not None and size != entry.get("bytes", size):
        said = f"{file} has {size:,} bytes, its record says {entry['bytes']:,}"
        raise _damaged(record, said)
    path = store.path(record, name, fresh=True)
    if path.suffix == ".arrow":
        try:
            arrow.read_arrays(path)
        except arrow.BadArrow as error:
            raise _damaged(record, str(error)) from None
    return path.stat().st_size


def _damaged(record: Record, reason: str) -> Damaged:
    return Damaged(record.kind, record.digest, reason)

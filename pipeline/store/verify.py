"""Every artifact of a store against its own record: what no run would notice until it reads it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from pipeline.problems import BadInput
from pipeline.store import arrow
from pipeline.store.records import META, Damaged, Record, content_of
from pipeline.store.store import Store


@dataclass(frozen=True)
class Damage:
    """What is wrong with one artifact, and the key that it was moved to, if it was."""

    kind: str
    digest: str
    reason: str
    aside: str | None = None


@dataclass
class Verified:
    """What was found: sound artifacts by number and size, and every damage."""

    sound: int = 0
    sound_bytes: int = 0
    damages: list[Damage] = field(default_factory=list)


def verify(
    store: Store, *, set_aside: bool = False, tell: Callable[[int, int], object] | None = None
) -> Verified:
    """Read all of every artifact and compare it with its record.

    set_aside: move damaged ones out of the way, so that a run computes them again. tell: called
    with how many artifacts are done and how many there are. BadInput where there is no store.
    """
    store.check()
    found = Verified()
    # a store of its own, which has not yet trusted any file
    fresh = Store(store.ground)
    metas = sorted(entry.key for entry in store.ground.find(f"*/??/*/{META}"))
    for count, meta in enumerate(metas, start=1):
        folder = meta.removesuffix(f"/{META}")
        kind, _, digest = folder.split("/")
        try:
            size = _check(fresh, folder, kind, digest)
        except (Damaged, BadInput) as problem:
            reason = problem.reason if isinstance(problem, Damaged) else str(problem)
            if not _there(store, meta):
                continue  # another driver took it away meanwhile
            aside = store.set_aside(kind, digest, folder) if set_aside else None
            found.damages.append(Damage(kind, digest, reason, aside))
        else:
            found.sound += size is not None
            found.sound_bytes += size or 0
        if tell is not None:
            tell(count, len(metas))
    return found


def _there(store: Store, key: str) -> bool:
    return any(entry.key == key for entry in store.ground.find(key))


def _check(store: Store, folder: str, kind: str, digest: str) -> int | None:
    """The size of a sound artifact, bytes, None where it is gone; Damaged otherwise."""
    middle = folder.split("/")[1]
    if middle != digest[:2]:
        raise Damaged(kind, digest, f"lies in the folder {middle}, where nobody looks")
    record = store.record(kind, digest)
    if record is None:
        return None
    if record.content != content_of(record.files):
        raise _damaged(record, f"{META} names other files than those of its own checksum")
    sizes = {entry.key: entry.size_bytes for entry in store.ground.find(f"{folder}/*")}
    size = sum(_check_file(store, record, folder, name, sizes) for name in record.files)
    return size + sizes.get(f"{folder}/{META}", 0)


def _check_file(
    store: Store, record: Record, folder: str, name: str, sizes: Mapping[str, int]
) -> int:
    entry = record.files[name]
    file = str(entry["file"])
    if "/" in file or file in {"", ".", ".."}:
        raise _damaged(record, f"{META} names a file outside its folder: {file}")
    size = sizes.get(f"{folder}/{file}")
    # what is missing, the store says better
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

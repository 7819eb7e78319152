"""What a store holds that nobody asks for any more.

Asked for is what the ledger's invocations of the last days refer to, anybody's: the nodes that
a run wanted when it began, finished or not, every score of theirs, and by the records all that
these were made from.
"""

from __future__ import annotations

import shutil
import time
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from pipeline.ledger import Ledger
from pipeline.problems import BadInput
from pipeline.records import META
from pipeline.store import Store

DAY_S = 86400.0
YOUNGEST_S = DAY_S
"""Nothing younger goes: it may be of a run that is at work, here or on another machine."""
LEFTOVERS = {
    "scratch": "of a put that was broken off",
    "aside": "damaged or replaced",
    "partial": "of a training that nobody went on with",
}


@dataclass(frozen=True)
class Item:
    """A folder that may go. age_s: since its last change, s."""

    path: Path
    what: str
    size_bytes: int
    age_s: float


def collectable(store: Store, *, keep_s: float, now: float | None = None) -> list[Item]:
    """What may go: nothing younger than a day, nothing that was asked for within `keep_s`.

    keep_s: s back from `now`, a Unix time in s. BadInput where there is no store.
    """
    if not store.root.is_dir():
        raise BadInput(f"store {store.root}: no such folder")
    now = time.time() if now is None else now
    kept = _asked_for(store, since=now - keep_s)
    items = [*_artifacts(store, kept, now), *_leftovers(store, kept, now, keep_s)]
    return [item for item in items if item.age_s >= YOUNGEST_S]


def remove(store: Store, items: list[Item]) -> int:
    """Delete items; returns how many bytes. Unwritable where the store refuses.

    A folder first moves away whole, so that no reader ever sees half an artifact.
    """
    freed = 0
    for item in items:
        gone = store.root / "scratch" / f"gc-{uuid.uuid4().hex}"
        with store.writing():
            gone.parent.mkdir(parents=True, exist_ok=True)
            try:
                item.path.rename(gone)
            except FileNotFoundError:
                continue  # somebody else took it away
            shutil.rmtree(gone) if gone.is_dir() else gone.unlink()
        freed += item.size_bytes
    return freed


def _asked_for(store: Store, *, since: float) -> set[str]:
    ledger = Ledger(store.root)
    found = ledger.wanted(since)
    seen: set[tuple[str, str]] = set()
    waiting = [
        ("score", cell.score)
        for invocation in ledger.invocations
        if invocation.time >= since
        for cell in invocation.cells.values()
    ]
    while waiting:
        kind, digest = node = waiting.pop()
        if node in seen:
            continue
        seen.add(node)
        found.add(digest)
        record = store.known(kind, digest)
        if record is not None:
            found.update(record.lineage)
            waiting += [(parent_kind, parent) for parent_kind, parent in record.parents.values()]
    return found


def _artifacts(store: Store, kept: set[str], now: float) -> Iterator[Item]:
    """Artifacts, and data files whose record was never written."""
    for folder in sorted(store.root.glob("[!.]*/??/*")):
        kind, digest = folder.parts[-3], folder.name
        if kind in {*LEFTOVERS, "elsewhere", "ledger"} or digest in kept or len(digest) != 64:
            continue
        whole = (folder / META).exists()
        said = "no run asked for it" if whole else "unfinished"
        yield _item(folder, f"{kind} {digest[:12]}", said, now)


def _leftovers(store: Store, kept: set[str], now: float, keep_s: float) -> Iterator[Item]:
    for name, said in LEFTOVERS.items():
        for path in sorted((store.root / name).glob("*")):
            item = _item(path, f"{name}/{path.name[:25]}", said, now)
            # the hours that a training took are not thrown away before its time
            unfinished = name == "partial" and store.known("train", path.name) is None
            if unfinished and (path.name in kept or item.age_s < keep_s):
                continue
            yield item


def _item(path: Path, name: str, said: str, now: float) -> Item:
    size, latest = 0, 0.0
    for each in (path, *path.rglob("*")):
        try:
            status = each.lstat()
        except FileNotFoundError:
            continue
        size += status.st_size if not each.is_dir() else 0
        # the time of a change of name as well: what was set aside, was so then
        latest = max(latest, status.st_mtime, status.st_ctime)
    return Item(path, f"{name}: {said}", size, now - latest)

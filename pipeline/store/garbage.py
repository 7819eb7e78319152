"""Garbage collection: artifacts and leftovers in a store that no recent run refers to.

In use is what the ledger's recent runs, by any user, refer to: the nodes that a run wanted when it
began, completed or not; all scores; and, by their records, everything that these were made from. A
run that is at work counts as recent, whenever it began.
"""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Collection, Iterator
from dataclasses import dataclass, field, replace

from pipeline.problems import BadInput, Unwritable, reason_of
from pipeline.store import layout
from pipeline.store.backend import FileInfo
from pipeline.store.leases import Leases
from pipeline.store.ledger import Ledger
from pipeline.store.reading import Malformed
from pipeline.store.records import META
from pipeline.store.store import Store

DAY_S = 86400.0
YOUNGEST_S = DAY_S
"""Minimum age of garbage: anything younger may belong to a run in progress, on any machine."""
CLOCKS_S = 60.0
"""How far the clocks of a store and of this machine may be apart."""
LOOK_S = 1.0
"""Interval for checking what runs want while garbage is deleted."""
LEFTOVERS = {
    "scratch": "of a put that was broken off",
    "leases": "of a run that was broken off",
    "aside": "damaged or replaced",
    "partial": "of a training that nobody went on with",
}


@dataclass(frozen=True)
class Garbage:
    """A file or folder that can be deleted.

    Attributes:
        key: Its key.
        age_s: Time since its last change, in seconds.
        listed: When the listing began, Unix time in seconds.
    """

    key: str
    what: str
    size_bytes: int
    age_s: float
    listed: float = field(default_factory=time.time)


def collectable(store: Store, *, keep_s: float, now: float | None = None) -> list[Garbage]:
    """Find garbage: nothing younger than a day, and nothing that a run used within `keep_s`.

    Files that no store writes are never included.

    Args:
        keep_s: Seconds back from `now`, a Unix time in seconds.

    Raises:
        BadInput: If there is no store, or if it is not known what runs need, as the leases or the
            ledger are damaged or cannot be read.
    """
    store.check()
    listed = time.time()
    now = listed if now is None else now
    with _knowing(store):
        at_work = Leases(store.backend).at_work()
        kept = _asked_for(store, since=now - keep_s, at_work=at_work)
    found = list(store.backend.find("**/*"))
    items = [*_artifacts(found, kept, now), *_leftovers(store, found, kept, now, keep_s, at_work)]
    return [replace(item, listed=listed) for item in items if item.age_s >= YOUNGEST_S]


def remove(store: Store, items: list[Garbage]) -> list[Garbage]:
    """Delete garbage, except what a run has begun to want since it was listed.

    Returns:
        What was deleted.

    Raises:
        BadInput: If it is not known what runs want.
        Unwritable: If the store refuses.
    """
    removed: list[Garbage] = []
    since = min((item.listed for item in items), default=0.0) - CLOCKS_S
    wanted: set[str] = set()
    looked = -math.inf
    for item in items:
        if time.monotonic() - looked >= LOOK_S:
            with _knowing(store):
                wanted = Ledger(store.backend).wanted(since)
            looked = time.monotonic()
        if item.key.rpartition("/")[2] in wanted:
            continue
        with contextlib.suppress(FileNotFoundError):  # if another process deleted it
            store.backend.remove(item.key)
            removed.append(item)
    return removed


@contextlib.contextmanager
def _knowing(store: Store) -> Iterator[None]:
    """Context manager: BadInput if it cannot be read which runs are at work and what they want."""
    try:
        yield
    except Malformed as malformed:
        raise BadInput(
            f"store {store.address}: what runs asked for is not known, as a file cannot be read: "
            f"{malformed}; delete it to go on"
        ) from None
    except (OSError, Unwritable) as error:
        raise BadInput(
            f"store {store.address}: which runs are at work and what they need is not known, so "
            f"nothing is deleted: {reason_of(error)}"
        ) from None


def _asked_for(store: Store, *, since: float, at_work: Collection[str]) -> set[str]:
    ledger = Ledger(store.backend)
    found = ledger.wanted(since, at_work)
    waiting = [("score", digest) for digest in ledger.scores(since)]
    seen: set[tuple[str, str]] = set()
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


def _artifacts(found: list[FileInfo], kept: set[str], now: float) -> Iterator[Garbage]:
    """Artifacts that are not in use, and data files without a record."""
    for key, inside in _by_folder(found, depth=3).items():
        kind, _, digest = key.split("/")
        if kind in layout.PLACES or digest in kept or not layout.belongs(key):
            continue
        whole = any(entry.key == f"{key}/{META}" for entry in inside)
        said = "no run asked for it" if whole else "unfinished"
        yield _item(key, inside, f"{kind} {digest[:12]}: {said}", now)


def _leftovers(
    store: Store,
    found: list[FileInfo],
    kept: set[str],
    now: float,
    keep_s: float,
    at_work: Collection[str],
) -> Iterator[Garbage]:
    for key, inside in _by_folder(found, depth=2).items():
        kind, name = key.split("/")
        if kind not in LEFTOVERS or not layout.belongs(key):
            continue
        if kind == "leases" and name in at_work:
            continue
        item = _item(key, inside, f"{kind}/{name[:25]}: {LEFTOVERS[kind]}", now)
        # an unfinished training may have taken hours, so it is kept for the whole period
        unfinished = kind == "partial" and store.known("train", name) is None
        if unfinished and (name in kept or item.age_s < keep_s):
            continue
        yield item


def _by_folder(found: list[FileInfo], *, depth: int) -> dict[str, list[FileInfo]]:
    """Group files by their folder at a certain depth."""
    folders: dict[str, list[FileInfo]] = {}
    for entry in sorted(found, key=lambda entry: entry.key):
        parts = entry.key.split("/")
        if len(parts) >= depth:
            folders.setdefault("/".join(parts[:depth]), []).append(entry)
    return folders


def _item(key: str, inside: list[FileInfo], what: str, now: float) -> Garbage:
    size = sum(entry.size_bytes for entry in inside)
    return Garbage(key, what, size, now - max(entry.changed for entry in inside))

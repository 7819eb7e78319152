"""What belongs to a store: its marker, and the places of everything that is ever written to it.

A store is marked by `store.json`, which holds its format's version. Older stores have none: a
folder that holds nothing but what a store holds is adopted, and any other folder is left alone.
"""

from __future__ import annotations

import json
import re
from typing import Literal

from pydantic import BaseModel, ConfigDict

from pipeline.problems import BadInput, Unwritable, reason_of
from pipeline.problems.sanitize import clean
from pipeline.store.backend import Backend
from pipeline.store.reading import Malformed, parsed

MARKER = "store.json"
FORMAT = 1
"""Of the places and files of a store, as this version of the program writes them."""

_HEX = "[0-9a-f]"
PLACES: dict[str, tuple[str, ...]] = {
    "scratch": (f"(gone-)?{_HEX}{{32}}",),
    "aside": (rf"[a-z]+-{_HEX}{{12}}-\d+",),
    "partial": (f"{_HEX}{{64}}",),
    "leases": (f"{_HEX}{{64}}|runs", ".+"),
    "elsewhere": ("[a-z]+", f"{_HEX}{{2}}", rf"{_HEX}{{64}}\.json"),
    "ledger": (
        rf"\d{{15}}-{_HEX}{{8}}\.json|wanted|logged|failures",
        rf"{_HEX}{{32}}|{_HEX}{{16}}|\d{{15}}-{_HEX}{{8}}\.txt",
    ),
}
"""Folder → what lies in it, level by level; whatever lies deeper belongs to it."""
ARTIFACT = (".{2}", f"{_HEX}{{64}}")
"""The same of every other folder, whose name is a kind of artifact."""
IGNORED = re.compile(rf"\..*|lost\+found|probe-{_HEX}{{32}}")
"""What an operating system puts into a folder, drafts, and trials of whether one can write."""


class Marker(BaseModel):
    """What `store.json` holds."""

    model_config = ConfigDict(frozen=True, strict=True)

    program: Literal["test-time-defense-bench"] = "test-time-defense-bench"
    format: int = FORMAT


def belongs(key: str) -> bool:
    """Whether a key is one that a store has, or a folder on the way to one."""
    kind, *inner = key.split("/")
    if key == MARKER or any(map(IGNORED.fullmatch, (kind, *inner))):
        return True
    places = PLACES.get(kind, ARTIFACT)
    return re.fullmatch("[a-z]+", kind) is not None and all(
        re.fullmatch(place, part) for place, part in zip(places, inner, strict=False)
    )


def marked(backend: Backend) -> bool:
    """Whether a place is marked as a store; BadInput where this program cannot use it."""
    try:
        text = backend.read(MARKER)
    except FileNotFoundError:
        return False
    except OSError as error:
        reason = reason_of(error)
        raise BadInput(f"store {backend.address}: {MARKER} cannot be read: {reason}") from None
    try:
        marker = parsed(text, Marker)
    except Malformed as malformed:
        raise BadInput(
            f"store {backend.address}: {MARKER} is no marker of a store: {malformed}"
        ) from None
    if marker.format > FORMAT:
        raise BadInput(
            f"store {backend.address}: is of format {marker.format}, and this version of the "
            f"program knows formats up to {FORMAT}"
        )
    return True


def holds_store(backend: Backend) -> bool:
    """Whether an unmarked place holds a store of an older version, False where it is empty.

    BadInput where it holds anything else.
    """
    found = False
    # what lies at the top is looked at first, since a folder of somebody else's may be large
    for pattern in ("*", "**/*"):
        for entry in backend.find(pattern):
            kind, *inner = entry.key.split("/")
            if not belongs(entry.key):
                raise _foreign(backend, entry.key)
            # other programs have a folder for scratch as well, so it is no sign of a store
            found = found or (len(inner) > 0 and kind != "scratch" and not IGNORED.fullmatch(kind))
    if not found and any(backend.find("scratch/*")):
        raise _foreign(backend, "scratch")
    return found


def mark(backend: Backend) -> None:
    """Write the marker; Unwritable where the place refuses."""
    backend.write(MARKER, json.dumps(Marker().model_dump()).encode())


def adopt(backend: Backend) -> str | None:
    """Mark a place that holds an unmarked store; a line that says so, None where nothing was done.

    BadInput where the place is somebody else's.
    """
    if marked(backend) or not holds_store(backend):
        return None
    try:
        mark(backend)
    except Unwritable:
        return None  # it can be read all the same
    return f"store {backend.address}: adopted, and marked by {MARKER}"


def _foreign(backend: Backend, key: str) -> BadInput:
    return BadInput(
        f"store {backend.address}: is no store, since it has no {MARKER} and holds other things "
        f"({clean(key, 60)}); name a folder of its own, or move them out of it"
    )

"""Layout of a store: its marker file, and patterns of everything that is ever written to it.

A store is marked by `store.json`, which holds the version of its format. Older stores have no
marker: a folder with only files of a store is adopted, any other folder is rejected.
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
"""Version of the layout that this version of the program writes."""

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
"""Patterns of the names in each top-level folder, level by level; deeper levels are not checked."""
ARTIFACT = (".{2}", f"{_HEX}{{64}}")
"""The same for all other folders, which are named after a kind of artifact."""
IGNORED = re.compile(rf"\..*|lost\+found|probe-{_HEX}{{32}}")
"""Names that are ignored: files of the operating system, drafts, and write probes."""


class Marker(BaseModel):
    """Content of `store.json`."""

    model_config = ConfigDict(frozen=True, strict=True)

    program: Literal["test-time-defense-bench"] = "test-time-defense-bench"
    format: int = FORMAT


def belongs(key: str) -> bool:
    """Whether a key may be part of a store, or a parent folder of such a key."""
    kind, *inner = key.split("/")
    if key == MARKER or any(map(IGNORED.fullmatch, (kind, *inner))):
        return True
    places = PLACES.get(kind, ARTIFACT)
    return re.fullmatch("[a-z]+", kind) is not None and all(
        re.fullmatch(place, part) for place, part in zip(places, inner, strict=False)
    )


def marked(backend: Backend) -> bool:
    """Whether a location is marked as a store; BadInput if this program cannot use it."""
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
    """Whether an unmarked location holds an older store; False if it is empty.

    Raises:
        BadInput: If it contains anything else.
    """
    found = False
    # the top level is checked first, since a foreign folder may be large
    for pattern in ("*", "**/*"):
        for entry in backend.find(pattern):
            kind, *inner = entry.key.split("/")
            if not belongs(entry.key):
                raise _foreign(backend, entry.key)
            # other programs use a folder `scratch`, too, so it does not identify a store
            found = found or (len(inner) > 0 and kind != "scratch" and not IGNORED.fullmatch(kind))
    if not found and any(backend.find("scratch/*")):
        raise _foreign(backend, "scratch")
    return found


def mark(backend: Backend) -> None:
    """Write the marker; Unwritable if that fails."""
    backend.write(MARKER, json.dumps(Marker().model_dump()).encode())


def adopt(backend: Backend) -> str | None:
    """Mark an unmarked store; returns a line that says so, or None if nothing was done.

    Raises:
        BadInput: If the location contains other files.
    """
    if marked(backend) or not holds_store(backend):
        return None
    try:
        mark(backend)
    except Unwritable:
        return None  # a read-only store can be read without a marker
    return f"store {backend.address}: adopted, and marked by {MARKER}"


def _foreign(backend: Backend, key: str) -> BadInput:
    return BadInput(
        f"store {backend.address}: is no store, since it has no {MARKER} and holds other things "
        f"({clean(key, 60)}); name a folder of its own, or move them out of it"
    )

"""Finds results that may be of another network, due to a bug of older versions.

Those versions cached classifiers by their weights alone. Two networks with the weights of the same
file were treated as one, so the first that a process queried also answered for the other. Since the
fix a record names the queried model (`how.model`). An older record is suspect if another network
with the same weights was queried on the same host and device in the same precision, so possibly by
the same process.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass

from pipeline.store.ledger import Ledger
from pipeline.store.records import Damaged, Record
from pipeline.store.store import Store

ASKING = frozenset({"craft", "select", "defend", "card"})
"""Kinds of artifact for which a network is queried."""


@dataclass(frozen=True)
class Suspect:
    """A suspect artifact.

    Attributes:
        inherited: Whether it was not computed with a suspect network itself, but from suspect
            artifacts.
        cells: `grid: cell` of a score, according to the ledger.
        aside: Key that it was moved to, if it was.
    """

    kind: str
    digest: str
    inherited: bool
    cells: tuple[str, ...] = ()
    aside: str | None = None


def suspects(store: Store, *, set_aside: bool = False) -> list[Suspect]:
    """Find the suspect artifacts of a store, scores last.

    Args:
        set_aside: Move them out of the way, so that a run computes them again.

    Raises:
        BadInput: If there is no store.
    """
    store.backend.check()
    found = _found(store)
    if set_aside and found:
        # a record that could not be read for a moment makes others suspect
        again = _found(store)
        found = {key: inherited for key, inherited in found.items() if key in again}
    cells = _cells(store)
    ordered = sorted(found, key=lambda key: (key[0] == "score", *key))
    return [
        Suspect(
            kind,
            digest,
            inherited=found[kind, digest],
            cells=cells.get(digest, ()),
            aside=store.set_aside(kind, digest) if set_aside else None,
        )
        for kind, digest in ordered
    ]


def _found(store: Store) -> dict[tuple[str, str], bool]:
    """Whether each suspect artifact is suspect only because of its parents."""
    records = _records(store)
    direct = _direct(records)
    found = set(direct)
    waiting = list(direct)
    children: dict[tuple[str, str], list[tuple[str, str]]] = defaultdict(list)
    for key, record in records.items():
        for parent in record.parents.values():
            children[parent[0], parent[1]].append(key)
    while waiting:
        for child in children[waiting.pop()]:
            if child not in found:
                found.add(child)
                waiting.append(child)
    return {key: key not in direct for key in found}


def _records(store: Store) -> dict[tuple[str, str], Record]:
    found = {}
    for kind, digest in store.each():
        try:
            record = store.record(kind, digest)
        except Damaged:
            continue  # reported by `verify`
        if record is not None:
            found[kind, digest] = record
    return found


def _direct(records: Mapping[tuple[str, str], Record]) -> set[tuple[str, str]]:
    """Artifacts for which another network than their own may have been queried."""
    together: dict[tuple[str, ...], dict[tuple[str, str], str]] = defaultdict(dict)
    for key, record in records.items():
        if record.kind not in ASKING or "model" in record.how or "model" not in record.parents:
            continue
        model = record.parents["model"]
        content = record.lineage.get(model[1], "")
        place = (
            content,
            str(record.spec.get("precision")),
            *(str(record.how.get(what)) for what in ("host", "device", "compiled")),
        )
        together[place][key] = _network(records.get((model[0], model[1])), model[1])
    return {key for asked in together.values() if len(set(asked.values())) > 1 for key in asked}


def _network(model: Record | None, digest: str) -> str:
    """Identifies a network; a model without a record counts as a network of its own."""
    if model is None:
        return digest
    return json.dumps(model.spec.get("network"), sort_keys=True)


def _cells(store: Store) -> dict[str, tuple[str, ...]]:
    """Cells in the ledger, by the digest of their score."""
    found: dict[str, dict[str, None]] = defaultdict(dict)
    for invocation in Ledger(store.backend).invocations:
        for name, entry in invocation.cells.items():
            found[entry.score][f"{invocation.grid}: {name}"] = None
    return {digest: tuple(names) for digest, names in found.items()}

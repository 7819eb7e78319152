"""Scores that may be another network's: of versions that kept classifiers by their weights alone.

Those versions took two networks on the weights of one file for one, so whichever a process asked
first answered for both. A record says of which model the answers are (`how.model`) since that was
mended; an older one is suspect where another network with the same weights was asked on the same
host and device in the same precision, and so perhaps by the same process.
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
"""The kinds of artifacts for which a network is asked."""


@dataclass(frozen=True)
class Suspect:
    """An artifact that may be another network's, and the key that it was moved to, if it was.

    cells: `grid: cell` of a score, as the ledger knows them; inherited: itself computed rightly,
    or not of a network at all, but from suspect artifacts.
    """

    kind: str
    digest: str
    inherited: bool
    cells: tuple[str, ...] = ()
    aside: str | None = None


def suspects(store: Store, *, set_aside: bool = False) -> list[Suspect]:
    """The suspect artifacts of a store, scores last.

    set_aside: move them out of the way, so that a run computes them again. BadInput where there
    is no store.
    """
    store.backend.check()
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
    cells = _cells(store)
    ordered = sorted(found, key=lambda key: (key[0] == "score", *key))
    return [
        Suspect(
            kind,
            digest,
            inherited=(kind, digest) not in direct,
            cells=cells.get(digest, ()),
            aside=store.set_aside(kind, digest) if set_aside else None,
        )
        for kind, digest in ordered
    ]


def _records(store: Store) -> dict[tuple[str, str], Record]:
    found = {}
    for kind, digest in store.each():
        try:
            record = store.record(kind, digest)
        except Damaged:
            continue  # `verify` tells of it
        if record is not None:
            found[kind, digest] = record
    return found


def _direct(records: Mapping[tuple[str, str], Record]) -> set[tuple[str, str]]:
    """Artifacts for which perhaps another network was asked than theirs."""
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
    """What tells a network from another; a model whose record is gone may be any."""
    if model is None:
        return digest
    return json.dumps(model.spec.get("network"), sort_keys=True)


def _cells(store: Store) -> dict[str, tuple[str, ...]]:
    """The cells that the ledger knows by the digest of a score."""
    found: dict[str, dict[str, None]] = defaultdict(dict)
    for invocation in Ledger(store.backend).invocations:
        for name, entry in invocation.cells.items():
            found[entry.score][f"{invocation.grid}: {name}"] = None
    return {digest: tuple(names) for digest, names in found.items()}

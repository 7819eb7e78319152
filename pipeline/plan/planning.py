"""What a run would have to do, and why: nodes whose artifact is absent, outdated or forced.

A digest names a recipe, not bytes. So an artifact also counts as absent when the store holds
other content for one of its ancestors than the content that it was made from.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from pipeline.grid.graph import Graph, Node
from pipeline.store.store import Damaged, Record, Store

Made = tuple[tuple[str, str], ...]
"""Device, a CPU's instructions and versions of libraries, and their values."""


class Glimpse(NamedTuple):
    """What is kept of an artifact that others were made from."""

    content: str
    made: Made


def hardware(record: Record) -> dict[str, str]:
    """On what an artifact was computed: its device and, of a CPU, the instructions."""
    how = record.how
    return {name: str(how[name]) for name in ("device", "instructions") if name in how}


def how_made(record: Record) -> Made:
    """On what, and with which versions of libraries, an artifact was computed."""
    versions = record.how.get("versions")
    seen = versions if isinstance(versions, dict) else {}
    named = {"device": None, **hardware(record), **seen}
    return tuple((str(key), str(value)) for key, value in named.items())


@dataclass
class Look:
    """A look into the store, and what was seen in it: what is written later is not.

    A record is read once, or twice where it was seen first as an ancestor: of an ancestor no
    more is kept than what planning and reports ask of it, since a grid may have 100,000.
    """

    store: Store
    _records: dict[str, Record | Damaged | None] = field(default_factory=dict)
    _glimpses: dict[str, Glimpse | None] = field(default_factory=dict)
    _made: dict[Made, Made] = field(default_factory=dict)

    def record(self, kind: str, digest: str) -> Record | Damaged | None:
        """The record as the store holds it now, or what is wrong with it."""
        if digest not in self._records:
            self._records[digest] = self._read(kind, digest)
        return self._records[digest]

    def _read(self, kind: str, digest: str) -> Record | Damaged | None:
        try:
            return self.store.record(kind, digest)
        except Damaged as damaged:
            return damaged

    def glimpse(self, kind: str, digest: str) -> Glimpse | None:
        """What is asked of an ancestor; None where its record is absent or damaged."""
        if digest not in self._glimpses:
            known = digest in self._records
            record = self._records[digest] if known else self._read(kind, digest)
            glimpse = None
            if isinstance(record, Record):
                made = how_made(record)
                glimpse = Glimpse(record.content, self._made.setdefault(made, made))
            self._glimpses[digest] = glimpse
        return self._glimpses[digest]

    def standing(self, node: Node, graph: Graph) -> Record | None:
        """A node's record if it counts as there."""
        record = self.record(node.kind, node.digest)
        if isinstance(record, Record) and self.why_absent(node, graph) is None:
            return record
        return None

    def why_absent(self, node: Node, graph: Graph) -> str | None:
        """Why a node's artifact does not count as there; None where it does."""
        record = self.record(node.kind, node.digest)
        if record is None:
            return "not computed yet"
        if isinstance(record, Damaged):
            return record.reason
        for digest, content in record.lineage.items():
            if digest not in graph:
                continue
            seen = self._glimpses.get(digest)
            ancestor = seen or self.glimpse(graph[digest].kind, digest)
            if ancestor is not None and ancestor.content != content:
                return (
                    f"was made from other {graph[digest].kind} content: "
                    f"{content[:12]}, now {ancestor.content[:12]}"
                )
        return None


@dataclass(frozen=True)
class Plan:
    """Digest → reason, for each node to be computed, parents before children.

    replaced: those of them whose artifact stands in the store, and is to give way.
    """

    todo: Mapping[str, str]
    stored: int
    replaced: frozenset[str] = frozenset()
    damaged: tuple[Damaged, ...] = ()

    def by_kind(self, graph: Graph) -> dict[str, int]:
        """How many nodes of each kind there are to do."""
        counts: dict[str, int] = {}
        for digest in self.todo:
            kind = graph[digest].kind
            counts[kind] = counts.get(kind, 0) + 1
        return counts


def make_plan(
    graph: Graph,
    leaves: Iterable[Node],
    store: Store,
    *,
    forced: Collection[str] = (),
    without: Collection[str] = (),
    look: Look | None = None,
) -> Plan:
    """What is missing for the leaves. `forced` digests are computed again; `without` are left out.

    look: into this store; a new one by default. Work goes upwards from the leaves: what only
    absent nodes would read is not looked at.
    """
    look = look or Look(store)
    reasons: dict[str, str] = {}
    replaced: set[str] = set()
    damaged: list[Damaged] = []
    seen: set[str] = set()
    waiting = list(leaves)
    stored = 0
    while waiting:
        node = waiting.pop()
        if node.digest in seen or node.digest in without:
            continue
        seen.add(node.digest)
        reason = look.why_absent(node, graph)
        if reason is None and node.digest in forced:
            reason = "asked for with --force"
        if reason is None:
            stored += 1
            continue
        record = look.record(node.kind, node.digest)
        if isinstance(record, Damaged):
            damaged.append(record)
        elif record is not None:
            replaced.add(node.digest)
        reasons[node.digest] = reason
        waiting.extend(parent for _, parent in node.parents)
    ordered = {node.digest: reasons[node.digest] for node in graph if node.digest in reasons}
    return Plan(ordered, stored, frozenset(replaced), tuple(damaged))

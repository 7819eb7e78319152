"""A look at the store: which nodes of a graph it holds."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple

from pipeline.grid.graph import Graph, Node
from pipeline.store.records import Made, how_made
from pipeline.store.store import Damaged, Record, Store


class Glimpse(NamedTuple):
    """What is kept of an artifact that others were made from."""

    content: str
    made: Made


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

"""A snapshot of the store: the state of each node of a graph."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple

from pipeline.grid.graph import Graph, Node
from pipeline.store.records import ArtifactState, Provenance, provenance_of
from pipeline.store.store import Record, Store


class AncestorSummary(NamedTuple):
    """The part of an ancestor's record that is kept in memory."""

    content: str
    provenance: Provenance


@dataclass
class Snapshot:
    """The state of the store when it was first queried; later changes are not seen.

    A record is read once, or twice if it was first read as an ancestor: of ancestors only a summary
    is kept, since a grid may have 100,000.
    """

    store: Store
    _stored: dict[str, ArtifactState] = field(default_factory=dict)
    _summaries: dict[str, AncestorSummary | None] = field(default_factory=dict)
    _provenances: dict[Provenance, Provenance] = field(default_factory=dict)

    def state(self, node: Node, graph: Graph) -> ArtifactState:
        """The state of a node's artifact: there, absent, outdated or damaged; see `ArtifactState`.

        graph: contains at least the node and its ancestors.
        """
        state = self.stored(node.kind, node.digest)
        for digest, content in state.record.lineage.items() if state.record is not None else ():
            if digest not in graph:
                continue
            seen = self._summaries.get(digest)
            ancestor = seen or self.summary(graph[digest].kind, digest)
            if ancestor is not None and ancestor.content != content:
                reason = (
                    f"was made from other {graph[digest].kind} content: "
                    f"{content[:12]}, now {ancestor.content[:12]}"
                )
                return ArtifactState("outdated", state.record, reason)
        return state

    def stored(self, kind: str, digest: str) -> ArtifactState:
        """The state of an artifact without regard to its ancestors; never outdated."""
        if digest not in self._stored:
            self._stored[digest] = self.store.state(kind, digest)
        return self._stored[digest]

    def summary(self, kind: str, digest: str) -> AncestorSummary | None:
        """Summary of an ancestor; None if its record is absent or damaged."""
        if digest not in self._summaries:
            # records that are only needed as ancestors are not kept
            state = self._stored.get(digest) or self.store.state(kind, digest)
            record = state.record
            summary = None
            if record is not None:
                provenance = provenance_of(record)
                summary = AncestorSummary(
                    record.content, self._provenances.setdefault(provenance, provenance)
                )
            self._summaries[digest] = summary
        return self._summaries[digest]

    def standing(self, node: Node, graph: Graph) -> Record | None:
        """The record of a node if its artifact is valid."""
        return self.state(node, graph).standing

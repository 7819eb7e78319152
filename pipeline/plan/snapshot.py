"""A snapshot of the store: which nodes of a graph it holds."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple

from pipeline.grid.graph import Graph, Node
from pipeline.store.records import ArtifactState, Provenance, provenance_of
from pipeline.store.store import Record, Store


class AncestorSummary(NamedTuple):
    """What is kept of an artifact that others were made from."""

    content: str
    provenance: Provenance


@dataclass
class Snapshot:
    """What the store held when it was asked; what is written later is not seen.

    A record is read once, or twice where it was seen first as an ancestor: of an ancestor no
    more is kept than what planning and reports ask of it, since a grid may have 100,000.
    """

    store: Store
    _stored: dict[str, ArtifactState] = field(default_factory=dict)
    _summaries: dict[str, AncestorSummary | None] = field(default_factory=dict)
    _provenances: dict[Provenance, Provenance] = field(default_factory=dict)

    def state(self, node: Node, graph: Graph) -> ArtifactState:
        """Whether a node's artifact is there, absent, outdated or damaged; see `ArtifactState`.

        graph: of at least the node and its ancestors.
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
        """The same of what is no node of a graph: whatever it was made from, never outdated."""
        if digest not in self._stored:
            self._stored[digest] = self.store.state(kind, digest)
        return self._stored[digest]

    def summary(self, kind: str, digest: str) -> AncestorSummary | None:
        """What is asked of an ancestor; None where its record is absent or damaged."""
        if digest not in self._summaries:
            # of an ancestor that is not asked for itself, the record is not kept
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
        """A node's record if it counts as there."""
        return self.state(node, graph).standing

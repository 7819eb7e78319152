"""What a run would have to do, and why: nodes whose artifact is absent, outdated or forced.

A digest names a recipe, not bytes. So an artifact also counts as absent when the store holds
other content for one of its ancestors than the content that it was made from.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field

from pipeline.grid.graph import Graph, Node
from pipeline.plan.snapshot import Snapshot
from pipeline.store.store import Damaged, Store


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
    exhibits: Iterable[Node] = (),
    forced: Collection[str] = (),
    without: Collection[str] = (),
    snapshot: Snapshot | None = None,
) -> Plan:
    """What is missing for the leaves. `forced` digests are computed again; `without` are left out.

    exhibits: are made of what is there or is to be computed anyway; nothing is computed for them
    alone, so that scores that came without their tensors stay as they are. snapshot: of this
    store; a new one by default. Work goes upwards from the leaves: what only absent nodes would
    read is not looked at.
    """
    snapshot = snapshot or Snapshot(store)
    found = _Missing(graph, snapshot, forced, without)
    waiting = list(leaves)
    while waiting:
        waiting.extend(found.parents_of(waiting.pop()))
    for node in exhibits:
        if all(found.has(parent) for _, parent in node.parents):
            found.parents_of(node)
    ordered = {node.digest: found.reasons[node.digest] for node in graph if node in found}
    return Plan(ordered, found.stored, frozenset(found.replaced), tuple(found.damaged))


@dataclass
class _Missing:
    """What was found to be missing so far: digest → reason."""

    graph: Graph
    snapshot: Snapshot
    forced: Collection[str]
    without: Collection[str]
    reasons: dict[str, str] = field(default_factory=dict)
    replaced: set[str] = field(default_factory=set)
    damaged: list[Damaged] = field(default_factory=list)
    stored: int = 0
    _seen: set[str] = field(default_factory=set)

    def __contains__(self, node: Node) -> bool:
        return node.digest in self.reasons

    def has(self, node: Node) -> bool:
        """Whether a node's artifact is there, or is to be computed anyway."""
        return node in self or self.snapshot.standing(node, self.graph) is not None

    def parents_of(self, node: Node) -> list[Node]:
        """The parents of a node that is missing; none of one that is not, or was looked at."""
        if node.digest in self._seen or node.digest in self.without:
            return []
        self._seen.add(node.digest)
        state = self.snapshot.state(node, self.graph)
        if state.status == "there" and node.digest not in self.forced:
            self.stored += 1
            return []
        if state.status == "damaged":
            self.damaged.append(Damaged(node.kind, node.digest, state.reason))
        elif state.record is not None:
            self.replaced.add(node.digest)
        self.reasons[node.digest] = state.reason or "asked for with --force"
        return [parent for _, parent in node.parents]

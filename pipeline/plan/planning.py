"""Planning: which nodes a run has to compute (absent, outdated or forced), and why.

A digest identifies a recipe, not its result. So an artifact is outdated if the store now holds
other content for one of its ancestors than it was made from.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field

from pipeline.grid.graph import Graph, Node
from pipeline.plan.snapshot import Snapshot
from pipeline.store.store import Damaged, Store


@dataclass(frozen=True)
class Plan:
    """The nodes to compute, parents first, each with the reason.

    Attributes:
        todo: Reasons by digest.
        stored: Number of nodes that are in the store.
        replaced: Nodes of `todo` whose artifact is in the store and will be replaced.
        damaged: Damaged artifacts that were found.
    """

    todo: Mapping[str, str]
    stored: int
    replaced: frozenset[str] = frozenset()
    damaged: tuple[Damaged, ...] = ()

    def by_kind(self, graph: Graph) -> dict[str, int]:
        """Number of nodes to compute, by kind."""
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
    """Determine the nodes that are missing for the given leaves.

    The graph is walked from the leaves towards the parents; parents of a stored node are not
    examined.

    Args:
        exhibits: Nodes that are computed only if all their parents are stored or will be computed
            for the leaves anyway. So scores that were imported without tensors are left as they
            are.
        forced: Digests of nodes to compute even if they are stored.
        without: Digests of nodes to leave out.
        snapshot: State of the store; read afresh by default.
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
    """The missing nodes found so far, with reasons by digest."""

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
        """Whether a node's artifact is stored or will be computed anyway."""
        return node in self or self.snapshot.standing(node, self.graph) is not None

    def parents_of(self, node: Node) -> list[Node]:
        """Examine a node; returns its parents if it is missing and was not examined before."""
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

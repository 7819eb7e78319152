"""What a run would have to do, and why: nodes whose artifact is absent, outdated or forced.

A digest names a recipe, not bytes. So an artifact also counts as absent when the store holds
other content for one of its ancestors than the content that it was made from.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass

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
    forced: Collection[str] = (),
    without: Collection[str] = (),
    snapshot: Snapshot | None = None,
) -> Plan:
    """What is missing for the leaves. `forced` digests are computed again; `without` are left out.

    snapshot: of this store; a new one by default. Work goes upwards from the leaves: what only
    absent nodes would read is not looked at.
    """
    snapshot = snapshot or Snapshot(store)
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
        state = snapshot.state(node, graph)
        if state.status == "there" and node.digest not in forced:
            stored += 1
            continue
        if state.status == "damaged":
            damaged.append(Damaged(node.kind, node.digest, state.reason))
        elif state.record is not None:
            replaced.add(node.digest)
        reasons[node.digest] = state.reason or "asked for with --force"
        waiting.extend(parent for _, parent in node.parents)
    ordered = {node.digest: reasons[node.digest] for node in graph if node.digest in reasons}
    return Plan(ordered, stored, frozenset(replaced), tuple(damaged))

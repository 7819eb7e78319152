"""Why a cell would be computed: which parameter changed, from what to what."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from pipeline.grid.digests import own_digests, spec_classes
from pipeline.grid.graph import Graph, Node
from pipeline.plan.planning import Plan, make_plan
from pipeline.store.ledger import Ledger
from pipeline.store.store import Record, Store


def why(cell: str, grid: str, node: Node, graph: Graph, store: Store, ledger: Ledger) -> list[str]:
    """Lines that explain a cell's state, compared with its last score in the ledger."""
    plan = make_plan(graph, [node], store)
    last = ledger.last(grid, cell)
    if not plan.todo:
        return [f"{cell}: nothing to do, its score is in the store"]
    if last is None:
        return [f"{cell}: never computed here; {_counted(plan, graph)} to do"]
    lines = [f"{cell}: {_counted(plan, graph)} to do"]
    if last.score != node.digest:
        changes = list(dict.fromkeys(_changes(node, "score", last.score, store)))
        lines += changes or ["its recipe changed in a way that the store's records do not show"]
    else:
        reasons = dict.fromkeys(
            f"{graph[digest].kind} {digest[:12]}: {reason}" for digest, reason in plan.todo.items()
        )
        lines += list(reasons)
    return lines


def _counted(plan: Plan, graph: Graph) -> str:
    return ", ".join(f"{count} {kind}" for kind, count in plan.by_kind(graph).items())


def _changes(node: Node, kind: str, old_digest: str, store: Store) -> Iterator[str]:
    """Differences between a node and an old artifact, itself first, then what it was made from."""
    if node.digest == old_digest:
        return
    old = store.known(kind, old_digest)
    if old is None:
        yield f"{kind}: the store no longer holds the old one"
        return
    yield from _differences(node.kind, old.spec, node.spec.model_dump(mode="json"))
    for name, version in sorted(
        (found.__name__, found.version) for found in spec_classes(node.spec)
    ):
        before = old.versions.get(name, version)
        if before != version:
            yield f"{node.kind}: version of {name}: {before} → {version}"
    known = old.how.get("own_code")
    for name, now in own_digests(node.spec).items():
        if isinstance(known, Mapping) and known.get(name, now) != now:
            yield f"{node.kind}: the code of {name} changed"
    yield from _parent_changes(node, old, store)


def _parent_changes(node: Node, old: Record, store: Store) -> Iterator[str]:
    for role, parent in node.parents:
        if role not in old.parents:
            yield f"{node.kind}: now also reads {role}"
            continue
        old_kind, old_parent = old.parents[role]
        if old_kind != parent.kind:
            yield f"{role}: {old_kind} → {parent.kind}"
            continue
        yield from _changes(parent, old_kind, old_parent, store)
    for role in old.parents:
        if role not in dict(node.parents):
            yield f"{node.kind}: no longer reads {role}"


def _differences(place: str, old: object, new: object) -> Iterator[str]:
    if isinstance(old, Mapping) and isinstance(new, Mapping):
        for key in dict.fromkeys([*old, *new]):
            yield from _differences(f"{place}.{key}", old.get(key), new.get(key))
    elif isinstance(old, list) and isinstance(new, list) and len(old) == len(new):
        for index, (before, after) in enumerate(zip(old, new, strict=True)):
            yield from _differences(f"{place}.{index}", before, after)
    elif old != new:
        yield f"{place}: {old} → {new}"

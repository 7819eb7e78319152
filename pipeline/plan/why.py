"""Why a cell would be computed: which parameter changed, from what to what."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from itertools import islice

from pipeline.grid.digests import own_digests, spec_classes, versions_of
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
        lines += Comparison(store).changes(node, "score", last.score)
    else:
        reasons = dict.fromkeys(
            f"{graph[digest].kind} {digest[:12]}: {reason}" for digest, reason in plan.todo.items()
        )
        lines += list(reasons)
    return lines


def _counted(plan: Plan, graph: Graph) -> str:
    return ", ".join(f"{count} {kind}" for kind, count in plan.by_kind(graph).items())


@dataclass
class Comparison:
    """Nodes beside artifacts of a store; what was compared once is remembered."""

    store: Store
    _known: dict[tuple[str, str], tuple[str, ...]] = field(default_factory=dict)

    def changes(self, node: Node, kind: str, old_digest: str) -> tuple[str, ...]:
        """What differs between a node and an old artifact, itself first, then its ancestors."""
        if node.digest == old_digest:
            return ()
        found = tuple(dict.fromkeys(self._changes(node, kind, old_digest)))
        return found or ("its recipe changed in a way that the store's records do not show",)

    def _changes(self, node: Node, kind: str, old_digest: str) -> tuple[str, ...]:
        key = (node.digest, old_digest)
        if key not in self._known:
            self._known[key] = tuple(self._compared(node, kind, old_digest))
        return self._known[key]

    def _compared(self, node: Node, kind: str, old_digest: str) -> Iterator[str]:
        if node.digest == old_digest:
            return
        old = self.store.known(kind, old_digest)
        if old is None:
            yield f"{kind}: the store no longer holds the old one"
            return
        yield from _differences(node.kind, old.spec, node.spec.model_dump(mode="json"))
        yield from _version_changes(node, old)
        known = old.how.get("own_code")
        for name, now in own_digests(node.spec).items():
            if isinstance(known, Mapping) and known.get(name, now) != now:
                yield f"{node.kind}: the code of {name} changed"
        yield from self._parents(node, old)

    def _parents(self, node: Node, old: Record) -> Iterator[str]:
        for role, parent in node.parents:
            if role not in old.parents:
                yield f"{node.kind}: now also reads {role}"
                continue
            old_kind, old_parent = old.parents[role]
            if old_kind != parent.kind:
                yield f"{role}: {old_kind} → {parent.kind}"
                continue
            yield from self._changes(parent, old_kind, old_parent)
        for role in old.parents:
            if role not in dict(node.parents):
                yield f"{node.kind}: no longer reads {role}"


def changed_cells(
    grid: str, scores: Mapping[str, Node], store: Store, ledger: Ledger, *, most: int
) -> dict[str, int]:
    """What changed since cells were scored, and in how many of them; at most so many are looked at.

    scores: of cells that are to be computed, by name. Those that never had a score are left out.
    """
    last: dict[str, str] = {}
    for invocation in ledger.invocations:
        if invocation.grid == grid:
            cells = invocation.cells.items()
            last.update((name, cell.score) for name, cell in cells if cell.facts is not None)
    comparison, found = Comparison(store), Counter[str]()
    again = ((node, last[name]) for name, node in scores.items() if name in last)
    for node, old in islice(again, most):
        found.update(comparison.changes(node, "score", old))
    return dict(found)


def _version_changes(node: Node, old: Record) -> Iterator[str]:
    changes = {found.__name__: found.changes for found in spec_classes(node.spec)}
    for name, version in sorted(versions_of(node.spec).items()):
        before = old.versions.get(name, version)
        if before != version:
            said = [changes[name][number] for number in sorted(changes[name]) if number > before]
            what = f": {', '.join(said)}" if said and version > before else ""
            yield f"{node.kind}: {name}: version {before} → {version}{what}"


def _differences(place: str, old: object, new: object) -> Iterator[str]:
    if isinstance(old, Mapping) and isinstance(new, Mapping):
        for key in dict.fromkeys([*old, *new]):
            yield from _differences(f"{place}.{key}", old.get(key), new.get(key))
    elif isinstance(old, list) and isinstance(new, list) and len(old) == len(new):
        for index, (before, after) in enumerate(zip(old, new, strict=True)):
            yield from _differences(f"{place}.{index}", before, after)
    elif old != new:
        yield f"{place}: {old} → {new}"

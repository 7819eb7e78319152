"""Explains why a cell has to be computed again or has another score: what changed."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import islice

from pipeline.grid.digests import (
    libraries_of,
    own_digests,
    own_modules_of,
    spec_classes,
    versions_of,
)
from pipeline.grid.graph import Graph, Node
from pipeline.plan.planning import Plan, make_plan
from pipeline.store.ledger import Ledger
from pipeline.store.records import provenance_of
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
        lines += Comparison(store).changes(of_node(node), "score", last.score)
    else:
        reasons = dict.fromkeys(
            f"{graph[digest].kind} {digest[:12]}: {reason}" for digest, reason in plan.todo.items()
        )
        lines += list(reasons)
    return lines


def _counted(plan: Plan, graph: Graph) -> str:
    return ", ".join(f"{count} {kind}" for kind, count in plan.by_kind(graph).items())


@dataclass(frozen=True)
class Described:
    """Description of an artifact, of a node in the graph or of a record in a store.

    Attributes:
        own_code: Digests of the user's own classes, by name.
        own_modules: Digests of the modules of the user's own code, by the digest of that code.
        libraries: Versions of the libraries that do its work, by name.
        said: What each version changed in results, by class and version, if known.
        parents: Kind and digest of each parent, by role.
        parent: Looks up the parent in a role; None if its store does not have it.
    """

    kind: str
    digest: str
    spec: Mapping[str, object]
    versions: Mapping[str, int]
    own_code: Mapping[str, str]
    own_modules: Mapping[str, Mapping[str, str]]
    libraries: Mapping[str, str]
    said: Mapping[str, Mapping[int, str]]
    parents: Mapping[str, tuple[str, str]]
    parent: Callable[[str], Described | None]


def of_node(node: Node) -> Described:
    """The description of a node."""
    return Described(
        node.kind,
        node.digest,
        node.spec.model_dump(mode="json"),
        versions_of(node.spec),
        own_digests(node.spec),
        own_modules_of(node.spec),
        libraries_of(node.spec),
        {found.__name__: found.changes for found in spec_classes(node.spec)},
        {role: (parent.kind, parent.digest) for role, parent in node.parents},
        lambda role: of_node(node.parent(role)),
    )


def stored(store: Store, kind: str, digest: str) -> Described | None:
    """The description of an artifact in a store; None if the store does not have it."""
    record = store.known(kind, digest)
    if record is None:
        return None
    own, modules, libraries = (
        found if isinstance(found := record.how.get(key), Mapping) else {}
        for key in ("own_code", "own_modules", "libraries")
    )
    return Described(
        kind,
        digest,
        record.spec,
        record.versions,
        own,
        modules,
        libraries,
        {},
        record.parents,
        lambda role: stored(store, *record.parents[role]),
    )


@dataclass
class Comparison:
    """Compares artifacts with older ones of a store; results are cached."""

    store: Store
    _known: dict[tuple[str, str], tuple[str, ...]] = field(default_factory=dict)

    def changes(self, new: Described, kind: str, old_digest: str) -> tuple[str, ...]:
        """The differences between an artifact and an old one, then those of their ancestors."""
        if new.digest == old_digest:
            return ()
        found = tuple(dict.fromkeys(self._changes(new, kind, old_digest)))
        return found or ("its recipe changed in a way that the store's records do not show",)

    def _changes(self, new: Described, kind: str, old_digest: str) -> tuple[str, ...]:
        key = (new.digest, old_digest)
        if key not in self._known:
            self._known[key] = tuple(self._compared(new, kind, old_digest))
        return self._known[key]

    def _compared(self, new: Described, kind: str, old_digest: str) -> Iterator[str]:
        if new.digest == old_digest:
            return
        old = stored(self.store, kind, old_digest)
        if old is None:
            yield f"{kind}: the store no longer holds the old one"
            return
        for place, before, now in _differences(new.kind, old.spec, new.spec):
            change = f"{_shown(place, before, old)} → {_shown(place, now, new)}"
            yield f"{place}: {change}{_changed_modules(new, old, now, before)}"
        yield from _version_changes(new, old)
        for name, now in new.libraries.items():
            if (before := old.libraries.get(name, "not recorded")) != now:
                yield f"{new.kind}: {name}: version {before} → {now}"
        for name, now in new.own_code.items():
            if (before := old.own_code.get(name, now)) != now:
                said = _changed_modules(new, old, now, before)
                yield f"{new.kind}: the code of {name} changed{said}"
        yield from self._parents(new, old)

    def _parents(self, new: Described, old: Described) -> Iterator[str]:
        now, before = _inputs(new), _inputs(old)
        if BEFORE in before:
            yield f"{old.kind}: the store no longer holds the old one"
            return
        added = [role for role in now if role not in before]
        removed = [role for role in before if role not in now]
        words = [f"also reads {', '.join(added)}"] * bool(added)
        words += [f"no longer reads {', '.join(removed)}"] * bool(removed)
        if words:
            yield f"{new.kind}: now {' and '.join(words)}"
        for role, stage in now.items():
            if role not in before or role in EARLIER:
                continue
            kind, digest = stage.parents[role]
            old_kind, old_parent = before[role].parents[role]
            if old_kind != kind:
                yield f"{role}: made by {old_kind} → made by {kind}"
                continue
            parent = stage.parent(role) if digest != old_parent else None
            if parent is not None:
                yield from self._changes(parent, old_kind, old_parent)


BEFORE = "before"
EARLIER = (BEFORE, "standing", "start")
"""Roles of earlier stages of a cascade, whose inputs are compared with those of the last stage."""
CLASS_NAMES = "dataset.class_names"
"""Place of a data set's class names in its spec."""


def _inputs(last: Described) -> dict[str, Described]:
    """The inputs of an artifact by role, each with the stage of the cascade that reads it.

    Those of a selection include the inputs of all stages before it, from first to last. The role
    `before` remains only if the store does not have that stage.
    """
    stages = [last]
    while BEFORE in stages[-1].parents and (stage := stages[-1].parent(BEFORE)) is not None:
        stages.append(stage)
    found = {role: stage for stage in reversed(stages) for role in stage.parents}
    if BEFORE not in stages[-1].parents:
        found.pop(BEFORE, None)
    return found


@dataclass
class Moves:
    """Explains why scores of one store differ from older ones of another or the same store."""

    old: Store
    new: Store
    _comparison: Comparison = field(init=False)

    def __post_init__(self) -> None:
        self._comparison = Comparison(self.old)

    def reasons(self, new_digest: str, old_digest: str) -> tuple[str, ...]:
        """The reasons for which two scores differ, in lines.

        They are changed parameters, code and versions; weights or data with other content; and
        another machine.
        """
        new = stored(self.new, "score", new_digest)
        if new is None or self.old.known("score", old_digest) is None:
            which = "newer" if new is None else "older"
            return (f"the store no longer holds the record of the {which} score",)
        told = [*self._comparison.changes(new, "score", old_digest)]
        told += _other_content(self.old, self.new, old_digest, new_digest)
        told += _other_machine(self.old, self.new, old_digest, new_digest)
        return tuple(told) or ("nothing that the records show",)


OUTCOMES: Mapping[str, str] = {
    "dataset": "data: other images under the same description",
    "train": "weights: the same training gave others",
    "checkpoint": "weights: others from the same file",
    "ensemble": "weights: the same members gave others",
    "craft": "examples: the same attack made others",
    "select": "examples: the same attack chose others",
    "defend": "answers: the same defense gave others",
}
"""Messages for artifacts of the same digest with different content, from first to last kind."""


def _other_content(old: Store, new: Store, old_digest: str, new_digest: str) -> Iterator[str]:
    """The message for the first kind of ancestor with other content under the same digest."""
    before, after = _ancestors(old, old_digest), _ancestors(new, new_digest)
    for kind, words in OUTCOMES.items():
        for digest, record in after.items():
            known = before.get(digest)
            if record.kind == kind and known is not None and known.content != record.content:
                yield words
                return


def _other_machine(old: Store, new: Store, old_digest: str, new_digest: str) -> Iterator[str]:
    """Differences in device or libraries of the nodes that used the network."""
    before, after = (
        _machines(_ancestors(store, digest).values())
        for store, digest in ((old, old_digest), (new, new_digest))
    )
    for name in dict.fromkeys([*before, *after]):
        if name in before and name in after and before[name] != after[name]:
            yield f"machine: {name}: {before[name]} → {after[name]}"


def _ancestors(store: Store, digest: str) -> dict[str, Record]:
    """Records of a score and all its ancestors, as far as the store has them."""
    found: dict[str, Record] = {}
    waiting = [("score", digest)]
    while waiting:
        kind, each = waiting.pop()
        record = None if each in found else store.known(kind, each)
        if record is not None:
            found[each] = record
            waiting += record.parents.values()
    return found


def _machines(records: Iterable[Record]) -> dict[str, str]:
    found: dict[str, set[str]] = {}
    for record in records:
        if record.kind in {"craft", "select", "defend"}:
            # those of libraries are part of the digest, and compared with the recipe
            recipe = libraries if isinstance(libraries := record.how.get("libraries"), dict) else {}
            for name, value in provenance_of(record):
                if name not in recipe:
                    found.setdefault(name, set()).add(value)
    return {name: ", ".join(sorted(values)) for name, values in found.items()}


def changed_cells(
    grid: str, scores: Mapping[str, Node], store: Store, ledger: Ledger, *, most: int
) -> dict[str, int]:
    """What changed since cells were last scored, and for how many of them.

    Args:
        scores: Score nodes of cells that will be computed, by name. Cells without an earlier score
            are ignored.
        most: Maximum number of cells to examine.
    """
    last: dict[str, str] = {}
    for invocation in ledger.invocations:
        if invocation.grid == grid:
            cells = invocation.cells.items()
            last.update((name, cell.score) for name, cell in cells if cell.facts is not None)
    comparison, found = Comparison(store), Counter[str]()
    again = ((node, last[name]) for name, node in scores.items() if name in last)
    for node, old in islice(again, most):
        found.update(comparison.changes(of_node(node), "score", old))
    return dict(found)


def _version_changes(new: Described, old: Described) -> Iterator[str]:
    for name, version in sorted(new.versions.items()):
        before = old.versions.get(name, version)
        if before != version:
            changes = new.said.get(name, {})
            said = [changes[number] for number in sorted(changes) if number > before]
            what = f": {', '.join(said)}" if said and version > before else ""
            yield f"{new.kind}: {name}: version {before} → {version}{what}"


def _changed_modules(new: Described, old: Described, now: object, before: object) -> str:
    """The modules in which the user's own code of two digests differs, in brackets.

    Empty for other values, and if the modules of one were not recorded.
    """
    one, other = old.own_modules.get(str(before)), new.own_modules.get(str(now))
    if one is None or other is None:
        return ""
    changed = [name for name in {**other, **one} if one.get(name) != other.get(name)]
    return f" ({', '.join(changed)})"


def _shown(place: str, value: object, artifact: Described) -> object:
    """A parameter's value for people. Without names, classes are in the order of their folders."""
    if value is not None:
        return value
    folders = place == CLASS_NAMES and artifact.spec.get("kind") == "folder"
    return "alphabetical order" if folders else "not set"


def _differences(place: str, old: object, new: object) -> Iterator[tuple[str, object, object]]:
    """The values in which two JSON values differ: the place, the old and the new one.

    Class names are compared as a whole, since what differs is their order.
    """
    if isinstance(old, Mapping) and isinstance(new, Mapping):
        for key in dict.fromkeys([*old, *new]):
            yield from _differences(f"{place}.{key}", old.get(key), new.get(key))
    elif (
        isinstance(old, list)
        and isinstance(new, list)
        and len(old) == len(new)
        and place != CLASS_NAMES
    ):
        for index, (before, after) in enumerate(zip(old, new, strict=True)):
            yield from _differences(f"{place}.{index}", before, after)
    elif old != new:
        yield place, old, new

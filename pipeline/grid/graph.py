"""The task graph: a DAG of nodes, each identified by a digest."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from functools import cached_property

from pipeline.grid.digests import digest, libraries_of, versions_of
from pipeline.grid.kinds import KINDS, KindInfo, NodeKind
from pipeline.store.records import Identity
from tasks.specs import Spec


@dataclass(frozen=True, eq=False)
class Node:
    """A task: one unit of work, which produces one artifact.

    Its digest identifies the recipe: the kind, the spec and the digests of the parents. `files`
    maps roles to paths on this machine, and is not part of the digest.
    """

    kind: NodeKind
    spec: Spec
    parents: tuple[tuple[str, Node], ...] = ()
    files: tuple[tuple[str, str], ...] = field(default=(), repr=False)

    @cached_property
    def digest(self) -> str:
        """SHA-256 of the recipe, 64 hexadecimal digits."""
        parents = [[role, parent.digest] for role, parent in self.parents]
        return digest(["node", self.kind, self.spec, parents])

    @property
    def info(self) -> KindInfo:
        """Properties of this kind of node."""
        return KINDS[self.kind]

    @cached_property
    def libraries(self) -> dict[str, str]:
        """Versions of the libraries of this node and of all its ancestors, by name."""
        found = libraries_of(self.spec)
        for _, parent in self.parents:
            found |= parent.libraries
        return found

    def with_batched_ancestors(self) -> list[Node]:
        """This node, and all ancestors of batched kinds that are reached through such nodes.

        Visited nodes are remembered, since the number of paths through a cascade grows
        exponentially.
        """
        found = {self.digest: self}
        waiting = [self]
        while waiting:
            for _, parent in waiting.pop().parents:
                if parent.info.batched and parent.digest not in found:
                    found[parent.digest] = parent
                    waiting.append(parent)
        return list(found.values())

    @property
    def identity(self) -> Identity:
        """The description under which the store keeps the artifact."""
        return Identity(
            kind=self.kind,
            digest=self.digest,
            spec=self.spec.model_dump(mode="json"),
            versions=versions_of(self.spec),
            parents={role: (parent.kind, parent.digest) for role, parent in self.parents},
        )

    def parent(self, role: str) -> Node:
        """The parent in a role; KeyError if there is none."""
        return dict(self.parents)[role]

    def __hash__(self) -> int:
        return hash(self.digest)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Node) and other.digest == self.digest


class Graph:
    """A DAG of nodes without duplicates; iteration is in topological order, parents first."""

    def __init__(self, leaves: Iterable[Node]) -> None:
        self._nodes: dict[str, Node] = {}
        self._children: dict[str, list[Node]] = {}
        self._descendants: dict[str, frozenset[str]] = {}
        for leaf in leaves:
            self._add(leaf)

    def _add(self, node: Node) -> None:
        if node.digest in self._nodes:
            return
        for _, parent in node.parents:
            if parent.digest not in self._nodes:
                self._add(parent)
        self._nodes[node.digest] = node
        for above in {parent.digest: None for _, parent in node.parents}:
            self._children.setdefault(above, []).append(node)

    def __iter__(self) -> Iterator[Node]:
        return iter(self._nodes.values())

    def __len__(self) -> int:
        return len(self._nodes)

    def __contains__(self, digest: str) -> bool:
        return digest in self._nodes

    def __getitem__(self, digest: str) -> Node:
        return self._nodes[digest]

    def children(self, node: Node) -> list[Node]:
        """The nodes that read this node's artifact."""
        return self._children.get(node.digest, [])

    def descendants(self, digest: str) -> frozenset[str]:
        """Digests of all nodes that depend on a node, directly or not; cached."""
        if digest not in self._descendants:
            found: set[str] = set()
            waiting = [self[digest]]
            while waiting:
                for child in self.children(waiting.pop()):
                    if child.digest not in found:
                        found.add(child.digest)
                        waiting.append(child)
            self._descendants[digest] = frozenset(found)
        return self._descendants[digest]

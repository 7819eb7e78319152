"""A grid with the nodes of its cells, and which of them are meant; nothing of any store."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

from pipeline.catalogue.catalogue import Catalogue
from pipeline.grid.cards import card_nodes
from pipeline.grid.cells import Cell, Grid
from pipeline.grid.digests import spec_classes
from pipeline.grid.exhibits import ExhibitNode, exhibit_nodes
from pipeline.grid.graph import Graph, Node
from pipeline.grid.kinds import CardSize, ForceStart, NodeKind, forced_kinds
from pipeline.grid.nodes import CellNodes
from tasks.specs import Spec


@dataclass(frozen=True)
class GridNodes:
    """The nodes of a whole grid.

    scores: of each cell, by its name; cards: of each cell that has one, see `card_nodes`;
    exhibits: see `exhibit_nodes`.
    """

    graph: Graph
    scores: dict[str, Node]
    cards: dict[str, Node]
    exhibits: list[ExhibitNode]


@dataclass(kw_only=True)
class OpenedGrid:
    """A grid and the cells of it that are meant. card: how large integrity cards may be."""

    catalogue: Catalogue
    grid: Grid
    cells: tuple[Cell, ...]
    card: CardSize = "quarter"

    @cached_property
    def _nodes(self) -> GridNodes:
        nodes = CellNodes()
        scores = {cell.name: nodes.score(cell) for cell in self.grid.cells}
        cards = card_nodes(nodes, self.grid.cells, self.card)
        exhibits = exhibit_nodes(nodes, self.grid, scores)
        leaves = [*scores.values(), *cards.values(), *(exhibit.node for exhibit in exhibits)]
        return GridNodes(Graph(leaves), scores, cards, exhibits)

    @property
    def graph(self) -> Graph:
        """The graph of all the grid's cells, of their integrity cards and exhibits."""
        return self._nodes.graph

    @property
    def scores(self) -> dict[str, Node]:
        """The score node of every cell of the grid."""
        return self._nodes.scores

    @cached_property
    def chosen(self) -> dict[str, Node]:
        """The score nodes of the cells that are meant."""
        return {cell.name: self.scores[cell.name] for cell in self.cells}

    @property
    def cards(self) -> dict[str, Node]:
        """The integrity card of each cell that has one; see `card_nodes`."""
        return self._nodes.cards

    @cached_property
    def chosen_cards(self) -> list[Node]:
        """The cards of the models that a cell that is meant attacks adaptively."""
        adaptive = {(cell.model, cell.seed) for cell in self.cells if cell.attack_spec.compound}
        cells = (cell for cell in self.cells if (cell.model, cell.seed) in adaptive)
        found = (self.cards.get(cell.name) for cell in cells)
        return list(dict.fromkeys(node for node in found if node is not None))

    @property
    def exhibits(self) -> list[ExhibitNode]:
        """The images before and after an attack and a defense; see `exhibit_nodes`."""
        return self._nodes.exhibits

    @property
    def chosen_exhibits(self) -> list[Node]:
        """The exhibits of cells that are both meant."""
        chosen = self.chosen
        return [
            exhibit.node
            for exhibit in self.exhibits
            if exhibit.bare.name in chosen and exhibit.defended.name in chosen
        ]

    @property
    def leaves(self) -> list[Node]:
        """What is meant to be in the store after a run: scores, then cards."""
        return [*self.chosen.values(), *self.chosen_cards]

    @cached_property
    def meant(self) -> Graph:
        """The graph of the leaves and exhibits: all that a run may have to compute."""
        return (
            self.graph
            if self.cells == self.grid.cells
            else Graph([*self.leaves, *self.chosen_exhibits])
        )

    @cached_property
    def meant_classes(self) -> frozenset[tuple[NodeKind, frozenset[type[Spec]]]]:
        """The kinds of the nodes that are meant, each with the classes of its specs."""
        return frozenset((node.kind, spec_classes(node.spec)) for node in self.meant)

    def forced(self, start: ForceStart) -> set[str]:
        """Digests of the nodes that --force computes again."""
        kinds = forced_kinds(start)
        return {node.digest for node in self.meant if node.kind in kinds}

"""A loaded grid with its task graph and the selection of cells; independent of any store."""

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
from tasks.defenses.flip_crop import FlipCrop
from tasks.defenses.none import NoDefense
from tasks.specs import Spec


@dataclass(frozen=True)
class GridNodes:
    """The nodes of a whole grid.

    Attributes:
        scores: Score node of each cell, by cell name.
        cards: Integrity card of each cell that has one, see `card_nodes`.
        exhibits: See `exhibit_nodes`.
    """

    graph: Graph
    scores: dict[str, Node]
    cards: dict[str, Node]
    exhibits: list[ExhibitNode]


@dataclass(kw_only=True)
class OpenedGrid:
    """A grid and the selected cells of it. card: size limit of integrity cards."""

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
        """The task graph of all cells of the grid, with their integrity cards and exhibits."""
        return self._nodes.graph

    @property
    def scores(self) -> dict[str, Node]:
        """Score node of every cell of the grid, by cell name."""
        return self._nodes.scores

    @cached_property
    def chosen(self) -> dict[str, Node]:
        """Score nodes of the selected cells, by cell name."""
        return {cell.name: self.scores[cell.name] for cell in self.cells}

    def uncompared(self) -> list[str]:
        """Bare models and controls of equal cost that verdicts of the selected cells need.

        Only those of the grid that are not selected, by the names of their defenses.
        """
        names = {cell.name for cell in self.cells}
        attacked = {(c.model, c.attack) for c in self.cells if c.attack_spec.compound}
        found = (
            cell.defense
            for cell in self.grid.cells
            if (cell.model, cell.attack) in attacked
            and isinstance(cell.defense_spec, NoDefense | FlipCrop)
            and cell.name not in names
        )
        return list(dict.fromkeys(found))

    @property
    def cards(self) -> dict[str, Node]:
        """Integrity card of each cell that has one; see `card_nodes`."""
        return self._nodes.cards

    @cached_property
    def chosen_cards(self) -> list[Node]:
        """Cards of the models that a selected cell attacks adaptively."""
        adaptive = {(cell.model, cell.seed) for cell in self.cells if cell.attack_spec.compound}
        cells = (cell for cell in self.cells if (cell.model, cell.seed) in adaptive)
        found = (self.cards.get(cell.name) for cell in cells)
        return list(dict.fromkeys(node for node in found if node is not None))

    @property
    def exhibits(self) -> list[ExhibitNode]:
        """Images before and after an attack and a defense; see `exhibit_nodes`."""
        return self._nodes.exhibits

    @property
    def chosen_exhibits(self) -> list[Node]:
        """Exhibits whose bare and defended cell are both selected."""
        chosen = self.chosen
        return [
            exhibit.node
            for exhibit in self.exhibits
            if exhibit.bare.name in chosen and exhibit.defended.name in chosen
        ]

    @property
    def leaves(self) -> list[Node]:
        """The nodes that a run has to deliver: scores, then cards."""
        return [*self.chosen.values(), *self.chosen_cards]

    @cached_property
    def meant(self) -> Graph:
        """The task graph of a run: leaves and exhibits of the selected cells, with ancestors."""
        return (
            self.graph
            if self.cells == self.grid.cells
            else Graph([*self.leaves, *self.chosen_exhibits])
        )

    @cached_property
    def meant_classes(self) -> frozenset[tuple[NodeKind, frozenset[type[Spec]]]]:
        """Kind and spec classes of each node of a run, without duplicates."""
        return frozenset((node.kind, spec_classes(node.spec)) for node in self.meant)

    def forced(self, start: ForceStart) -> set[str]:
        """Digests of the nodes that `--force --from START` computes again."""
        kinds = forced_kinds(start)
        return {node.digest for node in self.meant if node.kind in kinds}

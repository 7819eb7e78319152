"""From cells to nodes: dataset → train or checkpoint → craft → defend → score.

An oblivious craft knows nothing of the defense, so all defenses of a model share its tensors.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from pipeline.graph import Graph, Node, NodeKind
from pipeline.grid import Cell
from tasks.node_specs import CraftSpec, DefendSpec, ScoreSpec
from tasks.recipe import CheckpointSpec
from tasks.specs import SHARD, Shard, Spec


def shards(images: int) -> list[Shard]:
    """The shards of the first `images` images, the last one as short as it must be."""
    return [
        Shard(start=start, stop=min(start + SHARD, images)) for start in range(0, images, SHARD)
    ]


@dataclass
class CellNodes:
    """Makes each node once, however many cells share it."""

    _made: dict[tuple[object, ...], Node] = field(default_factory=dict)

    def graph(self, cells: Iterable[Cell]) -> tuple[Graph, dict[str, Node]]:
        """The graph of some cells, and the score node of each cell by the cell's name."""
        scores = {cell.name: self.score(cell) for cell in cells}
        return Graph(scores.values()), scores

    def _node(
        self,
        kind: NodeKind,
        spec: Spec,
        files: tuple[tuple[str, str], ...] = (),
        **parents: Node,
    ) -> Node:
        roles = tuple(parents.items())
        key = (kind, spec, tuple((role, id(parent)) for role, parent in roles))
        if key not in self._made:
            self._made[key] = Node(kind, spec, roles, files)
        return self._made[key]

    def score(self, cell: Cell) -> Node:
        """The node that scores a cell over all its shards."""
        dataset = self._node("dataset", cell.dataset_spec, cell.files)
        loaded = isinstance(cell.model_spec, CheckpointSpec)
        kind: NodeKind = "checkpoint" if loaded else "train"
        model = self._node(kind, cell.model_spec, cell.model_files, dataset=dataset)
        parents = {
            f"shard{index}": self._defend(cell, shard, dataset, model)
            for index, shard in enumerate(shards(cell.images))
        }
        return self._node("score", ScoreSpec(), (), **parents)

    def _defend(self, cell: Cell, shard: Shard, dataset: Node, model: Node) -> Node:
        spec = DefendSpec(
            defense=cell.defense_spec,
            shard=shard,
            seed=cell.seed,
            redraws=cell.redraws,
            precision=cell.precision,
        )
        parents = {"model": model, "examples": self._examples(cell, shard, dataset, model)}
        if cell.defense_spec.needs_pool():
            parents["pool"] = dataset
        return self._node("defend", spec, (), **parents)

    def _examples(self, cell: Cell, shard: Shard, dataset: Node, model: Node) -> Node:
        """The node whose artifact holds the examples of a shard; clean ones are the data set."""
        if not cell.attack_spec.crafts:
            return dataset
        spec = CraftSpec(
            attack=cell.attack_spec, shard=shard, seed=cell.seed, precision=cell.precision
        )
        return self._node("craft", spec, dataset=dataset, model=model)

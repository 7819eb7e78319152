"""From cells to nodes: dataset → train or checkpoint → craft → select → defend → score.

An oblivious craft knows nothing of the defense, so all defenses of a model share its tensors.
An adaptive attack is many crafts, on the bare and on the defended model, and what is selected of
them; nothing of it depends on what else a grid holds.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import cache

from pipeline.grid.cells import Cell
from pipeline.grid.digests import canonical
from pipeline.grid.graph import Graph, Node
from pipeline.grid.kinds import NodeKind
from tasks.attacks.adaptive import Adaptive
from tasks.attacks.base import Attack
from tasks.evaluation.specs import CardSpec, CraftSpec, DefendSpec, ScoreSpec, SelectSpec
from tasks.specs import SHARD, Shard, Spec
from tasks.training.recipe import CheckpointSpec


@cache
def shards(images: int) -> tuple[Shard, ...]:
    """The shards of the first `images` images, the last one as short as it must be."""
    return tuple(
        Shard(start=start, stop=min(start + SHARD, images)) for start in range(0, images, SHARD)
    )


@dataclass
class CellNodes:
    """Makes each node once, however many cells share it."""

    _made: dict[str, Node] = field(default_factory=dict)
    _attacked: dict[tuple[object, ...], Node] = field(default_factory=dict)

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
        node = Node(kind, spec, tuple(parents.items()), files)
        return self._made.setdefault(node.digest, node)

    def _read(self, cell: Cell) -> tuple[Node, Node]:
        """The nodes of a cell's data set and model."""
        dataset = self._node("dataset", cell.dataset_spec, cell.files)
        loaded = isinstance(cell.model_spec, CheckpointSpec)
        kind: NodeKind = "checkpoint" if loaded else "train"
        return dataset, self._node(kind, cell.model_spec, cell.model_files, dataset=dataset)

    def card(self, cell: Cell, spec: CardSpec) -> Node:
        """A node that examines a cell's defended model."""
        dataset, model = self._read(cell)
        return self._node("card", spec, (), dataset=dataset, model=model, **_pool(cell, dataset))

    def score(self, cell: Cell) -> Node:
        """The node that scores a cell over all its shards."""
        dataset, model = self._read(cell)
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
        return self._node("defend", spec, (), **parents, **_pool(cell, dataset))

    def _examples(self, cell: Cell, shard: Shard, dataset: Node, model: Node) -> Node:
        """The node whose artifact holds the examples of a shard; clean ones are the data set."""
        attack = cell.attack_spec
        if not attack.crafts:
            return dataset
        if isinstance(attack, Adaptive):
            return self._selected(cell, attack, shard, dataset, model)
        return self._transferred(cell, attack, shard, dataset, model)

    def _transferred(
        self, cell: Cell, attack: Attack, shard: Shard, dataset: Node, model: Node
    ) -> Node:
        """The node that attacks the bare model, asked for by each defense of it."""
        key = (canonical(attack), shard.start, shard.stop, cell.seed, cell.precision, model.digest)
        if key not in self._attacked:
            spec = CraftSpec(attack=attack, shard=shard, seed=cell.seed, precision=cell.precision)
            self._attacked[key] = self._node("craft", spec, dataset=dataset, model=model)
        return self._attacked[key]

    def _selected(
        self, cell: Cell, attack: Adaptive, shard: Shard, dataset: Node, model: Node
    ) -> Node:
        """The node that selects of an adaptive attack's candidates."""
        bare = {
            f"transferred{place}": self._transferred(cell, inner, shard, dataset, model)
            for place, inner in enumerate(attack.transferred)
        }
        made = {"dataset": dataset, "model": model, **_pool(cell, dataset)}
        select = SelectSpec(
            against=cell.defense_spec,
            shard=shard,
            seed=cell.seed,
            draws=attack.select_draws,
            precision=cell.precision,
        )
        candidates: dict[str, Node] = {}
        if bare:
            candidates["transferred"] = self._node("select", select, (), **made, **bare)
        start = {"start": candidates["transferred"]} if bare else {}
        for attempt in attack.tries(cell.defense_spec):
            stop = shard.stop if attempt.images is None else min(shard.stop, attempt.images)
            if stop <= shard.start:
                continue
            spec = CraftSpec(
                attack=attempt.attack,
                shard=Shard(start=shard.start, stop=stop),
                seed=cell.seed,
                precision=cell.precision,
                against=cell.defense_spec,
                draws=attempt.draws,
                smoothing=attempt.smoothing,
            )
            warm = start if attempt.warm else {}
            candidates[attempt.name] = self._node("craft", spec, (), **made, **warm)
        return self._node("select", select, (), **made, **candidates)


def _pool(cell: Cell, dataset: Node) -> dict[str, Node]:
    return {"pool": dataset} if cell.defense_spec.needs_pool() else {}

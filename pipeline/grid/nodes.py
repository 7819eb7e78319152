"""Builds the task graph of cells.

The kinds of node follow one another as dataset → train, checkpoint or ensemble → craft → select →
defend → score.

A transferred attack is made on the bare model and does not depend on the defense, so all defenses
of a model share its craft nodes. A compound attack is a cascade of candidates, separate in each
shard and independent of the rest of the grid:

    craft (bare model) ... → select → craft → select → craft → select → defend

A select node queries the defended model about its candidates, which are its parents, and keeps the
best of them and of the previous selection (its parent `before`). Its artifact records which images
are not broken yet, that is, on which the defended model has not surely failed. The next craft node
has this selection as its parent `standing` and attacks only those images, possibly none. Which
images these are is known only at run time, yet the graph is static, since a digest identifies the
recipe: the candidate and the cascade before it.

- Resuming: each node is stored when it is complete, and the next run continues with the one after
  it.
- Growing: each shard, of 100 images by default, has a cascade of its own. More images mean more
  shards; existing ones stay valid.
- Larger budgets: a budget that begins with the candidates of a smaller one, as `standard` does with
  `quick`, shares those nodes and computes only the rest.
- Consistency: an artifact's record holds the content hashes of its ancestors. If a selection is
  recomputed with another result, its descendants count as outdated.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cache

from pipeline.grid.cells import Cell
from pipeline.grid.digests import canonical
from pipeline.grid.graph import Node
from pipeline.grid.kinds import NodeKind
from tasks.attacks.base import Attack, CompoundAttack
from tasks.evaluation.specs import (
    CardSpec,
    CraftSpec,
    DefendSpec,
    ExhibitSpec,
    ScoreSpec,
    SelectSpec,
)
from tasks.specs import SHARD, Shard, Spec
from tasks.training.recipe import CheckpointSpec, ClassifierSpec, EnsembleSpec


@cache
def shards(images: int, size: int = SHARD) -> tuple[Shard, ...]:
    """Split the first `images` images into shards; the last one may be shorter."""
    return tuple(
        Shard(start=start, stop=min(start + size, images)) for start in range(0, images, size)
    )


@dataclass
class CellNodes:
    """Builds the nodes of cells; a node that several cells share is made once."""

    _made: dict[str, Node] = field(default_factory=dict)
    _attacked: dict[tuple[object, ...], Node] = field(default_factory=dict)

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
        return dataset, self._model(cell.model_spec, cell.model_files, dataset)

    def _model(
        self, spec: ClassifierSpec, files: tuple[tuple[str, str], ...], dataset: Node
    ) -> Node:
        if isinstance(spec, EnsembleSpec):
            members = {}
            for number, member in enumerate(spec.members):
                sign = f"{number}/"
                own = [(role, path) for role, path in files if role.startswith(sign)]
                stripped = tuple((role.removeprefix(sign), path) for role, path in own)
                members[f"member{number}"] = self._model(member, stripped, dataset)
            return self._node("ensemble", spec, (), dataset=dataset, **members)
        kind: NodeKind = "checkpoint" if isinstance(spec, CheckpointSpec) else "train"
        return self._node(kind, spec, files, dataset=dataset)

    def card(self, cell: Cell, spec: CardSpec) -> Node:
        """The integrity card of a cell's defended model."""
        dataset, model = self._read(cell)
        return self._node("card", spec, (), dataset=dataset, model=model, **_pool(cell, dataset))

    def score(self, cell: Cell) -> Node:
        """The score node of a cell, the child of all its shards."""
        dataset, model = self._read(cell)
        size = cell.adaptive_shard if isinstance(cell.attack_spec, CompoundAttack) else SHARD
        parents = {
            f"shard{index}": self._defend(cell, shard, dataset, model)
            for index, shard in enumerate(shards(cell.images, size))
        }
        return self._node("score", ScoreSpec(), (), **parents)

    def exhibit(self, cell: Cell, spec: ExhibitSpec, bare: Node, defended: Node) -> Node:
        """A node with images before and after a cell's attack and defense.

        Args:
            bare, defended: Score nodes of two cells with the same examples, without and with the
                defense.
        """
        dataset, model = self._read(cell)
        parents: dict[str, Node] = {}
        pairs = zip(bare.parents, defended.parents, strict=True)
        for index, ((_, one), (_, other)) in enumerate(pairs):
            parents[f"examples{index}"] = other.parent("examples")
            parents[f"bare{index}"], parents[f"defended{index}"] = one, other
        pool = _pool(cell, dataset)
        return self._node("exhibit", spec, (), dataset=dataset, model=model, **pool, **parents)

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
        """The node that holds the examples of a shard; for clean images that is the data set."""
        attack = cell.attack_spec
        if not attack.crafts:
            return dataset
        if isinstance(attack, CompoundAttack):
            return self._selected(cell, attack, shard, dataset, model)
        return self._transferred(cell, attack, shard, dataset, model)

    def _transferred(
        self, cell: Cell, attack: Attack, shard: Shard, dataset: Node, model: Node
    ) -> Node:
        """The craft node of an attack on the bare model, shared by all defenses."""
        key = (canonical(attack), shard.start, shard.stop, cell.seed, cell.precision, model.digest)
        if key not in self._attacked:
            spec = CraftSpec(attack=attack, shard=shard, seed=cell.seed, precision=cell.precision)
            self._attacked[key] = self._node("craft", spec, dataset=dataset, model=model)
        return self._attacked[key]

    def _selected(
        self, cell: Cell, attack: CompoundAttack, shard: Shard, dataset: Node, model: Node
    ) -> Node:
        """The last select node of a compound attack's cascade."""
        defense = cell.defense_spec
        made = {"dataset": dataset, "model": model, **_pool(cell, dataset)}
        choice = attack.choice(deterministic=cell.deterministic)
        select = SelectSpec(
            against=defense,
            shard=shard,
            seed=cell.seed,
            draws=choice.draws,
            predictions=choice.predictions,
            margin=choice.margin,
            precision=cell.precision,
        )
        bare = {
            name: self._transferred(cell, inner, shard, dataset, model)
            for name, inner in attack.transfers().items()
        }
        transferred = self._node("select", select, (), **made, **bare) if bare else None
        last = transferred
        for attempt in attack.tries(defense):
            stop = shard.stop if attempt.images is None else min(shard.stop, attempt.images)
            if stop <= shard.start:
                continue
            spec = CraftSpec(
                attack=attempt.attack,
                shard=Shard(start=shard.start, stop=stop),
                seed=cell.seed,
                precision=cell.precision,
                against=defense,
                draws=attempt.draws,
                smoothing=attempt.smoothing,
                rule=attempt.rule,
                inner_steps=attempt.inner_steps,
                relu_width=attempt.relu_width,
                window=None if cell.deterministic else attempt.window,
            )
            standing = {"standing": last} if last is not None else {}
            begins = {"transferred": transferred, "best": last, "own": None}[attempt.start]
            start = {"start": begins} if begins is not None else {}
            candidate = self._node("craft", spec, (), **made, **standing, **start)
            before = {"before": last} if last is not None else {}
            named = {attempt.name: candidate}
            last = self._node("select", select, (), **made, **before, **named)
        assert last is not None
        return last


def models_behind(cell: Cell, model: Node) -> list[tuple[Cell, Node]]:
    """Pairs of the cells of `Cell.models` and their model nodes; `model` is the cell's own node."""
    members = [parent for role, parent in model.parents if role.startswith("member")]
    return list(zip(cell.models(), (model, *members), strict=True))


def _pool(cell: Cell, dataset: Node) -> dict[str, Node]:
    return {"pool": dataset} if cell.defense_spec.needs_pool() else {}

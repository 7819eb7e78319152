"""Names of nodes for people, composed of the model, attack and defense of a cell."""

from __future__ import annotations

from collections.abc import Collection

from pipeline.grid.cells import Cell, Grid
from pipeline.grid.graph import Node
from tasks.attacks.base import Attack, CompoundAttack
from tasks.data.spec import DatasetSpec
from tasks.defenses.none import NoDefense
from tasks.evaluation.specs import CardSpec, CraftSpec, DefendSpec, ExhibitSpec, SelectSpec
from tasks.training.recipe import CheckpointSpec, EnsembleSpec, TrainSpec


def node_name(node: Node, grid: Grid | None) -> str:
    """A readable name, such as `craft demo-iat/untargeted-pgd10, images 0 to 500`.

    If no cell of the grid is found that the node belongs to, the name is its kind and digest.
    """
    cells = grid.cells if grid is not None else ()
    cell = next((cell for cell in cells if _behind(cell, node)), None)
    if cell is None:
        return f"{node.kind} {node.digest[:12]}"
    match node.spec:
        case DatasetSpec():
            words = cell.dataset
        case CraftSpec(shard=shard, against=None):
            words = f"{cell.model}/{cell.attack}, images {shard.start} to {shard.stop}"
        case CraftSpec(shard=shard) | SelectSpec(shard=shard) | DefendSpec(shard=shard):
            words = f"{cell.model}/{cell.attack}/{cell.defense}"
            words += f", images {shard.start} to {shard.stop}"
        case CardSpec(against=against):
            bare = isinstance(against, NoDefense)
            words = f"{cell.model}/{'none' if bare else cell.defense}"
        case TrainSpec() | CheckpointSpec():
            models = (each.model for each in cell.models() if each.model_spec == node.spec)
            words = next(models)
        case ExhibitSpec():
            words = f"{cell.model}/{cell.attack}/{cell.defense}"
        case _:
            words = cell.model
    return f"{node.kind} {words}" + (f", seed {cell.seed}" if cell.seed else "")


def _behind(cell: Cell, node: Node) -> bool:
    """Whether a node is computed for a cell; always False for scores, which are not compared."""
    match node.spec:
        case DatasetSpec():
            same = cell.dataset_spec == node.spec
        case TrainSpec() | CheckpointSpec() | EnsembleSpec():
            same = any(model.model_spec == node.spec for model in cell.models())
        case CraftSpec(attack=attack, against=against):
            bare, known = _attacks(cell)
            same = attack in (bare if against is None else known)
            same = same and against in {None, cell.defense_spec}
        case SelectSpec(against=against):
            same = cell.defense_spec == against and _selects(cell, node, node.spec)
        case CardSpec(against=against):
            own = isinstance(against, NoDefense) or cell.defense_spec == against
            same = cell.attack_spec.compound and own
        case DefendSpec(defense=defense):
            made = not isinstance(node.parent("examples").spec, DatasetSpec)
            same = cell.defense_spec == defense and made == cell.attack_spec.crafts
        case ExhibitSpec():
            return _behind(cell, node.parent("defended0"))
        case _:
            same = False
    if same and isinstance(node.spec, CardSpec | CraftSpec | SelectSpec | DefendSpec):
        same = node.spec.seed == cell.seed
    if same and isinstance(node.spec, CraftSpec | SelectSpec | DefendSpec):
        same = node.spec.shard.stop <= cell.images
    # candidates are left out, which `_selects` compares: their parents would be visited repeatedly
    wanted = {"dataset", "model", "examples", "standing", "before"}
    return same and all(_behind(cell, parent) for role, parent in node.parents if role in wanted)


def _selects(cell: Cell, node: Node, spec: SelectSpec) -> bool:
    """Whether the attack of a cell makes all candidates of a selection and chooses like it."""
    attack = cell.attack_spec
    if not isinstance(attack, CompoundAttack):
        return False
    choice = attack.choice(deterministic=cell.deterministic)
    if (spec.draws, spec.predictions, spec.margin) != (
        choice.draws,
        choice.predictions,
        choice.margin,
    ):
        return False
    bare, known = _attacks(cell)
    made = (parent.spec for _, parent in node.parents)
    return all(each.attack in [*bare, *known] for each in made if isinstance(each, CraftSpec))


def _attacks(cell: Cell) -> tuple[Collection[Attack], Collection[Attack]]:
    """The attacks that a cell makes on the bare model, and those on the defended one."""
    spec = cell.attack_spec
    if not isinstance(spec, CompoundAttack):
        return (spec,), ()
    tries = spec.tries(cell.defense_spec)
    return list(spec.transfers().values()), [attempt.attack for attempt in tries]

"""Estimated amount of work of a node, derived from its spec."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from pipeline.grid.graph import Node
from pipeline.grid.kinds import NodeKind
from tasks.data.spec import DatasetSpec
from tasks.defenses.base import Defense
from tasks.evaluation.costs import craft_passes, prediction_passes, select_passes
from tasks.evaluation.specs import (
    CardSpec,
    CraftSpec,
    DefendSpec,
    ExhibitSpec,
    ScoreSpec,
    SelectSpec,
)
from tasks.integrity.costs import card_passes
from tasks.networks.base import Network
from tasks.specs import Passes, Precision
from tasks.training.recipe import CheckpointSpec, ClassifierSpec, EnsembleSpec, TrainSpec


@dataclass(frozen=True)
class SpeedClass:
    """Nodes of one speed class have comparable speeds. method: such as `iat` or `counter+guo`."""

    kind: NodeKind
    network: str = ""
    precision: Precision = "float32"
    method: str = ""


@dataclass(frozen=True)
class Workload:
    """Amount of work of a node.

    Attributes:
        speed_class: Class of nodes with a comparable speed.
        amount: Multiplications if the kind uses the network, otherwise images or nodes.
        touched: Numbers that defenses read and write in memory, in addition.
        spared: Part of the amount that may turn out to be unnecessary, since candidates of a
            cascade are made only for images that no earlier one has broken.
    """

    speed_class: SpeedClass
    amount: float
    touched: float = 0.0
    spared: float = 0.0


CountMultiplications = Callable[[Node], int]
"""Counts the multiplications of one forward pass of a model's node.

Raises NotImplementedError if it is unknown.
"""


def stated(model: Node) -> int:
    """Multiplications of a forward pass, as stated by the class of the model's network."""
    return multiplications(_network(model), _spec(model.parent("dataset")))


def workload(
    node: Node,
    train_images: Mapping[DatasetSpec, int],
    costs: CountMultiplications = stated,
    standing: Callable[[Node], int | None] = lambda _: None,
) -> Workload:
    """The workload of a node.

    The amount is 0 if it is unknown: attacks and networks of a user's own need not state it.

    Args:
        train_images: Number of training images of each data set.
        costs: Counts the multiplications of a forward pass.
        standing: Number of images that are not broken after a select node; None if it is not known
            yet.
    """
    try:
        amount, touched = _amount(node, train_images, costs)
    except NotImplementedError:
        return Workload(speed_class(node), 0.0)
    asked = _asked(node, standing)
    if asked is None:
        return Workload(speed_class(node), amount, touched)
    least, most = asked
    spared = amount * (most - least)
    return Workload(speed_class(node), amount * most, touched * most, spared)


def _asked(node: Node, standing: Callable[[Node], int | None]) -> tuple[float, float] | None:
    """Minimum and maximum share of its images that a node of a cascade is computed for.

    None for nodes that are not part of a cascade. The first selection always queries its first
    candidate.
    """
    spec = node.spec
    if not isinstance(spec, CraftSpec | SelectSpec):
        return None
    roles = dict(node.parents)
    before = roles.get("standing") or roles.get("before")
    if isinstance(spec, SelectSpec) and before is None:
        return (1.0, 1.0) if spec.margin is None else (1 / _candidates(node), 1.0)
    if before is None:
        return None
    assert isinstance(before.spec, SelectSpec)
    if before.spec.margin is None:
        return (1.0, 1.0)
    images = spec.shard.stop - spec.shard.start
    exact = standing(before)
    if exact is not None:
        # a candidate for only the first images: how many of them stand is not recorded
        whole = images == before.spec.shard.stop - before.spec.shard.start
        return (exact / images if whole else 0.0, min(1.0, exact / images))
    return (0.0, _last_known(before, standing))


def _last_known(select: Node, standing: Callable[[Node], int | None]) -> float:
    """Share of a shard that stood at the latest selection whose result is known."""
    at: Node | None = select
    while at is not None:
        spec = at.spec
        assert isinstance(spec, SelectSpec)
        known = standing(at)
        if known is not None:
            return known / (spec.shard.stop - spec.shard.start)
        at = dict(at.parents).get("before")
    return 1.0


def _amount(
    node: Node, train_images: Mapping[DatasetSpec, int], costs: CountMultiplications
) -> tuple[float, float]:
    """The amount of work of a node and the numbers touched; see `Workload`."""
    spec = node.spec
    if isinstance(spec, ScoreSpec):
        return float(sum(_answers(parent) for _, parent in node.parents)), 0.0
    if isinstance(spec, TrainSpec):
        model, passes = node, _training_passes(node, spec, train_images)
    elif isinstance(spec, CraftSpec | SelectSpec | DefendSpec | CardSpec | ExhibitSpec):
        model = node.parent("model")
        passes = _passes(node, _spec(model.parent("dataset")).classes)
    else:
        return 1.0, 0.0
    dataset = _spec(model.parent("dataset"))
    numbers = dataset.channels * dataset.side**2
    return float(passes.equivalents * costs(model)), float(passes.touched * numbers)


def _training_passes(
    node: Node, spec: TrainSpec, train_images: Mapping[DatasetSpec, int]
) -> Passes:
    size = spec.recipe.batch_size
    images = train_images.get(_spec(node.parent("dataset")), 0)
    # an incomplete last batch is dropped, unless it is the only one
    images = images // size * size or images
    return spec.recipe.forwards_and_backwards() * images * spec.recipe.epochs


def _passes(node: Node, classes: int) -> Passes:
    """Forward and backward passes of a node that queries a model, over all its images."""
    match node.spec:
        case CraftSpec(shard=shard) as spec:
            return craft_passes(spec, classes) * (shard.stop - shard.start)
        case SelectSpec(shard=shard) as spec:
            images = shard.stop - shard.start
            return select_passes(spec, classes) * _candidates(node) * images
        case DefendSpec(shard=shard) as spec:
            images = shard.stop - shard.start
            return prediction_passes(spec.defense, classes) * spec.redraws * images
        case CardSpec() as spec:
            return card_passes(spec, classes)
        case ExhibitSpec() as spec:
            return prediction_passes(spec.defense, classes, draws=1) * spec.classes
    raise TypeError(f"a {node.kind} asks no model")


def speed_class(node: Node) -> SpeedClass:
    """The speed class of a node."""
    match node.spec:
        case DatasetSpec(kind=source):
            return SpeedClass(node.kind, method=source)
        case TrainSpec(network=network, recipe=recipe):
            return SpeedClass(node.kind, network.kind, recipe.precision, recipe.method)
        case CheckpointSpec(network=network) | EnsembleSpec(network=network):
            return SpeedClass(node.kind, network.kind)
        case CraftSpec(attack=attack, precision=precision, against=against):
            network = _network(node.parent("model"))
            method = attack.kind if against is None else f"{attack.kind} on {_method(against)}"
            return SpeedClass(node.kind, network.kind, precision, method)
        case (
            CardSpec(against=defense, precision=precision)
            | SelectSpec(against=defense, precision=precision)
            | DefendSpec(defense=defense, precision=precision)
            | ExhibitSpec(defense=defense, precision=precision)
        ):
            network = _network(node.parent("model"))
            return SpeedClass(node.kind, network.kind, precision, _method(defense))
        case _:
            return SpeedClass(node.kind)


def _method(defense: Defense) -> str:
    return "+".join(part.kind for _, part in defense.stages())


def _candidates(node: Node) -> int:
    return sum(role not in {"dataset", "model", "pool", "before"} for role, _ in node.parents)


def _answers(node: Node) -> int:
    spec = node.spec
    assert isinstance(spec, DefendSpec)
    return (spec.shard.stop - spec.shard.start) * spec.redraws


def _network(model: Node) -> Network:
    assert isinstance(model.spec, ClassifierSpec)
    return model.spec.network


def _spec(dataset: Node) -> DatasetSpec:
    assert isinstance(dataset.spec, DatasetSpec)
    return dataset.spec


def multiplications(network: Network, dataset: DatasetSpec) -> int:
    """Multiplications of a network's forward pass for one image."""
    return network.multiplications(dataset.channels, dataset.side, dataset.classes)

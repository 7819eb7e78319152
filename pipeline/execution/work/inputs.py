"""What a node's work reads: its parents, from the store, each checked as it is read.

What many nodes read, data sets and frozen classifiers, a process keeps under its content.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from pipeline.execution.settings import KindSettings
from pipeline.grid.graph import Node
from pipeline.store import arrow
from pipeline.store.store import Damaged, Record, Store
from tasks.attacks.search.geometry import Ball
from tasks.classifier.checkpoint import BadCheckpoint, load_weights, weights_from_bytes
from tasks.classifier.frozen import Frozen
from tasks.data.arrays import BadTensor, Crafted, Images, Outcomes, Splits, as_float
from tasks.data.spec import DatasetSpec
from tasks.defenses.base import Context, Defense
from tasks.evaluation.craft import check_crafted, check_examples
from tasks.evaluation.specs import CraftSpec, SelectSpec
from tasks.networks.exported import Exported
from tasks.progress import Tell
from tasks.specs import Precision, Shard
from tasks.training.recipe import CheckpointSpec, TrainSpec

KEPT = 4
"""How many data sets, and how many classifiers, a process keeps."""

_splits: dict[str, Splits] = {}
_classifiers: dict[tuple[str, str, str, bool], Frozen] = {}


def forget() -> None:
    """Let go of all that this process keeps."""
    _splits.clear()
    _classifiers.clear()


@dataclass
class Desk:
    """A node at work. Reading a parent raises Damaged if it is not what its record says.

    until: Unix time, s, at which the run is to stop.
    """

    node: Node
    store: Store
    settings: KindSettings
    device: torch.device
    tell: Tell
    until: float | None = None
    classifier: Frozen | None = None

    def record(self, node: Node) -> Record:
        """A parent's record."""
        return self.store.required(node.kind, node.digest)

    def lineage(self) -> dict[str, str]:
        """Digest → content of every ancestor, as the store holds them now."""
        lineage: dict[str, str] = {}
        for _, parent in self.node.parents:
            record = self.record(parent)
            lineage.update(record.lineage)
            lineage[parent.digest] = record.content
        return lineage

    def splits(self, node: Node) -> Splits:
        """A data set."""
        record = self.record(node)
        if record.content not in _splits:
            train, test = (self._images(node, name) for name in ("train.arrow", "test.arrow"))
            _make_room(_splits)
            _splits[record.content] = Splits(train, test)
        return _splits[record.content]

    def examples(self, node: Node, shard: Shard) -> Crafted:
        """The examples of a shard: crafted or selected ones, or the data set's own.

        A craft that was of fewer images gives those.
        """
        spec = node.spec
        if isinstance(spec, DatasetSpec):
            images = self.splits(node).test[shard.start : shard.stop]
            none = torch.full_like(images.labels, -1)
            return Crafted(as_float(images.pixels), images.labels, images.ids, none)
        assert isinstance(spec, CraftSpec | SelectSpec)
        columns = self._columns(node, "examples.arrow")
        test = self.splits(node.parent("dataset")).test
        images = test[spec.shard.start : spec.shard.stop]
        try:
            crafted = Crafted(**columns)
            if isinstance(spec, CraftSpec):
                check_crafted(crafted, images, spec)
            else:
                check_examples(crafted, images, _ball(node))
        except (BadTensor, TypeError) as error:
            raise Damaged(node.kind, node.digest, str(error)) from None
        return crafted

    def context(self, precision: Precision) -> Context:
        """What a defense may ask: the node's model and, where it has one, its pool, on the device.

        Only nodes whose defense needs a pool have one for a parent.
        """
        pool = None
        defense = getattr(self.node.spec, "against", None) or getattr(
            self.node.spec, "defense", None
        )
        if isinstance(defense, Defense) and defense.needs_pool():
            splits = self.splits(self.node.parent("pool"))
            pool = splits.test if defense.pool_split() == "test" else splits.train
            pool = pool.to(self.device)
        return Context(classifier=self.frozen(precision), pool=pool)

    def outcomes(self, node: Node) -> Outcomes:
        """A defended model's answers about a shard."""
        try:
            return Outcomes(**self._columns(node, "outcomes.arrow"))
        except (BadTensor, TypeError) as error:
            raise Damaged(node.kind, node.digest, str(error)) from None

    def frozen(self, precision: Precision) -> Frozen:
        """The node's model, ready to be attacked or asked, its counters at zero."""
        node = self.node.parent("model")
        record = self.record(node)
        compiled = self.settings.compiled
        key = (record.content, precision, str(self.device), compiled)
        if key not in _classifiers:
            try:
                module = self._network(node, record)
            except BadCheckpoint as error:
                raise Damaged(node.kind, node.digest, str(error)) from None
            _make_room(_classifiers)
            _classifiers[key] = Frozen(
                module,
                classes=_shape(node).classes,
                precision=precision,
                device=self.device,
                compiled=compiled,
            )
        self.classifier = _classifiers[key]
        self.classifier.check()
        self.classifier.forwards = self.classifier.backwards = 0
        return self.classifier

    def _network(self, node: Node, record: Record) -> nn.Module:
        weights = weights_from_bytes(self.store.path(record, "weights.safetensors").read_bytes())
        network = _spec_of(node).network
        if isinstance(network, Exported):
            text = self.store.path(record, "program.json").read_text(encoding="utf-8")
            return network.restored(json.loads(text), weights, _shape(node).channels)
        module = untrained(node)
        load_weights(module, weights)
        return module

    def _columns(self, node: Node, name: str) -> dict[str, Tensor]:
        path = self.store.path(self.record(node), name)
        try:
            return arrow.read_tensors(path)
        except arrow.BadArrow as error:
            raise Damaged(node.kind, node.digest, str(error)) from None

    def _images(self, node: Node, name: str) -> Images:
        spec = node.spec
        assert isinstance(spec, DatasetSpec)
        columns = self._columns(node, name)
        try:
            ids = torch.arange(len(columns["labels"]))
            return Images(columns["pixels"], columns["labels"], ids, spec.classes)
        except (BadTensor, KeyError) as error:
            raise Damaged(node.kind, node.digest, str(error)) from None


def candidates_of(node: Node) -> dict[str, Node]:
    """What a select node selects of, by name."""
    others = {"dataset", "model", "pool"}
    return {role: parent for role, parent in node.parents if role not in others}


def _ball(node: Node) -> Ball:
    """The largest ball of the attacks that a node's examples are made by."""
    if isinstance(node.spec, CraftSpec):
        return node.spec.attack.ball()
    return max(map(_ball, candidates_of(node).values()), key=lambda ball: ball.radius)


def untrained(model: Node) -> nn.Module:
    """The network of a train or checkpoint node, with weights of no consequence."""
    shape = _shape(model)
    return _spec_of(model).network.build(shape.channels, shape.side, shape.classes)


def _spec_of(model: Node) -> TrainSpec | CheckpointSpec:
    assert isinstance(model.spec, TrainSpec | CheckpointSpec)
    return model.spec


def _shape(model: Node) -> DatasetSpec:
    spec = model.parent("dataset").spec
    assert isinstance(spec, DatasetSpec)
    return spec


def _make_room(kept: dict[Any, Any]) -> None:
    while len(kept) >= KEPT:
        kept.pop(next(iter(kept)))

"""What a node's work reads: its parents, from the store, each checked as it is read.

What many nodes read, data sets and frozen classifiers, a process keeps, each under all that
decides what it is.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from pipeline.execution.settings import KindSettings
from pipeline.execution.work.budget import share_bytes
from pipeline.grid.graph import Node
from pipeline.store import arrow
from pipeline.store.reading import Malformed, parsed
from pipeline.store.store import Damaged, Record, Store
from tasks.attacks.search.geometry import Ball
from tasks.classifier.checkpoint import BadCheckpoint, load_weights, weights_from_bytes
from tasks.classifier.consistent import check_consistent
from tasks.classifier.frozen import Frozen
from tasks.classifier.prepared import REAL_IMAGES, probe_images
from tasks.classifier.problems import BadNetwork
from tasks.classifier.row_size import row_bytes, rows_that_fit
from tasks.data.arrays import BadTensor, Crafted, Images, Outcomes, Splits, as_float
from tasks.data.spec import DatasetSpec
from tasks.defenses.base import Context
from tasks.evaluation.craft import check_crafted, check_examples
from tasks.evaluation.select import Chosen
from tasks.evaluation.specs import CraftSpec, ModelSpec, SelectSpec
from tasks.networks.base import Network
from tasks.networks.exported import Exported
from tasks.networks.families.foreign import ForeignNetwork
from tasks.progress import Tell
from tasks.specs import Passes, Precision, Shard
from tasks.training.recipe import ClassifierSpec

GB = 1e9

KEPT = 4
"""How many data sets, and how many classifiers, a process keeps."""

_splits: dict[tuple[str, str], Splits] = {}
"""By the data set node's digest, which decides how bytes are read, and by its content."""
_classifiers: dict[tuple[str, str, str, str, bool], Frozen] = {}
"""By the model node's digest, its content, precision, device, and whether it is compiled.

The digest names the network and the content its weights: neither tells the other. Two networks
may have the weights of one file, and one node's weights may be computed anew with other rounding.
"""


def forget() -> None:
    """Let go of all that this process keeps."""
    _splits.clear()
    _classifiers.clear()


@dataclass
class NodeInputs:
    """What a node at work is given: its parents' artifacts, settings and a device.

    Reading a parent raises Damaged if it is not what its record says.

    until: Unix time, s, at which the run is to stop. workers: how many nodes may be at work on this
    machine at once. queried: the digest of the model node whose network was asked; rows: how many
    go through it at once; notes: what a person should know of how it was made ready.
    """

    node: Node
    store: Store
    settings: KindSettings
    device: torch.device
    tell: Tell
    until: float | None = None
    workers: int = 1
    classifier: Frozen | None = None
    queried: str | None = None
    rows: int | None = None
    notes: list[str] = field(default_factory=list)
    _asked_before: Passes = field(default_factory=Passes)

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
        key = (node.digest, self.record(node).content)
        if key not in _splits:
            train, test = (self._images(node, name) for name in ("train.arrow", "test.arrow"))
            _make_room(_splits)
            _splits[key] = Splits(train, test)
        return _splits[key]

    def examples(self, node: Node, shard: Shard) -> Crafted:
        """The examples of a shard: crafted or selected ones, or the data set's own.

        A craft that was of fewer images, as a candidate of a cascade is, gives those.
        """
        spec = node.spec
        if isinstance(spec, DatasetSpec):
            images = self.splits(node).test[shard.start : shard.stop]
            none = torch.full_like(images.labels, -1)
            return Crafted(as_float(images.pixels), images.labels, images.ids, none)
        assert isinstance(spec, CraftSpec | SelectSpec)
        columns = self._columns(node, "examples.arrow")
        images = self.images_of(node)
        try:
            crafted = Crafted(**columns)
            if isinstance(spec, CraftSpec):
                check_crafted(crafted, images, spec)
            else:
                check_examples(crafted, images, _ball(node))
        except (BadTensor, TypeError) as error:
            raise Damaged(node.kind, node.digest, str(error)) from None
        return crafted

    def images_of(self, node: Node) -> Images:
        """The images that a craft or select node is of: its shard's, or those that still stand."""
        spec = node.spec
        assert isinstance(spec, CraftSpec | SelectSpec)
        images = self.splits(node.parent("dataset")).test[spec.shard.start : spec.shard.stop]
        roles = dict(node.parents)
        if "standing" not in roles:
            return images
        before = roles["standing"].spec
        assert isinstance(before, SelectSpec)
        # the shard of a candidate of fewer images begins where the selection's does
        standing = self._choice(roles["standing"])["standing"] != 0
        return images[standing[: len(images)]]

    def chosen(self, node: Node) -> Chosen:
        """What a select node chose, to go on from."""
        spec = node.spec
        assert isinstance(spec, SelectSpec)
        columns = self._choice(node)
        columns["standing"] = columns["standing"] != 0
        try:
            return Chosen(self.examples(node, spec.shard), **columns)
        except (BadTensor, TypeError) as error:
            raise Damaged(node.kind, node.digest, str(error)) from None

    def _choice(self, node: Node) -> dict[str, Tensor]:
        columns = self._columns(node, "choice.arrow")
        spec = node.spec
        assert isinstance(spec, SelectSpec)
        found = columns.get("standing")
        if found is None or len(found) != spec.shard.stop - spec.shard.start:
            raise Damaged(node.kind, node.digest, "does not say which images still stand")
        return columns

    def context(self, precision: Precision) -> Context:
        """What a defense may ask: the node's model and, where it has one, its pool, on the device.

        Only nodes whose defense needs a pool have one for a parent.
        """
        pool = None
        spec = self.node.spec
        assert isinstance(spec, ModelSpec)
        defense = spec.known_defense
        if defense is not None and defense.needs_pool():
            splits = self.splits(self.node.parent("pool"))
            pool = splits.test if defense.pool_split() == "test" else splits.train
            pool = pool.to(self.device)
        frozen = self.frozen(precision)
        self.rows = self._fitting(frozen)
        return Context(classifier=frozen, pool=pool, rows_at_once=self.rows)

    @property
    def rows_at_once(self) -> int:
        """How many rows go through the node's network at once, of which `context` was asked."""
        return self.rows or self.settings.batch_size

    def _fitting(self, frozen: Frozen) -> int:
        """As many as the settings' memory holds; fewer, with a line, where less is free."""
        own = self.settings
        shape = _shape(self.node.parent("model"))
        each = row_bytes(frozen, shape.channels, shape.side)
        if self.device.type == "cuda":
            return rows_that_fit(own.gpu_memory_gb * GB, each, own.batch_size)
        wanted = rows_that_fit(own.memory_gb * GB, each, own.batch_size)
        share = share_bytes(self.workers)
        if share is None or share >= wanted * each:
            return wanted
        rows = rows_that_fit(share, each, wanted)
        if rows < wanted:
            self.notes.append(
                f"{rows} rows at once instead of {wanted}: {share / GB:.2g} GB of memory are free "
                f"for each of {self.workers} workers; results may differ by rounding"
            )
        return rows

    def outcomes(self, node: Node) -> Outcomes:
        """A defended model's answers about a shard."""
        try:
            return Outcomes.of_columns(self._columns(node, "outcomes.arrow"))
        except (BadTensor, TypeError) as error:
            raise Damaged(node.kind, node.digest, str(error)) from None

    def frozen(self, precision: Precision) -> Frozen:
        """The node's model, ready to be attacked or asked; from now on `passes` counts."""
        node = self.node.parent("model")
        record = self.record(node)
        compiled = self.settings.compiled
        key = (node.digest, record.content, precision, str(self.device), compiled)
        if key not in _classifiers:
            try:
                module = self._network(node, record)
            except BadCheckpoint as error:
                raise Damaged(node.kind, node.digest, str(error)) from None
            _make_room(_classifiers)
            _classifiers[key] = self.freeze(node, module, precision)
        self.classifier = _classifiers[key]
        self.queried = node.digest
        self.note_network(_spec_of(node).network, *self.classifier.left_out)
        if self.classifier.randomised:
            # of what asks it without saying for which images
            torch.manual_seed(int(self.node.digest[:15], 16))
        self.classifier.check()
        self._asked_before = self.classifier.passes
        return self.classifier

    @property
    def passes(self) -> Passes:
        """What this node asked of its model; see `frozen`."""
        return self.classifier.passes - self._asked_before if self.classifier else Passes()

    def freeze(self, node: Node, module: nn.Module, precision: Precision) -> Frozen:
        """A network of a model node, made ready and checked.

        BadNetwork unless it answers an image by that image alone; see `check_consistent`.
        """
        spec = _spec_of(node)
        probe = self.probe(node)
        with naming(spec.network):
            frozen = Frozen(
                module,
                classes=_shape(node).classes,
                precision=precision,
                device=self.device,
                compiled=self.settings.compiled,
                probe=probe,
                randomised=bool(spec.randomised),
            )
            check_consistent(
                frozen.answers, probe.to(self.device), precision, randomised=frozen.randomised
            )
        return frozen

    def note_network(self, network: Network, *lines: str) -> None:
        """Put lines about a network into the record of what is computed, and before a person."""
        self.note(f"network {title_of(network)}", *lines)

    def note_second_derivative(self, *, with_width: bool) -> None:
        """Say what there is to know of that of the node's network, once that was asked for one."""
        if self.classifier is not None:
            lines = self.classifier.examined.get(with_width, ())
            self.note_network(_spec_of(self.node.parent("model")).network, *lines)

    def note(self, what: str, *lines: str) -> None:
        """Put lines about something that was read there, such as a file of a user's."""
        self.notes += [f"{what}: {line}" for line in lines]

    def probe(self, model: Node) -> Tensor:
        """The images that a model's network is compared and checked on, see `probe_images`."""
        dataset = model.parent("dataset")
        if self.store.record(dataset.kind, dataset.digest) is None:
            # of a model that came without its data set
            shape = _shape(model)
            return probe_images(torch.zeros(0, shape.channels, shape.side, shape.side))
        test = self.splits(dataset).test
        return probe_images(as_float(test.pixels[:REAL_IMAGES]))

    def loaded(self, node: Node) -> nn.Module:
        """The network of a model's node, with its weights."""
        return self._network(node, self.record(node))

    def _network(self, node: Node, record: Record) -> nn.Module:
        weights = weights_from_bytes(self.store.path(record, "weights.safetensors").read_bytes())
        network = _spec_of(node).network
        if isinstance(network, Exported):
            text = self.store.path(record, "program.json").read_bytes()
            try:
                program = parsed(text, dict[str, Any])
            except Malformed as malformed:
                raise BadCheckpoint(f"program.json: {malformed}") from None
            return network.restored(program, weights, _shape(node).channels)
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


@contextmanager
def naming(network: Network) -> Iterator[None]:
    """Say which network it is that a BadNetwork is about."""
    try:
        yield
    except BadNetwork as error:
        raise BadNetwork(f"network {title_of(network)}: {error}") from error


def title_of(network: Network) -> str:
    """What a person calls a network."""
    return network.title() if isinstance(network, ForeignNetwork) else network.kind


def candidates_of(node: Node) -> dict[str, Node]:
    """What a select node selects of, by name, beside what was chosen before."""
    others = {"dataset", "model", "pool", "before"}
    return {role: parent for role, parent in node.parents if role not in others}


def _ball(node: Node) -> Ball:
    """The largest ball of the attacks that a node's examples are made by."""
    if isinstance(node.spec, CraftSpec):
        return node.spec.attack.ball()
    before = [parent for role, parent in node.parents if role == "before"]
    return max(map(_ball, [*before, *candidates_of(node).values()]), key=lambda ball: ball.radius)


def untrained(model: Node) -> nn.Module:
    """The network of a model's node, with weights of no consequence."""
    shape = _shape(model)
    return _spec_of(model).network.build(shape.channels, shape.side, shape.classes)


def _spec_of(model: Node) -> ClassifierSpec:
    assert isinstance(model.spec, ClassifierSpec)
    return model.spec


def _shape(model: Node) -> DatasetSpec:
    spec = model.parent("dataset").spec
    assert isinstance(spec, DatasetSpec)
    return spec


def _make_room(kept: dict[Any, Any]) -> None:
    while len(kept) >= KEPT:
        kept.pop(next(iter(kept)))

"""Inputs of a node: the artifacts of its parents, checked as they are read from the store.

Data sets and frozen classifiers are cached in the process, keyed by everything that determines
them.
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
from pipeline.execution.work.contract import own_generators
from pipeline.grid.graph import Node
from pipeline.store import arrow
from pipeline.store.reading import Malformed, parsed
from pipeline.store.store import Damaged, Gone, Record, Store
from tasks.attacks.search.geometry import Ball
from tasks.classifier.checkpoint import BadCheckpoint, load_weights, weights_from_bytes
from tasks.classifier.consistent import check_consistent
from tasks.classifier.frozen import Frozen, NotFrozen
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
"""Maximum number of cached data sets, and of cached classifiers."""

ClassifierKey = tuple[str, str, str, str, bool]
_splits: dict[tuple[str, str], Splits] = {}
"""Cached data sets, by digest of the data set node and content hash."""
_classifiers: dict[ClassifierKey, Frozen] = {}
"""Cached classifiers.

The key is the digest of the model node, its content hash, precision, device, and whether it is
compiled. Digest and content are both needed: the digest identifies the network, the content its
weights. Two networks may have the weights of the same file, and a recomputed node may have other
weights by rounding.
"""


def forget() -> None:
    """Clear the caches of this process."""
    _splits.clear()
    _classifiers.clear()


@dataclass
class NodeInputs:
    """The inputs of a node that is being computed: its parents' artifacts, settings and device.

    Reading a parent raises Damaged if the artifact does not match its record.

    Attributes:
        until: Time limit of the run, Unix time in seconds.
        workers: Number of nodes that may run on this machine at the same time.
        queried: Digest of the model node whose network was queried.
        rows: Batch size.
        notes: Remarks for people.
        generators: State of the global random generators when the model and what a defense may use
            were ready; empty for a node that uses neither, and for a randomised network, which may
            draw from them.
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
    generators: dict[str, bytes] = field(default_factory=dict)
    _asked_before: Passes = field(default_factory=Passes)
    _records: dict[str, Record] = field(default_factory=dict)
    _lineage: dict[str, str] = field(default_factory=dict)

    def record(self, node: Node) -> Record:
        """The record of an ancestor, read once.

        Raises:
            Gone: If it is missing, or if it and another ancestor come from different content of one
                artifact, which another run has replaced; the next plan finds which is outdated.
        """
        if node.digest not in self._records:
            record = self.store.required(node.kind, node.digest)
            for digest, content in {**record.lineage, node.digest: record.content}.items():
                if self._lineage.setdefault(digest, content) != content:
                    reason = f"comes from another {digest[:12]} than the other inputs"
                    raise Gone(node.kind, node.digest, reason)
            self._records[node.digest] = record
        return self._records[node.digest]

    def lineage(self) -> dict[str, str]:
        """Content hash of every ancestor in the store, by digest; Gone as in `record`."""
        for _, parent in self.node.parents:
            self.record(parent)
        return dict(self._lineage)

    def splits(self, node: Node) -> Splits:
        """The training and test images of a data set node."""
        key = (node.digest, self.record(node).content)
        if key not in _splits:
            train, test = (self._images(node, name) for name in ("train.arrow", "test.arrow"))
            _make_room(_splits)
            _splits[key] = Splits(train, test)
        return _splits[key]

    def examples(self, node: Node, shard: Shard) -> Crafted:
        """The examples of a shard: crafted or selected ones, or clean images of the data set.

        A craft node of fewer images, such as a later candidate of a cascade, returns only those.
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
        """The images of a craft or select node: those of its shard, or those not yet broken."""
        spec = node.spec
        assert isinstance(spec, CraftSpec | SelectSpec)
        images = self.splits(node.parent("dataset")).test[spec.shard.start : spec.shard.stop]
        roles = dict(node.parents)
        if "standing" not in roles:
            return images
        before = roles["standing"].spec
        assert isinstance(before, SelectSpec)
        # a candidate for fewer images has a shard with the same start as the selection
        standing = self._choice(roles["standing"])["standing"] != 0
        return images[standing[: len(images)]]

    def chosen(self, node: Node) -> Chosen:
        """The result of a select node, for the next selection to continue from."""
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
            raise Damaged(
                node.kind, node.digest, "does not say which images no candidate has broken"
            )
        return columns

    def context(self, precision: Precision) -> Context:
        """What a defense may use: the node's model and, if it needs one, a pool of images.

        Both are on the node's device. Only nodes whose defense needs a pool have a parent `pool`.
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
        self.generators = {} if frozen.randomised else own_generators()
        return Context(classifier=frozen, pool=pool, rows_at_once=self.rows)

    @property
    def rows_at_once(self) -> int:
        """The batch size, as chosen by `context`."""
        return self.rows or self.settings.batch_size

    def _fitting(self, frozen: Frozen) -> int:
        """The batch size that fits the settings' memory; reduced, with a note, if less is free."""
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
        """The defended model's predictions for a shard."""
        try:
            return Outcomes.of_columns(self._columns(node, "outcomes.arrow"))
        except (BadTensor, TypeError) as error:
            raise Damaged(node.kind, node.digest, str(error)) from None

    def frozen(self, precision: Precision) -> Frozen:
        """The node's model, ready for attacks and predictions; resets the count in `passes`."""
        node = self.node.parent("model")
        record = self.record(node)
        compiled = self.settings.compiled
        key = (node.digest, record.content, precision, str(self.device), compiled)
        if not _is_kept(key):
            try:
                module = self._network(node, record)
            except BadCheckpoint as error:
                raise Damaged(node.kind, node.digest, str(error)) from None
            _make_room(_classifiers)
            _classifiers[key] = self.freeze(node, module, precision)
            _classifiers[key].check()
        self.classifier = _classifiers[key]
        self.queried = node.digest
        self.note_network(_spec_of(node).network, *self.classifier.left_out)
        if self.classifier.randomised:
            # for queries of a randomised network that do not say which images they are about
            torch.manual_seed(int(self.node.digest[:15], 16))
        self._asked_before = self.classifier.passes
        return self.classifier

    @property
    def passes(self) -> Passes:
        """Forward and backward passes that this node has made through its model; see `frozen`."""
        return self.classifier.passes - self._asked_before if self.classifier else Passes()

    def freeze(self, node: Node, module: nn.Module, precision: Precision) -> Frozen:
        """Prepare and check the network of a model node.

        Raises:
            BadNetwork: If its answer for an image depends on the other images of the batch; see
                `check_consistent`.
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
        """Add notes about a network to the record and the output."""
        self.note(f"network {title_of(network)}", *lines)

    def note_second_derivative(self, *, with_width: bool) -> None:
        """Add notes about the network's second derivative, after one was computed."""
        if self.classifier is not None:
            lines = self.classifier.examined.get(with_width, ())
            self.note_network(_spec_of(self.node.parent("model")).network, *lines)

    def note(self, what: str, *lines: str) -> None:
        """Add notes about something that was read, such as a user's file."""
        self.notes += [f"{what}: {line}" for line in lines]

    def probe(self, model: Node) -> Tensor:
        """The images on which a model's network is checked; see `probe_images`."""
        dataset = model.parent("dataset")
        if self.store.record(dataset.kind, dataset.digest) is None:
            # the model was imported without its data set
            shape = _shape(model)
            return probe_images(torch.zeros(0, shape.channels, shape.side, shape.side))
        test = self.splits(dataset).test
        return probe_images(as_float(test.pixels[:REAL_IMAGES]))

    def loaded(self, node: Node) -> nn.Module:
        """The network of a model node, with its weights."""
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
    """Context manager: prefix a BadNetwork error with the network's name."""
    try:
        yield
    except BadNetwork as error:
        raise BadNetwork(f"network {title_of(network)}: {error}") from error


def title_of(network: Network) -> str:
    """Name of a network for people."""
    return network.title() if isinstance(network, ForeignNetwork) else network.kind


def candidates_of(node: Node) -> dict[str, Node]:
    """The candidates of a select node, by name, without the previous selection."""
    others = {"dataset", "model", "pool", "before"}
    return {role: parent for role, parent in node.parents if role not in others}


def _ball(node: Node) -> Ball:
    """The largest ball among the attacks that made a node's examples."""
    if isinstance(node.spec, CraftSpec):
        return node.spec.attack.ball()
    before = [parent for role, parent in node.parents if role == "before"]
    return max(map(_ball, [*before, *candidates_of(node).values()]), key=lambda ball: ball.radius)


def untrained(model: Node) -> nn.Module:
    """The network of a model node, with initial weights."""
    shape = _shape(model)
    return _spec_of(model).network.build(shape.channels, shape.side, shape.classes)


def _spec_of(model: Node) -> ClassifierSpec:
    assert isinstance(model.spec, ClassifierSpec)
    return model.spec


def _shape(model: Node) -> DatasetSpec:
    spec = model.parent("dataset").spec
    assert isinstance(spec, DatasetSpec)
    return spec


def _is_kept(key: ClassifierKey) -> bool:
    """Whether a classifier is cached; one that an earlier node has changed is dropped."""
    if key not in _classifiers:
        return False
    try:
        _classifiers[key].check()
    except NotFrozen:
        del _classifiers[key]
    return key in _classifiers


def _make_room(kept: dict[Any, Any]) -> None:
    while len(kept) >= KEPT:
        kept.pop(next(iter(kept)))

"""Inputs of a node: its parents' artifacts, and its model, ready for attacks and predictions.

Frozen classifiers are cached in the process, keyed by everything that determines them.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from pipeline.execution.settings import KindSettings
from pipeline.execution.work.artifacts import Artifacts, forget_splits, make_room
from pipeline.execution.work.budget import share_bytes
from pipeline.execution.work.contract import own_generators, own_names
from pipeline.execution.work.networks import naming, shape_of, spec_of, title_of, trained
from pipeline.grid.graph import Node
from pipeline.store.store import Damaged
from tasks.classifier.checkpoint import BadCheckpoint
from tasks.classifier.consistent import check_consistent
from tasks.classifier.frozen import Frozen, NotFrozen
from tasks.classifier.prepared import REAL_IMAGES, probe_images
from tasks.classifier.row_size import row_bytes, rows_that_fit
from tasks.contract.conditions import first_call
from tasks.data.arrays import as_float
from tasks.data.seeding import Rows
from tasks.defenses.base import Context, Defense
from tasks.evaluation.defend import draw_logits
from tasks.evaluation.specs import ModelSpec
from tasks.networks.base import Network
from tasks.progress import Tell
from tasks.specs import Passes, Precision

GB = 1e9

ClassifierKey = tuple[str, str, str, str, bool]
_classifiers: dict[ClassifierKey, Frozen] = {}
"""Cached classifiers.

The key is the digest of the model node, its content hash, precision, device, and whether it is
compiled. Digest and content are both needed: the digest identifies the network, the content its
weights. Two networks may have the weights of the same file, and a recomputed node may have other
weights by rounding.
"""


def forget() -> None:
    """Clear the caches of this process."""
    forget_splits()
    _classifiers.clear()


@dataclass
class NodeInputs(Artifacts):
    """The inputs of a node that is being computed: its parents' artifacts, settings and device.

    Attributes:
        until: Time limit of the run, Unix time in seconds.
        workers: Number of nodes that may run on this machine at the same time.
        queried: Digest of the model node whose network was queried.
        rows: Batch size.
        devices: Names of the devices that the node is computed on: several for a training that was
            resumed on another one.
        notes: Remarks for people.
        generators: State of the global random generators when the model and what a defense may use
            were ready; empty for a node that uses neither, and for a randomised network, which may
            draw from them.
    """

    settings: KindSettings
    device: torch.device
    tell: Tell
    until: float | None = None
    workers: int = 1
    classifier: Frozen | None = None
    queried: str | None = None
    rows: int | None = None
    devices: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    generators: dict[str, bytes] = field(default_factory=dict)
    _asked_before: Passes = field(default_factory=Passes)

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
        context = Context(classifier=frozen, pool=pool, rows_at_once=self.rows)
        if defense is not None and own_names(defense):
            self._call_first(defense, context)
        return context

    def _call_first(self, defense: Defense, context: Context) -> None:
        """Call a user's own defense on one image, before its draws are watched."""
        image = self.probe(self.node.parent("model"))[:1].to(self.device)
        zero = torch.zeros(1, dtype=torch.int64, device=self.device)
        rows = Rows(0, zero, zero).within("first")
        with first_call(), context.classifier.aside():
            draw_logits(defense, context, image, rows, draws=1)

    @property
    def rows_at_once(self) -> int:
        """The batch size, as chosen by `context`."""
        return self.rows or self.settings.batch_size

    def _fitting(self, frozen: Frozen) -> int:
        """The batch size that fits the settings' memory; reduced, with a note, if less is free."""
        own = self.settings
        shape = shape_of(self.node.parent("model"))
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

    def frozen(self, precision: Precision) -> Frozen:
        """The node's model, ready for attacks and predictions; resets the count in `passes`."""
        node = self.node.parent("model")
        record = self.record(node)
        compiled = self.settings.compiled
        key = (node.digest, record.content, precision, str(self.device), compiled)
        if not _is_kept(key):
            try:
                module = trained(self, node)
            except BadCheckpoint as error:
                raise Damaged(node.kind, node.digest, str(error)) from None
            make_room(_classifiers)
            _classifiers[key] = self.freeze(node, module, precision)
            _classifiers[key].check()
        self.classifier = _classifiers[key]
        self.queried = node.digest
        self.note_network(spec_of(node).network, *self.classifier.left_out)
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
        spec = spec_of(node)
        probe = self.probe(node)
        with naming(spec.network):
            frozen = Frozen(
                module,
                classes=shape_of(node).classes,
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
            self.note_network(spec_of(self.node.parent("model")).network, *lines)

    def note(self, what: str, *lines: str) -> None:
        """Add notes about something that was read, such as a user's file."""
        self.notes += [f"{what}: {line}" for line in lines]

    def probe(self, model: Node) -> Tensor:
        """The images on which a model's network is checked; see `probe_images`."""
        dataset = model.parent("dataset")
        if self.store.record(dataset.kind, dataset.digest) is None:
            # the model was imported without its data set
            shape = shape_of(model)
            return probe_images(torch.zeros(0, shape.channels, shape.side, shape.side))
        test = self.splits(dataset).test
        return probe_images(as_float(test.pixels[:REAL_IMAGES]))


def _is_kept(key: ClassifierKey) -> bool:
    """Whether a classifier is cached; one that an earlier node has changed is dropped."""
    if key not in _classifiers:
        return False
    try:
        _classifiers[key].check()
    except NotFrozen:
        del _classifiers[key]
    return key in _classifiers

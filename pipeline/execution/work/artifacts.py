"""The artifacts of a node's ancestors, checked as they are read from the store.

Data sets are cached in the process, keyed by everything that determines them.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from pipeline.grid.graph import Node
from pipeline.store import arrow
from pipeline.store.store import Damaged, Gone, Record, Store
from tasks.attacks.search.geometry import Ball
from tasks.data.arrays import BadTensor, Crafted, Images, Outcomes, Splits, as_float
from tasks.data.spec import DatasetSpec
from tasks.evaluation.craft import check_crafted, check_examples
from tasks.evaluation.select import Chosen
from tasks.evaluation.specs import CraftSpec, SelectSpec
from tasks.specs import Shard

KEPT = 4
"""Maximum number of cached data sets, and of cached classifiers."""

_splits: dict[tuple[str, str], Splits] = {}
"""Cached data sets, by digest of the data set node and content hash."""


def forget_splits() -> None:
    """Clear the cache of data sets of this process."""
    _splits.clear()


@dataclass
class Artifacts:
    """Reads the artifacts of a node's ancestors, all of which must be of one lineage.

    Reading raises Damaged if an artifact does not match its record.
    """

    node: Node
    store: Store
    _records: dict[str, Record] = field(default_factory=dict, init=False)
    _lineage: dict[str, str] = field(default_factory=dict, init=False)

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
            make_room(_splits)
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

    def outcomes(self, node: Node) -> Outcomes:
        """The defended model's predictions for a shard."""
        try:
            return Outcomes.of_columns(self._columns(node, "outcomes.arrow"))
        except (BadTensor, TypeError) as error:
            raise Damaged(node.kind, node.digest, str(error)) from None

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
    """The candidates of a select node, by name, without the previous selection."""
    others = {"dataset", "model", "pool", "before"}
    return {role: parent for role, parent in node.parents if role not in others}


def _ball(node: Node) -> Ball:
    """The largest ball among the attacks that made a node's examples."""
    if isinstance(node.spec, CraftSpec):
        return node.spec.attack.ball()
    before = [parent for role, parent in node.parents if role == "before"]
    return max(map(_ball, [*before, *candidates_of(node).values()]), key=lambda ball: ball.radius)


def make_room(kept: dict[Any, Any]) -> None:
    """Drop the oldest entries of a cache so that another one fits."""
    while len(kept) >= KEPT:
        kept.pop(next(iter(kept)))

"""The networks of model nodes: as they are before training, and with their stored weights."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import nn

from pipeline.execution.work.artifacts import Artifacts
from pipeline.grid.graph import Node
from pipeline.store.reading import Malformed, parsed
from tasks.classifier.checkpoint import BadCheckpoint, load_weights, weights_from_bytes
from tasks.classifier.ensemble import EnsembleModule
from tasks.classifier.problems import BadNetwork
from tasks.data.spec import DatasetSpec
from tasks.networks.base import Network
from tasks.networks.exported import Exported
from tasks.networks.families.foreign import ForeignNetwork
from tasks.training.recipe import ClassifierSpec, EnsembleSpec, TrainSpec


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


def untrained(model: Node) -> nn.Module:
    """The network of a model node, with initial weights.

    A trained one is built with the seed of its training, since it may hold random tensors that are
    not in its state dict.
    """
    return _built(spec_of(model), shape_of(model))


def _built(spec: ClassifierSpec, shape: DatasetSpec) -> nn.Module:
    if isinstance(spec, EnsembleSpec):
        return EnsembleModule([_built(member, shape) for member in spec.members])
    seed = spec.seed if isinstance(spec, TrainSpec) else 0
    return spec.network.build(shape.channels, shape.side, shape.classes, seed=seed)


def spec_of(model: Node) -> ClassifierSpec:
    """The spec of a model node."""
    assert isinstance(model.spec, ClassifierSpec)
    return model.spec


def shape_of(model: Node) -> DatasetSpec:
    """The spec of a model node's data set, which has the size and the classes of its images."""
    spec = model.parent("dataset").spec
    assert isinstance(spec, DatasetSpec)
    return spec


def trained(artifacts: Artifacts, node: Node) -> nn.Module:
    """The network of a model node, with its weights.

    Raises:
        BadCheckpoint: If the stored files are not those of this network.
    """
    record = artifacts.record(node)
    weights = weights_from_bytes(artifacts.store.path(record, "weights.safetensors").read_bytes())
    network = spec_of(node).network
    if isinstance(network, Exported):
        text = artifacts.store.path(record, "program.json").read_bytes()
        try:
            program = parsed(text, dict[str, Any])
        except Malformed as malformed:
            raise BadCheckpoint(f"program.json: {malformed}") from None
        return network.restored(program, weights, shape_of(node).channels)
    module = untrained(node)
    load_weights(module, weights)
    return module

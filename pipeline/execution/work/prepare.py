"""The work of the nodes that prepare an evaluation: data sets, trainings and other models."""

from __future__ import annotations

import time
from pathlib import Path
from urllib.error import HTTPError

import torch
from torch import nn

from pipeline.catalogue.sources import locate as sources
from pipeline.execution.work import unfinished as partial_state
from pipeline.execution.work.inputs import NodeInputs
from pipeline.execution.work.networks import naming, shape_of, trained, untrained
from pipeline.execution.work.output import NodeOutput, json_file, tensor_file, weights_file
from pipeline.grid.graph import Node
from pipeline.problems import BadInput, shown
from pipeline.problems.sanitize import scrubbed, without_secrets
from pipeline.store.files import read_whole
from pipeline.store.store import Writer
from tasks.classifier import exported
from tasks.classifier.checkpoint import fitted, load_weights, read_checkpoint
from tasks.classifier.ensemble import EnsembleModule
from tasks.classifier.prepared import Manner, training_manner
from tasks.data.spec import DatasetSpec
from tasks.networks.exported import Exported
from tasks.networks.families.foreign import ForeignNetwork, counted_multiplications
from tasks.training.recipe import CheckpointSpec, EnsembleSpec, Recipe, TrainSpec
from tasks.training.train import train

TIMINGS = ("seconds", "images_per_second")
"""Facts about an epoch that differ from run to run."""


class Unfinished(Exception):
    """The run's time limit was reached; the state of this node's work is saved."""


def _named(node: Node) -> dict[str, str]:
    """The paths of a node's files by role; BadInput if they are not named."""
    files = dict(node.files)
    if sources.UNNAMED in files:
        raise BadInput(files[sources.UNNAMED])
    return files


def dataset_node(inputs: NodeInputs) -> NodeOutput:
    """Read the images of a data set from the user's files, or from scikit-learn."""
    spec = inputs.node.spec
    assert isinstance(spec, DatasetSpec)
    named = _named(inputs.node)
    content = sources.read(spec, named)
    splits = content.splits
    places = {str(Path(path).parent) for path in named.values()}
    inputs.note(f"data set in {shown(Path(min(places)))}", *content.notes)
    files = {
        f"{name}.arrow": tensor_file(
            inputs.node, {"pixels": images.pixels, "labels": images.labels}
        )
        for name, images in (("train", splits.train), ("test", splits.test))
    }
    facts = {
        "train_images": len(splits.train),
        "test_images": len(splits.test),
        "test_images_by_class": splits.test.labels.bincount(minlength=spec.classes).tolist(),
    }
    return NodeOutput(files, facts)


def train_node(inputs: NodeInputs) -> NodeOutput:
    """Train a network, from its last saved epoch on; Unfinished at the run's time limit."""
    spec = inputs.node.spec
    assert isinstance(spec, TrainSpec)
    images = inputs.splits(inputs.node.parent("dataset")).train
    manner = _trainable(inputs)
    _note_constant_rate(inputs, spec.recipe)
    backend, digest = inputs.store.backend, inputs.node.digest
    state = begun = partial_state.load(backend, digest)
    if begun is not None:
        before = begun.facts.get("devices", [])
        inputs.devices = list(dict.fromkeys([*before, *inputs.devices]))
    for state in train(
        images, spec, device=inputs.device, tell=inputs.tell, state=begun, manner=manner
    ):
        partial_state.save(backend, digest, state, inputs.devices)
        late = inputs.until is not None and time.time() >= inputs.until
        if late and state.facts["epoch"] < spec.recipe.epochs:
            raise Unfinished
    assert state is not None
    epochs = state.facts["history"]
    # durations differ from run to run: they are facts about it, not part of the content
    history = [{key: epoch[key] for key in epoch if key not in TIMINGS} for epoch in epochs]
    timings = {key: [epoch[key] for epoch in epochs] for key in TIMINGS}
    files: dict[str, Writer] = {
        "weights.safetensors": weights_file(state.weights),
        "history.json": json_file(history),
    }
    facts: dict[str, object] = {**history[-1], "epochs": len(history), "timings": timings}
    if isinstance(spec.network, ForeignNetwork):
        facts |= _counted(untrained(inputs.node), inputs.node)
    return NodeOutput(files, facts)


def _trainable(inputs: NodeInputs) -> Manner:
    """How to train a node's network; BadNetwork if it is not usable, before any time is spent."""
    spec = inputs.node.spec
    assert isinstance(spec, TrainSpec)
    _fits(inputs, untrained(inputs.node))
    # each check gets its own instance, since it may modify it
    inputs.freeze(inputs.node, untrained(inputs.node), "float32")
    with naming(spec.network):
        manner = training_manner(untrained(inputs.node), inputs.probe(inputs.node))
    inputs.note_network(spec.network, *manner.left_out)
    return manner


def _note_constant_rate(inputs: NodeInputs, recipe: Recipe) -> None:
    """Note a schedule that never lowers the learning rate, as with few epochs and no milestones."""
    if recipe.schedule == "steps" and recipe.milestones and recipe.epochs <= recipe.milestones[0]:
        inputs.note(
            "recipe",
            f"the learning rate stays at {recipe.learning_rate:g}, since the first milestone "
            f"({recipe.milestones[0]}) is not before the end of epoch {recipe.epochs}, the last",
        )


def _fits(inputs: NodeInputs, module: nn.Module) -> None:
    """Raise BadNetwork if a foreign network does not fit the data set's images and classes."""
    spec, shape = inputs.node.spec, shape_of(inputs.node)
    assert isinstance(spec, TrainSpec | CheckpointSpec)
    if isinstance(spec.network, ForeignNetwork):
        spec.network.check(module, shape.channels, shape.side, shape.classes)


def checkpoint_node(inputs: NodeInputs) -> NodeOutput:
    """Read pretrained weights from a file, which is downloaded if it has a URL."""
    spec = inputs.node.spec
    assert isinstance(spec, CheckpointSpec)
    files = _named(inputs.node)
    path = Path(files["weights"])
    if "url" in files and not path.exists():
        _download(files["url"], path, spec.sha256)
    writers: dict[str, Writer] = {}
    data = read_whole(path, spec.sha256)
    notes: tuple[str, ...] = ()
    if isinstance(spec.network, Exported):
        for key in ("key_prefix", "weights_key"):
            if getattr(spec, key):
                raise BadInput(f"{key}: a .pt2 file knows its weights; leave it out")
        weights, program = exported.read(data)
        module = spec.network.restored(program, weights, shape_of(inputs.node).channels)
        writers["program.json"] = json_file(program)
    else:
        read = read_checkpoint(data, weights_key=spec.weights_key, key_prefix=spec.key_prefix)
        module = untrained(inputs.node)
        checkpoint = fitted(read, module)
        weights, notes = checkpoint.weights, checkpoint.notes
        load_weights(module, weights)
    _fits(inputs, module)
    frozen = inputs.freeze(inputs.node, module, "float32")
    inputs.note_network(spec.network, *frozen.left_out)
    inputs.note(shown(path), *notes)
    facts = {"weights": sum(weight.numel() for weight in weights.values())}
    if isinstance(spec.network, ForeignNetwork):
        facts |= _counted(module, inputs.node)
    writers["weights.safetensors"] = weights_file(weights)
    return NodeOutput(writers, facts)


def ensemble_node(inputs: NodeInputs) -> NodeOutput:
    """Put the networks of an ensemble's members together."""
    spec = inputs.node.spec
    assert isinstance(spec, EnsembleSpec)
    models = [inputs.node.parent(f"member{number}") for number in range(len(spec.members))]
    module = EnsembleModule([trained(inputs, model) for model in models])
    frozen = inputs.freeze(inputs.node, module, "float32")
    inputs.note_network(spec.network, *frozen.left_out)
    weights = module.state_dict()
    facts = {"weights": sum(weight.numel() for weight in weights.values())}
    if any(isinstance(member, ForeignNetwork) for member in spec.network.members):
        facts |= _counted(module, inputs.node)
    return NodeOutput({"weights.safetensors": weights_file(weights)}, facts)


def _counted(module: nn.Module, model: Node) -> dict[str, int]:
    """Multiplications of a foreign network, counted so that a plan need not run its code."""
    shape = shape_of(model)
    found = counted_multiplications(module, shape.channels, shape.side)
    return {} if found is None else {"multiplications": found}


def _download(url: str, path: Path, sha256: str) -> None:
    """Download to `path`, which appears only when it is complete and has the checksum.

    Raises:
        BadInput: If the download fails.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        torch.hub.download_url_to_file(url, str(path), hash_prefix=sha256, progress=False)
    except (OSError, RuntimeError, ValueError) as error:
        if isinstance(error, HTTPError):
            error.close()  # closes the connection
        reason = scrubbed(str(error), url)
        raise BadInput(
            f"{without_secrets(url)} cannot be downloaded ({reason}): "
            "name the file with --weights instead"
        ) from None

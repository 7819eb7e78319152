"""`pipeline export-weights`: a model's weights as a file, to be used as a checkpoint."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path

import safetensors.torch
import torch
from torch import Tensor

from pipeline.commands.session import Session
from pipeline.grid.graph import Node
from pipeline.grid.nodes import models_behind
from pipeline.problems import BadInput, reason_of, shown, suggestion
from pipeline.store.files import replace_bytes
from pipeline.store.store import Damaged
from tasks.training.recipe import ClassifierSpec


@dataclass(frozen=True)
class Written:
    """A written file of weights: size, SHA-256 and number of values."""

    size_bytes: int
    sha256: str
    weights: int


def export_weights(session: Session, model: str, path: Path, *, half: bool) -> Written:
    """Write a model's weights as safetensors, unchanged or as float16.

    Integers, such as batch counters, keep their type.

    Raises:
        BadInput: If the store does not have the weights, a value does not fit into float16, or the
            file cannot be written.
    """
    node = _model(session, model)
    record = session.record(node)
    if record is None:
        raise BadInput(
            f"the store has no weights of model '{model}': "
            f"pipeline run --grid {session.grid.name} --only model={model}"
        )
    try:
        source = session.store.path(record, "weights.safetensors")
    except Damaged as damaged:
        raise BadInput(str(damaged)) from None
    weights = safetensors.torch.load_file(source)
    if half:
        weights = {name: _halved(name, weight) for name, weight in weights.items()}
    spec = node.spec
    assert isinstance(spec, ClassifierSpec)
    network = json.dumps(spec.network.model_dump(mode="json"), sort_keys=True)
    about = {"model": model, "network": network, "content": record.content}
    data = safetensors.torch.save(weights, metadata=about)
    _write(path, data)
    count = sum(weight.numel() for weight in weights.values())
    return Written(len(data), hashlib.sha256(data).hexdigest(), count)


def _model(session: Session, model: str) -> Node:
    """The model node among the selected cells; BadInput if there is not exactly one."""
    names = {own.model for cell in session.grid.cells for own in cell.models()}
    if model not in names:
        raise BadInput(
            f"no model '{model}' in grid '{session.grid.name}'{suggestion(model, names)}"
        )
    nodes = {
        node
        for cell in session.cells
        for own, node in models_behind(
            cell, session.scores[cell.name].parents[0][1].parent("model")
        )
        if own.model == model
    }
    if len(nodes) != 1:
        how_many = f"{len(nodes)} trainings" if nodes else "none"
        raise BadInput(f"model '{model}': the chosen cells have {how_many}; choose --only seed=N")
    return nodes.pop()


def _halved(name: str, weight: Tensor) -> Tensor:
    if not weight.is_floating_point():
        return weight
    half = weight.to(torch.float16)
    if not half.isfinite().all():
        largest = weight.abs().max().item()
        raise BadInput(f"--half: {name} reaches {largest:.3g}; float16 ends at 65504")
    return half.contiguous()


def _write(path: Path, data: bytes) -> None:
    try:
        replace_bytes(path, data)
    except OSError as error:
        raise BadInput(f"{shown(path)}: cannot be written: {reason_of(error)}") from None

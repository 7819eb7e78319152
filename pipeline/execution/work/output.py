"""The output of a node: its facts, and the writers of its files."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import safetensors.torch
from torch import Tensor

from pipeline.grid.graph import Node
from pipeline.store import arrow
from pipeline.store.store import Writer


@dataclass(frozen=True)
class NodeOutput:
    """Result of a node: writers of its files, and facts to record.

    asking_s: the part of the time in which the network was queried, in seconds.
    """

    files: Mapping[str, Writer]
    facts: Mapping[str, object]
    asking_s: float | None = None


def tensor_file(node: Node, columns: Mapping[str, Tensor]) -> Writer:
    """Writer of an Arrow file of tensors [N, ...] of one length N, with the spec of their node."""
    about = {"spec": node.spec.model_dump(mode="json")}
    return partial(arrow.write_tensors, columns=columns, about=about)


def weights_file(weights: Mapping[str, Tensor]) -> Writer:
    """Writer of a safetensors file."""
    return partial(_write_weights, weights)


def json_file(value: object) -> Writer:
    """Writer of a JSON file."""
    return partial(_write_json, value)


def _write_weights(weights: Mapping[str, Tensor], path: Path) -> None:
    # not `save_file`, whose errors hide the reason of the system
    path.write_bytes(safetensors.torch.save({name: w.contiguous() for name, w in weights.items()}))


def _write_json(value: object, path: Path) -> None:
    path.write_text(json.dumps(value, indent=1, sort_keys=True), encoding="utf-8")

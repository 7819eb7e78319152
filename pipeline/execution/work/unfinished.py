"""The last state of an unfinished training, kept so that a killed one goes on. No artifact.

It lies in the store, so that the training goes on wherever the next worker is.
"""

from __future__ import annotations

import contextlib
import json
from typing import Any

import safetensors.torch
from pydantic import ConfigDict, with_config
from typing_extensions import TypedDict

from pipeline.store.backend import Backend
from pipeline.store.reading import parsed
from tasks.training.train import State


@with_config(ConfigDict(extra="allow"))
class _Facts(TypedDict):
    epoch: int
    history: list[dict[str, Any]]


PARTS = ("weights", "optimizer")


def load(backend: Backend, digest: str) -> State | None:
    """The last whole state of a node, or None where there is none that can be read."""
    folder = f"partial/{digest}"
    try:
        facts = dict(parsed(backend.read(f"{folder}/facts.json"), _Facts))
        parts = [
            safetensors.torch.load(backend.read(f"{folder}/{part}-{facts['epoch']}.safetensors"))
            for part in PARTS
        ]
    except (OSError, ValueError, safetensors.SafetensorError):
        return None
    return State(weights=parts[0], optimizer=parts[1], facts=facts)


def save(backend: Backend, digest: str, state: State) -> None:
    """Tensors first, then the facts that name them, each whole; then what they replace goes."""
    folder = f"partial/{digest}"
    epoch = state.facts["epoch"]
    for part, tensors in zip(PARTS, (state.weights, state.optimizer), strict=True):
        backend.write(f"{folder}/{part}-{epoch}.safetensors", safetensors.torch.save(tensors))
    backend.write(f"{folder}/facts.json", json.dumps(state.facts).encode())
    for entry in list(backend.find(f"{folder}/*.safetensors")):
        if not entry.key.endswith(f"-{epoch}.safetensors"):
            with contextlib.suppress(FileNotFoundError):
                backend.remove(entry.key)


def forget(backend: Backend, digest: str) -> None:
    """Delete what is kept of a node, if anything is."""
    with contextlib.suppress(FileNotFoundError):
        backend.remove(f"partial/{digest}")

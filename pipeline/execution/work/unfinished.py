"""Checkpoints of unfinished trainings, so that an interrupted training can be resumed.

They are kept in the store, where any worker can read them, but are not artifacts.
"""

from __future__ import annotations

import contextlib
import json
from typing import Any, NotRequired

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
    devices: NotRequired[list[str]]


PARTS = ("weights", "optimizer")


def load(backend: Backend, digest: str) -> State | None:
    """The last complete checkpoint of a node; None if there is none, or it is invalid.

    Raises:
        OSError: If it cannot be read: to begin anew would replace it.
    """
    folder = f"partial/{digest}"
    try:
        facts = dict(parsed(backend.read(f"{folder}/facts.json"), _Facts))
        parts = [
            safetensors.torch.load(backend.read(f"{folder}/{part}-{facts['epoch']}.safetensors"))
            for part in PARTS
        ]
    except (FileNotFoundError, ValueError, safetensors.SafetensorError):
        return None
    return State(weights=parts[0], optimizer=parts[1], facts=facts)


def save(backend: Backend, digest: str, state: State, devices: list[str]) -> None:
    """Write a checkpoint: tensors, then the facts that refer to them; delete old ones last.

    devices: names of the devices that the training has run on.
    """
    folder = f"partial/{digest}"
    epoch = state.facts["epoch"]
    for part, tensors in zip(PARTS, (state.weights, state.optimizer), strict=True):
        backend.write(f"{folder}/{part}-{epoch}.safetensors", safetensors.torch.save(tensors))
    backend.write(f"{folder}/facts.json", json.dumps(state.facts | {"devices": devices}).encode())
    for entry in list(backend.find(f"{folder}/*.safetensors")):
        if not entry.key.endswith(f"-{epoch}.safetensors"):
            with contextlib.suppress(FileNotFoundError):
                backend.remove(entry.key)


def forget(backend: Backend, digest: str) -> None:
    """Delete the checkpoints of a node, if there are any."""
    with contextlib.suppress(FileNotFoundError):
        backend.remove(f"partial/{digest}")

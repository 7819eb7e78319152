"""The last state of an unfinished training, kept so that a killed one goes on. No artifact."""

from __future__ import annotations

import json
import os
from pathlib import Path

import safetensors.torch

from tasks.train import State

PARTS = ("weights", "optimizer")


def load(folder: Path) -> State | None:
    """The last whole state, or None where there is none that can be read."""
    try:
        facts = json.loads((folder / "facts.json").read_bytes())
        parts = [
            safetensors.torch.load_file(folder / f"{part}-{facts['epoch']}.safetensors")
            for part in PARTS
        ]
    except (OSError, ValueError, KeyError, TypeError, safetensors.SafetensorError):
        return None
    return State(weights=parts[0], optimizer=parts[1], facts=facts)


def save(folder: Path, state: State) -> None:
    """Tensors first, then the facts that name them, each whole; then what they replace goes."""
    folder.mkdir(parents=True, exist_ok=True)
    epoch = state.facts["epoch"]
    for part, tensors in zip(PARTS, (state.weights, state.optimizer), strict=True):
        # not `save_file`, whose errors hide what the system said
        _replace(folder / f"{part}-{epoch}.safetensors", safetensors.torch.save(tensors))
    _replace(folder / "facts.json", json.dumps(state.facts).encode())
    for path in folder.glob("*.safetensors"):
        if not path.stem.endswith(f"-{epoch}"):
            path.unlink(missing_ok=True)


def _replace(path: Path, data: bytes) -> None:
    draft = path.with_name(f".{path.name}-{os.getpid()}")
    try:
        draft.write_bytes(data)
        draft.replace(path)
    finally:
        draft.unlink(missing_ok=True)

"""Weights from somebody's file into a network, or one line that says why not."""

from __future__ import annotations

import io
import pickle
import re
import warnings
from collections.abc import Mapping, Sequence

import safetensors
import safetensors.torch
import torch
from torch import Tensor, nn


class BadCheckpoint(ValueError):
    """A file of weights that cannot be read, or that does not fit the network."""


def weights_from_bytes(data: bytes, key_prefix: str = "") -> dict[str, Tensor]:
    """The named tensors of a checkpoint file, on the CPU.

    data: a safetensors file, or one of torch.save that holds a dict of tensors, by itself or
    under `state_dict`. Nothing in it is ever executed. key_prefix is stripped from the names
    that start with it. BadCheckpoint where that cannot be done.
    """
    weights = _safetensors(data) if data[8:9] == b"{" else _torch_file(data)
    if not key_prefix:
        return weights
    if not any(name.startswith(key_prefix) for name in weights):
        raise BadCheckpoint(
            f"no weight's name starts with {key_prefix!r}; the names are {_listed(list(weights))}"
        )
    return {name.removeprefix(key_prefix): weight for name, weight in weights.items()}


def load_weights(module: nn.Module, weights: Mapping[str, Tensor]) -> None:
    """Copy weights into a module whose names and shapes are the same, else BadCheckpoint.

    Counts of batches seen by a batch norm, which old files lack, need not be there.
    """
    own = module.state_dict()
    optional = {name for name in own if name.endswith("num_batches_tracked")}
    missing = [name for name in own if name not in weights and name not in optional]
    foreign = [name for name in weights if name not in own]
    misshapen = [
        f"{name} {_shape(weights[name])} for {_shape(tensor)}"
        for name, tensor in own.items()
        if name in weights and weights[name].shape != tensor.shape
    ]
    not_finite = [
        name
        for name, weight in weights.items()
        if weight.is_floating_point() and not weight.isfinite().all()
    ]
    faults = {
        "missing": missing,
        "foreign": foreign,
        "of another shape": misshapen,
        "not finite": not_finite,
    }
    found = [f"{len(names)} {fault} ({_listed(names)})" for fault, names in faults.items() if names]
    if found:
        found += _other_classes(module, weights)
        raise BadCheckpoint("weights do not fit the network: " + "; ".join(found))
    with torch.no_grad():
        for name, tensor in own.items():
            if name in weights:
                tensor.copy_(weights[name])


def _other_classes(module: nn.Module, weights: Mapping[str, Tensor]) -> list[str]:
    """What to say of weights that are of a network for another number of classes."""
    layers = [
        (name, layer) for name, layer in module.named_modules() if isinstance(layer, nn.Linear)
    ]
    if not layers:
        return []
    name, last = layers[-1]
    weight = weights.get(f"{name}.weight")
    if weight is None or weight.ndim != 2 or len(weight) == last.out_features:
        return []
    return [f"the file has {len(weight)} classes and the data set {last.out_features}"]


def _safetensors(data: bytes) -> dict[str, Tensor]:
    try:
        return safetensors.torch.load(data)
    except (safetensors.SafetensorError, KeyError, ValueError, RuntimeError) as error:
        raise BadCheckpoint(f"not a safetensors file: {_first_line(error)}") from error


def _torch_file(data: bytes) -> dict[str, Tensor]:
    try:
        with warnings.catch_warnings():
            # torch warns of pickle protocols that it may not know, then refuses them anyway
            warnings.simplefilter("ignore", UserWarning)
            content = torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        wanted = re.search(r"(?:GLOBAL|global) ['\"]?([\w.]+)", str(error))
        if wanted is None:
            raise BadCheckpoint("neither a safetensors file nor one of torch.save") from error
        raise BadCheckpoint(
            f"the file holds code ({wanted[1]}), which is never run: save its state_dict alone"
        ) from error
    except (RuntimeError, EOFError, ValueError, LookupError, AttributeError, TypeError) as error:
        raise BadCheckpoint(f"not a file of torch.save: {_first_line(error)}") from error
    if isinstance(content, Mapping) and "state_dict" in content:
        content = content["state_dict"]
    if not isinstance(content, Mapping) or not content:
        raise BadCheckpoint(f"expected a dict of tensors, got {type(content).__name__}")
    strange = [str(name) for name, value in content.items() if not isinstance(value, Tensor)]
    if strange:
        raise BadCheckpoint(f"{len(strange)} entries are not tensors ({_listed(strange)})")
    return {str(name): value for name, value in content.items()}


def _listed(names: Sequence[str]) -> str:
    return ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")


def _shape(tensor: Tensor) -> str:
    return "x".join(map(str, tensor.shape)) or "scalar"


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]

"""Loading weights from a file into a network, with a one-line reason where that fails."""

from __future__ import annotations

import io
import pickle
import re
import warnings
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from itertools import takewhile

import safetensors
import safetensors.torch
import torch
from torch import Tensor, nn


class BadCheckpoint(ValueError):
    """A file of weights cannot be read, or does not fit the network."""


PRIMARY = ("state_dict", "model_state_dict", "model", "net", "network")
"""Names under which training programs store the weights in a file, in order of precedence."""
COUNTERS = frozenset({"total_ops", "total_params"})
"""Buffers that profilers such as thop leave beside the weights of each layer."""
FLOATS = frozenset({torch.float16, torch.bfloat16, torch.float32, torch.float64})


@dataclass(frozen=True)
class Checkpoint:
    """The named tensors of a file, on the CPU, and notes on the choices made in reading it."""

    weights: dict[str, Tensor]
    notes: tuple[str, ...] = ()


def weights_from_bytes(data: bytes, key_prefix: str = "") -> dict[str, Tensor]:
    """Return the named tensors of a checkpoint file, on the CPU; see `read_checkpoint`."""
    return read_checkpoint(data, key_prefix=key_prefix).weights


def read_checkpoint(
    data: bytes, *, weights_key: str | None = None, key_prefix: str = ""
) -> Checkpoint:
    """Read a safetensors file, or a `torch.save` file that holds a dict of tensors.

    Nothing in the file is ever executed.

    Args:
        data: Content of the file.
        weights_key: Entry of the dict that holds the weights. By default `state_dict`, another of
            `PRIMARY`, the dict itself, or its only entry of tensors.
        key_prefix: Prefix to strip from the names that have it.

    Raises:
        BadCheckpoint: If the file cannot be read, or if it is not clear which entry is meant.
    """
    if data[8:9] == b"{":
        if weights_key is not None:
            raise BadCheckpoint(f"a safetensors file has no entry {weights_key!r}, only weights")
        read = Checkpoint(_safetensors(data))
    else:
        read = _entry(_torch_file(data), weights_key)
    weights = read.weights
    if not key_prefix:
        return read
    if not any(name.startswith(key_prefix) for name in weights):
        raise BadCheckpoint(
            f"no weight's name starts with {key_prefix!r}; the names are {_listed(list(weights))}"
        )
    stripped = {name.removeprefix(key_prefix): weight for name, weight in weights.items()}
    if len(stripped) < len(weights):
        raise BadCheckpoint(f"without {key_prefix!r} two weights have one name")
    return Checkpoint(stripped, read.notes)


def fitted(checkpoint: Checkpoint, module: nn.Module) -> Checkpoint:
    """Return the weights under the module's own names where the match is certain, with notes.

    A prefix of all names is stripped if the names then are the module's, and counters of profilers
    are left out. `load_weights` refuses what still does not fit.
    """
    own = module.state_dict().keys()
    weights, notes = dict(checkpoint.weights), list(checkpoint.notes)
    counters = [name for name in weights if _last(name) in COUNTERS and name not in own]
    if counters:
        notes.append(f"{len(counters)} counters of a profiler were left out ({_listed(counters)})")
        weights = {name: weight for name, weight in weights.items() if name not in counters}
    prefix = _common_prefix(list(weights))
    while prefix:
        stripped = {name.removeprefix(prefix): weight for name, weight in weights.items()}
        if stripped.keys() <= own and not _missing(own, stripped):
            notes.append(f"every weight's name starts with {prefix!r}, which was stripped")
            weights = stripped
            break
        prefix = prefix[: prefix[:-1].rfind(".") + 1]
    return Checkpoint(weights, tuple(notes))


def load_weights(module: nn.Module, weights: Mapping[str, Tensor]) -> None:
    """Copy weights into a module with the same names and shapes.

    Floats of 16, 32 or 64 bits are accepted for floats, integers for integers; quantised weights
    are refused. `num_batches_tracked` of batch norms, absent in old files, may be missing.

    Raises:
        BadCheckpoint: If names, shapes or types differ, or if values are not finite.
    """
    own = module.state_dict()
    missing = _missing(own, weights)
    foreign = [name for name in weights if name not in own]
    misshapen = [
        f"{name} {_shape(weights[name])} for {_shape(tensor)}"
        for name, tensor in own.items()
        if name in weights and weights[name].shape != tensor.shape
    ]
    quantised = [
        f"{name} {_dtype(weight)}" for name, weight in weights.items() if weight.is_quantized
    ]
    mistyped = [
        f"{name} {_dtype(weights[name])} for {_dtype(tensor)}"
        for name, tensor in own.items()
        if name in weights and not weights[name].is_quantized and not _takes(tensor, weights[name])
    ]
    not_finite = [
        name
        for name, weight in weights.items()
        if weight.dtype in FLOATS and _is_plain(weight) and not weight.isfinite().all()
    ]
    faults = {
        "missing": missing,
        "foreign": foreign,
        "of another shape": misshapen,
        "quantised": quantised,
        "of another type": mistyped,
        "not finite": not_finite,
    }
    found = [f"{len(names)} {fault} ({_listed(names)})" for fault, names in faults.items() if names]
    if found:
        found += _other_classes(module, weights) + _other_prefix(own, weights)
        raise BadCheckpoint("weights do not fit the network: " + "; ".join(found))
    with torch.no_grad():
        for name, tensor in own.items():
            if name in weights:
                tensor.copy_(weights[name])


def _missing(own: Collection[str], weights: Collection[str]) -> list[str]:
    return [
        name for name in own if name not in weights and not name.endswith("num_batches_tracked")
    ]


def _takes(tensor: Tensor, weight: Tensor) -> bool:
    """Return whether a weight can be copied into the module's tensor with its meaning."""
    if not _is_plain(weight):
        return False
    if tensor.is_floating_point():
        return weight.dtype in FLOATS
    return weight.is_complex() == tensor.is_complex() and not weight.is_floating_point()


def _is_plain(weight: Tensor) -> bool:
    return weight.layout == torch.strided and not weight.is_meta


def _other_prefix(own: Collection[str], weights: Collection[str]) -> list[str]:
    """Return a hint at a prefix under which all missing weights are in the file."""
    missing = _missing(own, weights)
    if not missing:
        return []
    prefixes = {name.removesuffix(missing[0]) for name in weights if name.endswith(missing[0])}
    fitting = [
        prefix
        for prefix in prefixes
        if prefix.endswith(".") and all(f"{prefix}{name}" in weights for name in missing)
    ]
    return [f"is key_prefix: {prefix!r} meant?" for prefix in sorted(fitting)[:1]]


def _common_prefix(names: Sequence[str]) -> str:
    """Return the prefix of all names that ends in a dot, such as `model.module.`, or ""."""
    parts = [name.split(".")[:-1] for name in names]
    common = takewhile(lambda each: len(set(each)) == 1, zip(*parts, strict=False))
    return "".join(f"{part[0]}." for part in common)


def _last(name: str) -> str:
    return name.rpartition(".")[2]


def _dtype(tensor: Tensor) -> str:
    how = "meta " if tensor.is_meta else "" if _is_plain(tensor) else "sparse "
    return how + str(tensor.dtype).removeprefix("torch.")


def _other_classes(module: nn.Module, weights: Mapping[str, Tensor]) -> list[str]:
    """Return a hint if the weights are of a network for another number of classes."""
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


def _torch_file(data: bytes) -> Mapping[object, object]:
    try:
        with warnings.catch_warnings():
            # torch warns of unknown pickle protocols, then refuses them anyway
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
    if not isinstance(content, Mapping) or not content:
        raise BadCheckpoint(f"expected a dict of tensors, got {type(content).__name__}")
    return content


def _entry(content: Mapping[object, object], key: str | None) -> Checkpoint:
    """Return the weights in a file's dict, and notes on the choice."""
    inner = {str(name): value for name, value in content.items() if isinstance(value, Mapping)}
    sets = [name for name, value in inner.items() if _is_weights(value) or name in PRIMARY]
    loose = any(isinstance(value, Tensor) for value in content.values())
    if key is not None:
        if key not in inner:
            raise BadCheckpoint(f"the file has no weights under {key!r}{_choice(sets)}")
        return Checkpoint(_tensors(inner[key]), (f"the weights are those under {key!r}",))
    primary = [name for name in PRIMARY if name in sets]
    if "state_dict" in primary:
        primary = ["state_dict"]
    if not primary and not loose:
        primary = sets
    if len(primary) > 1:
        raise BadCheckpoint(f"it is not clear which weights are meant{_choice(primary)}")
    if not primary:
        return Checkpoint(_tensors(content))
    [taken] = primary
    others = [repr(name) for name in sets if name != taken]
    notes = []
    if others:
        notes.append(
            f"the weights are those under {taken!r}; the file also has {', '.join(others)}, "
            "which weights_key names"
        )
    elif taken != "state_dict":
        notes.append(f"the weights are those under {taken!r}")
    return Checkpoint(_tensors(inner[taken]), tuple(notes))


def _is_weights(value: Mapping[object, object]) -> bool:
    return bool(value) and all(isinstance(each, Tensor) for each in value.values())


def _choice(sets: Sequence[str]) -> str:
    return f"; choose with weights_key: {', '.join(sets)}" if sets else ""


def _tensors(content: Mapping[object, object]) -> dict[str, Tensor]:
    if not content:
        raise BadCheckpoint("expected a dict of tensors, got an empty one")
    strange = [str(name) for name, value in content.items() if not isinstance(value, Tensor)]
    if strange:
        raise BadCheckpoint(f"entries that are not tensors: {len(strange)} ({_listed(strange)})")
    return {str(name): value for name, value in content.items() if isinstance(value, Tensor)}


def _listed(names: Sequence[str]) -> str:
    return ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")


def _shape(tensor: Tensor) -> str:
    return "x".join(map(str, tensor.shape)) or "scalar"


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]

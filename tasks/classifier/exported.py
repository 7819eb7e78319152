"""Reads files of `torch.export` without running anything in them.

torch's own loader unpickles parts of such a file. Here the program is read as data: operations of
`tasks.classifier.pure_operators` on tensors, and weights that are plain bytes.
`tasks.classifier.program` validates the program, here and wherever it is read again.
"""

from __future__ import annotations

import io
import json
import zipfile
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from tasks.classifier.checkpoint import BadCheckpoint
from tasks.classifier.program import DTYPES, Program, operations

UNREADABLE = (
    zipfile.BadZipFile, EOFError, LookupError, TypeError, ValueError, AttributeError,
    OverflowError, RuntimeError,
)  # fmt: skip
"""What reading a file of another kind may raise; RecursionError is a RuntimeError."""


def read(data: bytes) -> tuple[dict[str, Tensor], Program]:
    """Return the named weights of a `.pt2` file, and its program in a form that JSON can hold.

    The program has `pixels` and `logits`, names of values; `weights`, which maps values to names of
    weights; and `steps`, each an operation, its arguments and the values that it returns.

    Raises:
        BadCheckpoint: If the file is no such file, or `tasks.classifier.program.operations` refuses
            its program.
    """
    try:
        archive = zipfile.ZipFile(io.BytesIO(data))
        packed = [member.filename for member in archive.infolist() if member.compress_type]
        if packed:
            raise BadCheckpoint(
                f"{packed[0]} of the file is compressed; torch.export packs nothing"
            )
        root = archive.namelist()[0].partition("/")[0]
        model = json.loads(archive.read(f"{root}/models/model.json"))["graph_module"]
        weights = {
            name: tensor
            for kind in ("weights", "constants")
            for name, tensor in _tensors(archive, root, kind).items()
        }
        program = _program(model)
    except UNREADABLE as error:
        if isinstance(error, BadCheckpoint):
            raise
        raise BadCheckpoint(
            f"not a file of torch.export: {type(error).__name__}: {error}"
        ) from None
    operations(program)
    absent = [name for name in program["weights"].values() if name not in weights]
    if absent:
        raise BadCheckpoint(f"the file lacks weights of its program ({', '.join(absent[:3])})")
    return {name: weights[name] for name in program["weights"].values()}, program


def _tensors(archive: zipfile.ZipFile, root: str, kind: str) -> dict[str, Tensor]:
    found = {}
    path = f"{root}/data/{kind}/model_{kind}_config.json"
    for name, entry in json.loads(archive.read(path))["config"].items():
        if entry["use_pickle"]:
            raise BadCheckpoint(f"the file holds pickled code ({name}), which is never run")
        about = entry["tensor_meta"]
        shape = [size["as_int"] for size in about["sizes"]]
        dtype = DTYPES[about["dtype"]]
        content = bytearray(archive.read(f"{root}/data/{kind}/{entry['path_name']}"))
        flat = torch.frombuffer(content, dtype=dtype) if content else torch.empty(0, dtype=dtype)
        strides = [stride["as_int"] for stride in about["strides"]]
        offset = about["storage_offset"]["as_int"]
        found[name] = flat.as_strided(shape, strides, offset).contiguous()
    return found


def _program(model: Mapping[str, Any]) -> Program:
    weights: dict[str, str] = {}
    pixels: list[str] = []
    for spec in model["signature"]["input_specs"]:
        [(kind, value)] = spec.items()
        if kind == "user_input":
            pixels.append(value["arg"]["as_tensor"]["name"])
        elif f"{kind}_name" in value:
            weights[value["arg"]["name"]] = value[f"{kind}_name"]
        else:
            raise BadCheckpoint(f"the exported program takes a {kind}, which is not read here")
    outputs = model["signature"]["output_specs"]
    logits = [
        spec["user_output"]["arg"]["as_tensor"]["name"] for spec in outputs if "user_output" in spec
    ]
    if len(pixels) != 1 or len(logits) != 1 or len(outputs) != 1:
        raise BadCheckpoint("the exported program must take one tensor and give one")
    steps = [_step(node) for node in model["graph"]["nodes"]]
    return {"pixels": pixels[0], "logits": logits[0], "weights": weights, "steps": steps}


def _step(node: Mapping[str, Any]) -> dict[str, Any]:
    positional, named = [], {}
    for given in node["inputs"]:
        [(kind, value)] = given["arg"].items()
        if kind == "as_layout" and value == STRIDED and given["kind"] != 1:
            continue
        argument = _argument(node["target"], given["name"], kind, value)
        if given["kind"] == 1:
            positional.append(argument)
        else:
            named[given["name"]] = argument
    outputs = [_names(output) for output in node["outputs"]]
    return {"do": node["target"], "take": positional, "named": named, "give": outputs}


def _argument(target: str, name: str, kind: str, value: Any) -> dict[str, Any]:
    """Return an argument as a mapping of its type to its content.

    The types are `value`, `of` (the name of a value), `list`, `type`, `memory` and `device`.
    """
    written = WRITTEN.get(kind)
    if written is None:
        raise BadCheckpoint(f"{target} of the exported program has a {name} that is not read here")
    return written(value)


def _plain(value: object) -> dict[str, Any]:
    return {"value": value}


def _float(value: float | str) -> dict[str, Any]:
    """Convert a float; the format writes one that is not finite as a word."""
    return {"value": float(value) if value in {"Infinity", "-Infinity", "NaN"} else value}


def _of(value: Mapping[str, Any]) -> dict[str, Any]:
    """Convert a tensor, a size or None."""
    for key in ("name", "as_name"):
        if key in value:
            return {"of": value[key]}
    if "as_tensor" in value:
        return {"of": value["as_tensor"]["name"]}
    return {"value": None if "as_none" in value else value.get("as_int", value.get("as_float"))}


def _list(value: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    return {"list": [_of(each) for each in value]}


PLAIN = ("as_int", "as_bool", "as_string", "as_ints", "as_floats", "as_bools")
SINGLE = ("as_tensor", "as_sym_int", "as_sym_float")
SEVERAL = ("as_tensors", "as_optional_tensors", "as_sym_ints")
STRIDED = 7
"""The format's number of torch's default layout, the only one that is read here."""
WRITTEN: Mapping[str, Callable[[Any], dict[str, Any]]] = {
    **dict.fromkeys(PLAIN, _plain),
    **dict.fromkeys(SINGLE, _of),
    **dict.fromkeys(SEVERAL, _list),
    "as_float": _float,
    "as_none": lambda _: {"value": None},
    "as_scalar_type": lambda value: {"type": value},
    "as_memory_format": lambda value: {"memory": value},
    "as_device": lambda _: {"device": True},
}
"""Converters of the kinds of arguments."""


def _names(output: Mapping[str, Any]) -> str | list[str] | None:
    [(kind, value)] = output.items()
    match kind:
        case "as_tensor":
            return str(value["name"])
        case "as_sym_int" | "as_sym_float" | "as_sym_bool":
            return str(value["as_name"])
        case "as_tensors":
            return [str(each["name"]) for each in value]
    return None

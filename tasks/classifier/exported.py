"""Reading a file of torch.export without running anything that is in it.

torch's own loader unpickles parts of such a file. Here the program is read as data: a list of
operations on tensors, of those that torch itself calls `aten`, and weights that are plain bytes.
"""

from __future__ import annotations

import io
import json
import operator
import re
import zipfile
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch._ops import OpOverload

from tasks.classifier.checkpoint import BadCheckpoint

DTYPES = {
    1: torch.uint8, 2: torch.int8, 3: torch.int16, 4: torch.int32, 5: torch.int64,
    6: torch.float16, 7: torch.float32, 8: torch.float64, 12: torch.bool, 13: torch.bfloat16,
}  # fmt: skip
"""The format's numbers of types."""
ARITHMETIC: Mapping[str, Callable[..., Any]] = {
    f"_operator.{name}": getattr(operator, name)
    for name in ("add", "sub", "mul", "floordiv", "truediv", "mod", "neg", "getitem")
}
"""What sizes are worked out with."""
WORDS = frozenset({"approximate", "mode", "padding", "padding_mode", "rounding_mode"})
"""Arguments that may be words; an operation on files would need the name of one."""

Program = dict[str, Any]


def read(data: bytes) -> tuple[dict[str, Tensor], Program]:
    """The named weights of a `.pt2` file, and its program as JSON can hold it.

    program: `pixels` and `logits`, names of values; `weights`, values that are weights, by the
    weights' names; `steps`, each an operation, its arguments and the values that it gives.
    BadCheckpoint where the file is no such file, or does what is not understood here.
    """
    try:
        archive = zipfile.ZipFile(io.BytesIO(data))
        root = archive.namelist()[0].partition("/")[0]
        model = json.loads(archive.read(f"{root}/models/model.json"))["graph_module"]
        weights = {
            name: tensor
            for kind in ("weights", "constants")
            for name, tensor in _tensors(archive, root, kind).items()
        }
        program = _program(model)
    except (zipfile.BadZipFile, KeyError, IndexError, TypeError, ValueError, RuntimeError) as error:
        if isinstance(error, BadCheckpoint):
            raise
        raise BadCheckpoint(
            f"not a file of torch.export: {type(error).__name__}: {error}"
        ) from None
    absent = [name for name in program["weights"].values() if name not in weights]
    if absent:
        raise BadCheckpoint(f"the file lacks weights of its program ({', '.join(absent[:3])})")
    return {name: weights[name] for name in program["weights"].values()}, program


def operation(name: str) -> Callable[..., Any]:
    """The function that an operation's name stands for; BadCheckpoint for any other name."""
    if name in ARITHMETIC:
        return ARITHMETIC[name]
    match = re.fullmatch(r"torch\.ops\.aten\.([a-z]\w*)\.(\w+)", name)
    packet = getattr(torch.ops.aten, match[1], None) if match else None
    found = getattr(packet, match[2], None) if match and packet is not None else None
    if not isinstance(found, OpOverload):
        raise BadCheckpoint(f"the exported program uses {name}, which is not run here")
    return found


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
    operation(node["target"])
    positional, named = [], {}
    for given in node["inputs"]:
        argument = _argument(node["target"], given["name"], given["arg"])
        if given["kind"] == 1:
            positional.append(argument)
        else:
            named[given["name"]] = argument
    outputs = [_names(output) for output in node["outputs"]]
    return {"do": node["target"], "take": positional, "named": named, "give": outputs}


def _argument(target: str, name: str, arg: Mapping[str, Any]) -> dict[str, Any]:
    """One of `value`, `of` (the name of a value), `list`, `type` and `device`, with what it is."""
    [(kind, value)] = arg.items()
    if name in {"train", "training"} and value is True:
        raise BadCheckpoint("the program was exported in train mode; call eval() before exporting")
    written = WRITTEN.get(kind)
    if written is None or (kind == "as_string" and name not in WORDS):
        raise BadCheckpoint(f"{target} of the exported program has a {name} that is not read here")
    return written(value)


def _plain(value: object) -> dict[str, Any]:
    return {"value": value}


def _of(value: Mapping[str, Any]) -> dict[str, Any]:
    """A tensor, a size, or nothing."""
    for key in ("name", "as_name"):
        if key in value:
            return {"of": value[key]}
    if "as_tensor" in value:
        return {"of": value["as_tensor"]["name"]}
    return {"value": None if "as_none" in value else value.get("as_int", value.get("as_float"))}


def _list(value: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    return {"list": [_of(each) for each in value]}


PLAIN = ("as_int", "as_float", "as_bool", "as_string", "as_ints", "as_floats", "as_bools")
SINGLE = ("as_tensor", "as_sym_int", "as_sym_float")
SEVERAL = ("as_tensors", "as_optional_tensors", "as_sym_ints")
WRITTEN: Mapping[str, Callable[[Any], dict[str, Any]]] = {
    **dict.fromkeys(PLAIN, _plain),
    **dict.fromkeys(SINGLE, _of),
    **dict.fromkeys(SEVERAL, _list),
    "as_none": lambda _: {"value": None},
    "as_scalar_type": lambda value: {"type": value},
    "as_device": lambda _: {"device": True},
}
"""How each kind of argument is written."""


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

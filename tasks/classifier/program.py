"""The program of an exported network, and its validation before it runs.

Anybody may have written a program: it comes from a `.pt2` file, or from a store that somebody else
filled. It may use only operators of `tasks.classifier.pure_operators`, with arguments of the types
in their schemas, and write only to memory of its own.
"""

from __future__ import annotations

import operator
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from pydantic import BaseModel, ConfigDict, ValidationError
from torch._ops import OpOverload

from tasks.classifier.checkpoint import BadCheckpoint
from tasks.classifier.pure_operators import SWITCHES, Impure, in_place, schema, shares, word_fits
from tasks.classifier.pure_operators import operator as pure

DTYPES = {
    1: torch.uint8, 2: torch.int8, 3: torch.int16, 4: torch.int32, 5: torch.int64,
    6: torch.float16, 7: torch.float32, 8: torch.float64, 12: torch.bool, 13: torch.bfloat16,
}  # fmt: skip
"""The format's numbers of dtypes."""
MEMORY_FORMATS = {
    1: torch.contiguous_format, 2: torch.channels_last, 3: torch.channels_last_3d,
    4: torch.preserve_format,
}  # fmt: skip
"""The format's numbers of memory formats."""
LARGEST = 2**63
"""Bound of sizes, as in torch."""

Program = dict[str, Any]
Operation = Callable[..., Any]
Argument = dict[str, Any]
Sort = Literal["tensor", "tensors", "number"]
RETURNS: Mapping[str, Sort] = {"Tensor": "tensor", "List[Tensor]": "tensors", "int": "number"}
NONE: Argument = {"value": None}
IN_TRAIN_MODE = "the program was exported in train mode; call eval() before exporting"
COUNTER = "num_batches_tracked"
"""Name of a batch norm's counter, which a program exported in train mode increments."""
WEIGHT_NAME = re.compile(r"\w+(\.\w+)*", re.ASCII)


def _bounded(compute: Callable[..., Any]) -> Operation:
    def size(*values: float) -> float:
        found: float = compute(*values)
        if abs(found) >= LARGEST:
            raise ValueError(f"a size of the exported program is {LARGEST} or more")
        return found

    return size


ARITHMETIC: Mapping[str, Operation] = {
    f"_operator.{name}": _bounded(getattr(operator, name))
    for name in ("add", "sub", "mul", "floordiv", "truediv", "mod", "neg")
}
"""Functions that compute sizes."""


class _Step(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)

    do: str
    take: list[Argument]
    named: dict[str, Argument]
    give: list[str | list[str] | None]


class _Program(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)

    pixels: str
    logits: str
    weights: dict[str, str]
    steps: list[_Step]


@dataclass(frozen=True)
class _Value:
    """A value of the program. foreign: it may share memory with the pixels or a weight."""

    sort: Sort
    foreign: bool = False


def operations(program: object) -> list[Operation]:
    """Return the function of each step of a program, after validation of the whole program.

    Args:
        program: As returned by `tasks.classifier.exported.read`, or read from a store.

    Raises:
        BadCheckpoint: If it is not such a program, or if it does anything but compute.
    """
    try:
        judged = _Program.model_validate(program)
    except (ValidationError, RecursionError) as error:
        where = ""
        if isinstance(error, ValidationError):
            first = error.errors(include_url=False, include_input=False)[0]
            where = f": {'.'.join(map(str, first['loc']))}: {first['msg'].lower()}"
        raise BadCheckpoint(f"no exported program{where}"[:200]) from None
    for name in judged.weights.values():
        if not WEIGHT_NAME.fullmatch(name):
            raise BadCheckpoint(f"the exported program has a weight named {name[:60]!r}")
    values = {name: _Value("tensor", foreign=True) for name in (*judged.weights, judged.pixels)}
    found = [_judged(step, values) for step in judged.steps]
    if values.get(judged.logits, _Value("number")).sort != "tensor":
        raise BadCheckpoint(f"the exported program gives no tensor {judged.logits[:60]!r}")
    return found


def _judged(step: _Step, values: dict[str, _Value]) -> Operation:
    """Return a step's function, and add the values that it returns to `values`."""
    for name in _read(step):
        if name not in values:
            raise BadCheckpoint(
                f"{step.do[:60]} of the exported program takes {name[:60]!r}, which nothing gives"
            )
    if step.do in ARITHMETIC:
        for place, argument in enumerate(step.take):
            if not _is_number(argument, values):
                raise _misfit(step, f"argument {place + 1}")
        if step.named:
            raise _misfit(step, next(iter(step.named)))
        _give(step, ["number"], values, foreign=False)
        return ARITHMETIC[step.do]
    try:
        found = pure(step.do)
    except Impure as error:
        raise BadCheckpoint(f"the exported program {error}") from None
    bound = dict(_bound(step, found))
    _check_types(step, found, bound, values)
    _check_state(step, found, bound, values)
    sorts = [RETURNS.get(str(each.type)) for each in schema(found).returns]
    taken = (values[name] for name in _read(step))
    foreign = shares(found) and any(value.foreign for value in taken)
    _give(step, sorts, values, foreign=foreign and not in_place(found))
    return found


def _check_types(
    step: _Step, found: OpOverload, bound: Mapping[str, Argument], values: Mapping[str, _Value]
) -> None:
    for argument in schema(found).arguments:
        given = bound.get(argument.name)
        if given is None:
            if not argument.has_default_value():
                raise BadCheckpoint(f"{step.do} of the exported program lacks its {argument.name}")
        elif not _fits(argument, given, values):
            raise _misfit(step, argument.name)


def _bound(step: _Step, found: OpOverload) -> Iterator[tuple[str, Argument]]:
    """Yield the arguments of a step by their names in the schema."""
    arguments = schema(found).arguments
    places = [argument.name for argument in arguments if not argument.kwarg_only]
    if len(step.take) > len(places):
        raise _misfit(step, f"argument {len(places) + 1}")
    yield from zip(places, step.take, strict=False)
    free = {argument.name for argument in arguments} - {*places[: len(step.take)]}
    for name, argument in step.named.items():
        if name not in free:
            raise _misfit(step, name)
        yield name, argument


def _check_state(
    step: _Step, found: OpOverload, bound: Mapping[str, Argument], values: Mapping[str, _Value]
) -> None:
    """Refuse writes to memory that is not the program's own, and random draws."""
    if any(bound[name] != {"value": False} for name in SWITCHES & bound.keys()):
        raise BadCheckpoint(IN_TRAIN_MODE)
    if bound.get("dropout_p", {"value": 0.0}) != {"value": 0.0}:
        raise BadCheckpoint(f"{step.do} of the exported program drops at random")
    if schema(found).name == "aten::instance_norm":
        for name in ("running_mean", "running_var"):
            if bound[name] != NONE:
                raise BadCheckpoint(f"{step.do} of the exported program keeps statistics")
    if in_place(found):
        target = bound[schema(found).arguments[0].name]
        if str(target.get("of")).endswith(COUNTER):
            raise BadCheckpoint(IN_TRAIN_MODE)
        if "of" not in target or values[target["of"]].foreign:
            raise BadCheckpoint(
                f"{step.do} of the exported program writes to its input or to a weight"
            )


def _give(
    step: _Step, sorts: Sequence[Sort | None], values: dict[str, _Value], *, foreign: bool
) -> None:
    if None in sorts or len(step.give) != len(sorts):
        raise BadCheckpoint(f"{step.do} of the exported program gives what is not read here")
    for names, sort in zip(step.give, sorts, strict=True):
        if names is None:
            continue
        several = isinstance(names, list)
        if several != (sort == "tensors"):
            raise BadCheckpoint(f"{step.do} of the exported program gives what is not read here")
        for name in names if isinstance(names, list) else (names,):
            if name in values:
                raise BadCheckpoint(f"the exported program gives {name[:60]!r} twice")
            assert sort is not None
            values[name] = _Value("tensor" if several else sort, foreign)


def _read(step: _Step) -> Iterator[str]:
    """Yield the names of the values that a step takes."""
    for argument in (*step.take, *step.named.values()):
        inner = argument.get("list")
        for each in (argument, *(inner if isinstance(inner, list) else ())):
            if isinstance(each, dict) and "of" in each:
                yield str(each["of"])


def _fits(argument: Any, given: Argument, values: Mapping[str, _Value]) -> bool:
    """Return whether an argument has the type of the schema."""
    wanted = str(argument.real_type)
    if wanted.startswith("Optional["):
        if given == NONE:
            return True
        wanted = wanted.removeprefix("Optional[").removesuffix("]")
    if len(given) != 1:
        return False
    if wanted == "str":
        word = given.get("value")
        return isinstance(word, str) and word_fits(argument.name, word)
    return wanted in FITS and FITS[wanted](given, values)


def _is_number(given: object, values: Mapping[str, _Value], *, whole: bool = False) -> bool:
    types = {int} if whole else {int, float}
    return _is_value(given, *types) or _is_of(given, values, "number")


def _is_scalar(given: object, values: Mapping[str, _Value]) -> bool:
    return _is_value(given, bool) or _is_number(given, values)


def _is_value(given: object, *types: type) -> bool:
    """Return whether the argument is a constant of exactly one of these types."""
    return isinstance(given, dict) and given.keys() == {"value"} and type(given["value"]) in types


def _is_of(given: object, values: Mapping[str, _Value], sort: Sort) -> bool:
    if not isinstance(given, dict) or given.keys() != {"of"}:
        return False
    found = values.get(given["of"]) if isinstance(given["of"], str) else None
    return found is not None and found.sort == sort


def _is_key(number: object, known: Mapping[int, object]) -> bool:
    return type(number) is int and number in known


def _all_values(given: Argument, *types: type) -> bool:
    inner = given.get("value")
    return isinstance(inner, list) and all(type(each) in types for each in inner)


def _all_listed(given: Argument, fits: Callable[[object], bool]) -> bool:
    inner = given.get("list")
    return isinstance(inner, list) and all(map(fits, inner))


def _whole_numbers(given: Argument, values: Mapping[str, _Value]) -> bool:
    """Return whether it is a list of integers or, as torch allows, one integer for all."""
    return (
        _all_values(given, int)
        or _is_number(given, values, whole=True)
        or _all_listed(given, lambda each: _is_number(each, values, whole=True))
    )


FITS: Mapping[str, Callable[[Argument, Mapping[str, _Value]], bool]] = {
    # a number may stand for a zero-dimensional tensor
    "Tensor": lambda given, values: _is_of(given, values, "tensor") or _is_scalar(given, values),
    "List[Tensor]": lambda given, values: _all_listed(
        given, lambda each: _is_of(each, values, "tensor")
    ),
    "List[Optional[Tensor]]": lambda given, values: _all_listed(
        given, lambda each: each == NONE or _is_of(each, values, "tensor")
    ),
    "number": _is_scalar,
    "float": _is_number,
    "int": lambda given, values: _is_number(given, values, whole=True),
    "bool": lambda given, _: _is_value(given, bool),
    "List[int]": _whole_numbers,
    "List[float]": lambda given, _: _all_values(given, int, float),
    "List[bool]": lambda given, _: _all_values(given, bool),
    "ScalarType": lambda given, _: _is_key(given.get("type"), DTYPES),
    "MemoryFormat": lambda given, _: _is_key(given.get("memory"), MEMORY_FORMATS),
    "Device": lambda given, _: given.get("device") is True,
}
"""Tests of arguments, by types of a schema."""


def _misfit(step: _Step, name: str) -> BadCheckpoint:
    return BadCheckpoint(
        f"{step.do[:60]} of the exported program has a {name[:40]} that is not read here"
    )

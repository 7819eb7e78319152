"""Generates `configs/README.md`, the reference of all keys of YAML files, from their classes.

The description of a key is the string below its field, or `key: description` in the docstring of
its class.
"""

from __future__ import annotations

import ast
import inspect
import re
import types
from collections.abc import Iterator
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from annotated_types import Ge, Gt, Le, Lt
from pydantic import BaseModel
from pydantic_core import PydanticUndefined

from pipeline.catalogue import claims, devices, entries, paper
from pipeline.execution import settings
from tasks import registry
from tasks.attacks.adaptive import Climbs
from tasks.registry import Family
from tasks.specs import Kind
from tasks.training.recipe import InnerAttack, Recipe

HEAD = """# Every key of the files in this folder

Written by `pipeline reference`; a test compares it with the code. A file's name is the name of
what it holds. `extends: NAME` starts from another file of the same folder; what it does not
repeat stays. Unknown keys are refused, and so are numbers outside the bounds below, and forms
that YAML 1.1 and YAML 1.2 read differently: `010` (8 or 10), `1:30` (90 or a text), `yes` (true
or a text), `1_000` and `1e5`. An attack in the norm `linf` has an epsilon of 255 at most; a label
has 200 printable characters at most; a file has 1 MiB and 100,000 values at most.

Perturbations are in 1/255 of the pixel range; one below 1 is written with its unit, `0.5/255`,
since `0.03` is meant for 8 more often than not. Lengths called `_px` are in pixels, angles called
`_deg` in degrees. Attacks of kind `art`, `foolbox` and `torchattacks` and networks of kind `timm`
need the library, which the extra of that name installs:
`pip install 'test-time-defense-bench[art]'`.
"""
SHORT: dict[object, str] = {
    str: "text",
    bool: "`true` or `false`",
    int: "whole number",
    float: "number",
    object: "anything",
}
HIDDEN = frozenset({"kind", "source"})
"""Keys that are explained in the text around a table, or that the program sets itself."""


def reference() -> str:
    """The text of the reference."""
    parts = [HEAD]
    for title, said, classes in _sections():
        parts.append(f"## {title}\n\n{said}\n")
        parts.extend(_part(name, cls) for name, cls in classes)
    return "\n".join(parts)


def _sections() -> Iterator[tuple[str, str, list[tuple[str, type[BaseModel]]]]]:
    own = "or a Python file, `jpeg.py` (`jpeg.py:Class` where it has several)"
    installed = "or `package.module:Class`, or a name that an installed package offers"
    yield (
        "grids/",
        "Which cells are computed and how tables lay them out.",
        [
            ("", entries.GridEntry),
            ("one of `tables`", entries.TableEntry),
            ("one of `attacks` or `defenses` with other parameters", entries.VariantEntry),
            ("`figure`", entries.FigureEntry),
            ("one of `rules`", entries.RuleEntry),
            ("`where`", entries.Where),
        ],
    )
    yield (
        "datasets/",
        "Images and their labels; `--data NAME=FOLDER` says where they are.",
        [("", entries.DatasetEntry)],
    )
    yield (
        "models/",
        "A network on a data set, trained or loaded.",
        [
            ("", entries.ModelEntry),
            ("`checkpoint`", entries.CheckpointEntry),
            *((f"`network` of kind `{kind}`", cls) for kind, cls in _kinds("networks")),
        ],
    )
    yield "recipes/", "How a network is trained.", [("", Recipe), ("`inner`", InnerAttack)]
    yield (
        "attacks/",
        f"`kind` is one of these, {own}, {installed}.",
        [
            *((f"`kind: {kind}`", cls) for kind, cls in _kinds("attacks")),
            ("one of an adaptive attack's `cheaper`", Climbs),
            ("any of them", entries.AttackNote),
        ],
    )
    yield (
        "defenses/",
        f"`kind` is one of these, {own}, {installed}.",
        [(f"`kind: {kind}`", cls) for kind, cls in _kinds("defenses")],
    )
    yield (
        "settings.yaml",
        "How a run goes about its work. Nothing here enters a digest.",
        [
            ("", settings.Settings),
            ("one of `kinds`", settings.KindSettings),
        ],
    )
    yield (
        "devices.yaml",
        "What named devices can do, for estimates: a mapping of names.",
        [
            ("of a device", devices.Device),
            ("of a precision", devices.Speed),
        ],
    )
    yield (
        "paper/",
        "Published numbers, beside which measured ones are put.",
        [("", paper.PaperEntry)],
    )
    yield (
        "claims/",
        "What has been published of defenses, shown beside their verdicts: one file a source.",
        [
            ("", claims.ClaimsEntry),
            ("one of `claims`", claims.ClaimEntry),
            ("`paper`", claims.PaperPlace),
        ],
    )


def _kinds(family: Family) -> list[tuple[str, type[Kind]]]:
    return [(name, registry.kind_class(family, name)) for name in registry.written_kinds(family)]


def _part(name: str, cls: type[BaseModel]) -> str:
    said = _prose(cls)
    head = f"### {name[:1].upper() + name[1:]}\n\n" if name else ""
    rows = [
        f"| `{key}` | {type_text(field.annotation, field.metadata)} | {_default(field)} "
        f"| {meaning(cls, key)} |"
        for key, field in cls.model_fields.items()
        if key not in HIDDEN or not issubclass(cls, Kind)
    ]
    if not rows:
        return f"{head}{said} No keys.\n"
    table = "\n".join(["| key | value | default | meaning |", "| --- | --- | --- | --- |", *rows])
    return f"{head}{said}\n\n{table}\n"


def meaning(cls: type[BaseModel], key: str) -> str:
    """The description of a key, from the class or its nearest base class that has one, or empty."""
    for base in cls.__mro__:
        if issubclass(base, BaseModel) and base.__module__.partition(".")[0] in {
            "pipeline",
            "tasks",
        }:
            found = _strings(base).get(key) or _clauses(base)[1].get(key)
            if found:
                found = found[0].upper() + found[1:].rstrip(".;")
                return found.replace("|", "\\|")
    return "See above" if f"`{key}`" in _prose(cls) else ""


def type_text(annotation: object, metadata: list[Any] | tuple[Any, ...] = ()) -> str:
    """A type in words, such as `whole number, at least 1`."""
    if get_origin(annotation) is Annotated:
        inner, *more = get_args(annotation)
        return type_text(inner, [*more, *metadata])
    for each in metadata:
        # a Field inside Annotated carries its own constraints
        metadata = [*metadata, *getattr(each, "metadata", ())]
    limits = [words for each in metadata for words in _limits(each)]
    return ", ".join([_bare(annotation), *limits])


def _bare(annotation: object) -> str:
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is Literal:
        return ", ".join(f"`{value}`" for value in arguments)
    if origin in {Union, types.UnionType}:
        texts = [type_text(each) for each in arguments if each is not type(None)]
        return " or ".join(dict.fromkeys(texts))
    if origin is tuple:
        return f"list of {type_text(arguments[0])}"
    if origin is dict or "Mapping" in str(origin):
        return "mapping"
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return "mapping"
    return SHORT.get(annotation, "anything")


def _limits(each: object) -> Iterator[str]:
    match each:
        case Ge(ge=low):
            yield f"at least {low:,.10g}"
        case Gt(gt=low):
            yield f"above {low:,.10g}"
        case Le(le=high):
            yield f"at most {high:,.10g}"
        case Lt(lt=high):
            yield f"below {high:,.10g}"


def _default(field: Any) -> str:
    if field.is_required():
        return "needed"
    value = field.default
    if value is PydanticUndefined:
        value = field.default_factory()
    if value is None or value in ((), {}, ""):
        return "none"
    if isinstance(value, Kind):
        return f"`{_kind_text(value)}`"
    if isinstance(value, BaseModel):
        return "all"
    if isinstance(value, tuple):
        texts = [_kind_text(each) if isinstance(each, Kind) else str(each) for each in value]
        return f"`[{', '.join(texts)}]`"
    return f"`{str(value).lower() if isinstance(value, bool) else value}`"


def _kind_text(spec: Kind) -> str:
    given = "".join(
        f", {key}: {value}" for key, value in spec.model_dump(exclude_defaults=True).items()
    )
    return f"{{kind: {spec.kind}{given}}}"


def _prose(cls: type[BaseModel]) -> str:
    """A class's docstring without the descriptions of single keys."""
    return _clauses(cls)[0]


@cache
def _clauses(cls: type[BaseModel]) -> tuple[str, dict[str, str]]:
    """Split a docstring into prose and `key: description` clauses."""
    text = re.sub(r"(?<=\S)\n(?=\S)", " ", inspect.getdoc(cls) or "")
    prose: list[str] = []
    said: dict[str, str] = {}
    for paragraph in text.split("\n\n"):
        kept: list[str] = []
        names: list[str] = []
        for piece in re.split(r"(?<=[.;])(?<!al\.) ", paragraph):
            match = re.match(r"((?:\w+, )*\w+): (.+)", piece, re.DOTALL)
            named = match[1].split(", ") if match else []
            if match and set(named) <= cls.model_fields.keys():
                names = named
                if kept and kept[-1].endswith(";"):
                    kept[-1] = f"{kept[-1][:-1]}."
                said.update(dict.fromkeys(names, match[2]))
            elif names and said[names[0]].endswith(";"):
                for name in names:
                    said[name] += f" {piece}"
            else:
                kept.append(piece)
        prose.append(" ".join(kept))
    return "\n\n".join(filter(None, prose)).rstrip(";"), said


@cache
def _strings(cls: type[BaseModel]) -> dict[str, str]:
    """The strings below a class's fields."""
    tree = ast.parse(Path(inspect.getfile(cls)).read_text(encoding="utf-8"))
    [body] = [
        n.body for n in ast.walk(tree) if isinstance(n, ast.ClassDef) and n.name == cls.__name__
    ]
    found = {}
    for field, below in pairwise(body):
        match field, below:
            case ast.AnnAssign(target=ast.Name(id=name)), ast.Expr(
                value=ast.Constant(value=str(said))
            ):
                found[name] = " ".join(said.split())
    return found

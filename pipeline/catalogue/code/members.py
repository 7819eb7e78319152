"""Members of a user's class that cannot be what they were meant to be.

Parameters of unsupported types, and names that were probably meant to be those of the base class.
"""

from __future__ import annotations

import ast
import difflib
import inspect
import re
from collections.abc import Mapping, Sequence
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from tasks.specs import Kind, Spec

SUPPORTED = (
    "a parameter is a bool, int, float, str, Literal or None, or a list, tuple or dict of these"
)
PLAIN = (bool, int, float, str, NoneType, list, tuple, Mapping, Spec)
"""Types whose values have a digest, see `pipeline.grid.digests`."""

CUTOFF = 0.85
"""Smallest similarity (difflib's ratio) of two names that may be the same, one of them misspelt."""


def not_class_variable(cls: type[Spec]) -> tuple[str, str] | None:
    """A field of a class that its base class declares as a class variable.

    Such a field would be a parameter that nothing reads.

    Returns:
        Its name, and the declaration that was meant; None if there is none.
    """
    for name, field in cls.model_fields.items():
        if name in cls.__class_vars__:
            kind = inspect.formatannotation(field.annotation)
            value = "" if field.is_required() else f" = {field.default!r}"
            return name, f"{name}: ClassVar[{kind}]{value}"
    return None


def unsupported(kind: object) -> object | None:
    """The first part of a parameter's type whose values have no digest; None if all have one."""
    outer, parts = get_origin(kind) or kind, get_args(kind)
    if outer is Annotated:
        return unsupported(parts[0])
    if outer is Literal:
        return None
    if outer not in {Union, UnionType, Sequence, Any, object} and isinstance(outer, type):
        keys_are_str = not (issubclass(outer, Mapping) and parts) or parts[0] is str
        if not issubclass(outer, PLAIN) or not keys_are_str:
            return kind
    return next(filter(None, map(unsupported, parts)), None)


def annotated_with(text: str | bytes, line: int, name: str) -> tuple[str, int] | None:
    """The parameter whose type has a name, of the class at a line of a module's text.

    Returns:
        Such as `Mine.k`, and its own line; None if there is none.
    """
    for cls in ast.walk(ast.parse(text)):
        if isinstance(cls, ast.ClassDef) and cls.lineno == line:
            for node in cls.body:
                if isinstance(node, ast.AnnAssign) and re.search(
                    rf"\b{re.escape(name)}\b", ast.unparse(node.annotation)
                ):
                    return f"{cls.name}.{ast.unparse(node.target)}", node.lineno
    return None


def lookalikes(cls: type[Kind]) -> dict[str, tuple[str, str]]:
    """New public members of a user's class with almost the names of members of its base class.

    Returns:
        For each, whether it is a "parameter" or a "member", and the name that it resembles.
    """
    base = next(parent for parent in cls.__mro__ if parent.__module__.startswith("tasks."))
    known = _members(base) - _members(Kind)
    found = {}
    for name in sorted(_members(cls) - _members(base)):
        what = "parameter" if name in cls.model_fields else "member"
        if near := difflib.get_close_matches(name, known, n=1, cutoff=CUTOFF):
            found[name] = what, near[0]
    return found


def _members(cls: type) -> set[str]:
    fields = cls.model_fields if issubclass(cls, Spec) else {}
    return {name for name in {*dir(cls), *fields} if not name.startswith(("_", "model_"))}

"""Members of a user's class that were probably meant to be members of its base class."""

from __future__ import annotations

import difflib
import inspect

from tasks.specs import Kind, Spec

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

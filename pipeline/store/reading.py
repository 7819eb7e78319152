"""Reading the files of a store, which other machines, other versions and other people write.

Whatever a file holds, its reader gets a value of the type that was asked for, or `Malformed` with
the reason in one line.
"""

from __future__ import annotations

from collections.abc import Hashable
from functools import cache
from typing import Any, TypeVar, cast

from pydantic import TypeAdapter, ValidationError

Value = TypeVar("Value")


class Malformed(ValueError):
    """A file that does not hold what it should; the message says why, in one line."""


def parsed(data: bytes, kind: type[Value]) -> Value:
    """The value of a type that a JSON file holds, nothing converted; Spoilt otherwise."""
    try:
        return cast("Value", _adapter(cast("Hashable", kind)).validate_json(data, strict=True))
    except ValidationError as error:
        raise _malformed(error) from None


def checked(value: object, kind: type[Value]) -> Value:
    """A value, once it is known to be of a type, nothing converted; Spoilt otherwise."""
    try:
        return cast("Value", _adapter(cast("Hashable", kind)).validate_python(value, strict=True))
    except ValidationError as error:
        raise _malformed(error) from None


def words(data: bytes) -> list[str]:
    """The words of a text of ASCII, as they are separated by white space; Spoilt otherwise."""
    try:
        return data.decode("ascii").split()
    except UnicodeDecodeError as error:
        raise Malformed(f"byte {error.start + 1} is not ASCII") from None


def _malformed(error: ValidationError) -> Malformed:
    first = error.errors(include_url=False, include_input=False, include_context=False)[0]
    where = ".".join(str(part)[:40] for part in first["loc"][:6])
    said = first["msg"][:1].lower() + first["msg"][1:]
    return Malformed(f"{where}: {said}" if where else said)


@cache
def _adapter(kind: Hashable) -> TypeAdapter[Any]:
    return TypeAdapter(cast("type[Any]", kind))

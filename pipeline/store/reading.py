"""Validated reading of a store's files, which other machines, versions and people write.

A reader gets a value of the requested type, or Malformed with a one-line reason.
"""

from __future__ import annotations

from collections.abc import Hashable
from functools import cache
from typing import Any, TypeVar, cast

from pydantic import TypeAdapter, ValidationError

Value = TypeVar("Value")


class Malformed(ValueError):
    """A file does not have the expected content; the message says why, in one line."""


def parsed(data: bytes, kind: type[Value]) -> Value:
    """Parse JSON as a value of a type, strictly; Malformed if it does not match."""
    try:
        return cast("Value", _adapter(cast("Hashable", kind)).validate_json(data, strict=True))
    except ValidationError as error:
        raise _malformed(error) from None


def checked(value: object, kind: type[Value]) -> Value:
    """Check that a value is of a type, strictly; Malformed if it is not."""
    try:
        return cast("Value", _adapter(cast("Hashable", kind)).validate_python(value, strict=True))
    except ValidationError as error:
        raise _malformed(error) from None


def words(data: bytes) -> list[str]:
    """Split ASCII text at white space; Malformed if it is not ASCII."""
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

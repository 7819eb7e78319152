"""Digests of specs: SHA-256 over a tagged, versioned, canonical form. Unknown types raise.

Each value is written with a tag and its length, so no two structures share a form:
1, 1.0, true and '1' differ, and so do a list and its only element.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping
from functools import cache
from typing import Generic, TypeVar

from tasks.specs import Spec

FORMAT = 1
REMEMBERED = 4096
"""Specs of which what was made is kept; the next one begins afresh."""

Derived = TypeVar("Derived")


class _OfSpec(Generic[Derived]):
    """What is made of a spec, made once for each object.

    A spec is frozen, and kept here for as long as what was made of it, so its identity tells it.
    Equality does not: specs with 1 and with 1.0 are equal, and their forms differ.
    """

    def __init__(self, make: Callable[[Spec], Derived]) -> None:
        self._make = make
        self._made: dict[int, tuple[Spec, Derived]] = {}

    def __call__(self, spec: Spec) -> Derived:
        found = self._made.get(id(spec))
        if found is not None:
            return found[1]
        made = self._make(spec)
        if len(self._made) >= REMEMBERED:
            self._made.clear()
        self._made[id(spec)] = (spec, made)
        return made


def digest(value: object) -> str:
    """SHA-256, 64 hexadecimal digits, of a value's canonical form."""
    return hashlib.sha256(f"format:{FORMAT};{canonical(value)}".encode()).hexdigest()


def canonical(value: object) -> str:  # noqa: PLR0911  one return for each type
    """The canonical form; TypeError for a type that has none.

    A spec is its class name, its version and its fields, whatever module it lives in, without
    those of `unset_is_left_out` that are at their default; a spec of a user's own carries the
    digest of its source as well.
    """
    match value:
        case str():
            return f"str:{len(value)}:{value};"
        case Spec():
            return _form(value)
        case None:
            return "none;"
        case bool():
            return f"bool:{int(value)};"
        case int():
            return f"int:{value};"
        case float():
            return f"float:{value.hex()};"
        case tuple() | list():
            return f"list:{len(value)}[{''.join(map(canonical, value))}];"
        case Mapping():
            return f"map:{len(value)}{{{''.join(_pairs(value))}}};"
        case _:
            raise TypeError(f"no canonical form for {type(value).__qualname__}: {value!r}")


def _written(spec: Spec) -> str:
    cls = type(spec)
    values = ((key, form, getattr(spec, key)) for key, form in _keys(cls))
    pairs = [
        form + canonical(value)
        for key, form, value in values
        if key not in cls.unset_is_left_out or value != cls.model_fields[key].default
    ]
    fields = f"map:{len(pairs)}{{{''.join(pairs)}}};"
    return f"spec:{cls.__name__}:{spec.results_version()}:{cls.source_digest}:{fields};"


_form = _OfSpec(_written)


@cache
def _keys(cls: type[Spec]) -> tuple[tuple[str, str], ...]:
    """The names of a class's fields, sorted, and their forms."""
    return tuple((key, canonical(key)) for key in sorted(cls.model_fields))


def _pairs(value: Mapping[object, object]) -> list[str]:
    for key in value:
        if not isinstance(key, str):
            raise TypeError(f"keys must be strings, got {type(key).__qualname__}: {key!r}")
    return [canonical(key) + canonical(value[key]) for key in sorted(value, key=str)]


def parts_of(spec: Spec) -> Iterator[Spec]:
    """A spec and every spec inside it."""
    yield spec
    for name in type(spec).model_fields:
        value = getattr(spec, name)
        for part in value if isinstance(value, tuple | list) else (value,):
            if isinstance(part, Spec):
                yield from parts_of(part)


def versions_of(spec: Spec) -> dict[str, int]:
    """The versions of a spec and of every spec inside it, by the names of their classes."""
    found: dict[str, int] = {}
    for part in parts_of(spec):
        name = type(part).__name__
        found[name] = max(part.results_version(), found.get(name, 0))
    return found


def own_digests(spec: Spec) -> dict[str, str]:
    """The digests of the classes of a user's own in a spec, by the classes' names."""
    classes = sorted(spec_classes(spec), key=lambda found: found.__name__)
    return {found.__name__: found.source_digest for found in classes if found.source_digest}


def _found_in(spec: Spec) -> frozenset[type[Spec]]:
    found = {type(spec)}
    for _, value in spec:
        for part in value if isinstance(value, tuple | list) else (value,):
            if isinstance(part, Spec):
                found |= spec_classes(part)
    return frozenset(found)


_classes = _OfSpec(_found_in)


def spec_classes(spec: Spec) -> frozenset[type[Spec]]:
    """The classes of a spec and of every spec inside it."""
    return _classes(spec)

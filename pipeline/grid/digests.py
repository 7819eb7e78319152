"""Content hashes of specs: SHA-256 of a canonical, tagged and versioned form.

Each value is written with a type tag and its length, so different structures never have the same
form: 1, 1.0, true and '1' differ, and so do a list and its only element. Unknown types raise
TypeError.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping
from functools import cache
from typing import Generic, TypeVar

from pipeline.catalogue.code.known import modules_of
from pipeline.catalogue.code.libraries import library_version
from tasks.networks.factory import Factory
from tasks.specs import Kind, Spec

FORMAT = 1
REMEMBERED = 4096
"""Maximum size of the cache of a function of specs; it is cleared when it is full."""

Derived = TypeVar("Derived")


class _OfSpec(Generic[Derived]):
    """Caches a function of specs by object identity.

    Identity is safe, since specs are frozen and the cache keeps them alive. Equality would not be:
    specs with 1 and with 1.0 are equal, but their canonical forms differ.
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
    """SHA-256 of a value's canonical form, 64 hexadecimal digits."""
    return hashlib.sha256(f"format:{FORMAT};{canonical(value)}".encode()).hexdigest()


def canonical(value: object) -> str:  # noqa: PLR0911  one return for each type
    """The canonical form of a value.

    A spec is written as its class name, its version and its fields, independent of its module.
    Fields in `unset_is_left_out` are left out at their default value. A user's own class adds the
    digest of its source code, and a class whose work a library does that library's version.

    Raises:
        TypeError: For a type that has no canonical form.
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
    used = "".join(f"{canonical(name)}{canonical(seen)}" for name, seen in _library(cls).items())
    return f"spec:{cls.__name__}:{spec.results_version()}:{cls.source_digest}:{fields}{used};"


_form = _OfSpec(_written)


def _library(cls: type[Spec]) -> dict[str, str]:
    """The library that does the work of a class and its version; empty if there is none."""
    name = cls.library if issubclass(cls, Kind) else ""
    return {name: library_version(name)} if name else {}


@cache
def _keys(cls: type[Spec]) -> tuple[tuple[str, str], ...]:
    """Sorted field names of a class, each with its canonical form."""
    return tuple((key, canonical(key)) for key in sorted(cls.model_fields))


def _pairs(value: Mapping[object, object]) -> list[str]:
    for key in value:
        if not isinstance(key, str):
            raise TypeError(f"keys must be strings, got {type(key).__qualname__}: {key!r}")
    return [canonical(key) + canonical(value[key]) for key in sorted(value, key=str)]


def parts_of(spec: Spec) -> Iterator[Spec]:
    """Iterate over a spec and all specs nested in it."""
    yield spec
    for name in type(spec).model_fields:
        value = getattr(spec, name)
        for part in value if isinstance(value, tuple | list) else (value,):
            if isinstance(part, Spec):
                yield from parts_of(part)


def versions_of(spec: Spec) -> dict[str, int]:
    """Versions of a spec and of all specs nested in it, by class name."""
    found: dict[str, int] = {}
    for part in parts_of(spec):
        name = type(part).__name__
        found[name] = max(part.results_version(), found.get(name, 0))
    return found


def own_digests(spec: Spec) -> dict[str, str]:
    """Source digests of the user's own classes in a spec, by class name."""
    classes = sorted(spec_classes(spec), key=lambda found: found.__name__)
    return {found.__name__: found.source_digest for found in classes if found.source_digest}


def own_modules_of(spec: Spec) -> dict[str, dict[str, str]]:
    """The modules of the user's own code in a spec, by the digest of that code.

    Each is a module's name and its own digest; see `modules_of`.
    """
    sources = {
        part.source if isinstance(part, Factory) else type(part).source_digest
        for part in parts_of(spec)
    }
    return {source: found for source in sorted(sources) if (found := modules_of(source))}


def libraries_of(spec: Spec) -> dict[str, str]:
    """Versions of the libraries that do work of a spec and of all specs nested in it, by name."""
    found = [_library(cls) for cls in spec_classes(spec)]
    return {name: seen for each in found for name, seen in sorted(each.items())}


def _found_in(spec: Spec) -> frozenset[type[Spec]]:
    found = {type(spec)}
    for _, value in spec:
        for part in value if isinstance(value, tuple | list) else (value,):
            if isinstance(part, Spec):
                found |= spec_classes(part)
    return frozenset(found)


_classes = _OfSpec(_found_in)


def spec_classes(spec: Spec) -> frozenset[type[Spec]]:
    """Classes of a spec and of all specs nested in it."""
    return _classes(spec)

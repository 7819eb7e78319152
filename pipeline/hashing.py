"""Digests of specs: SHA-256 over a tagged, versioned, canonical form. Unknown types raise.

Each value is written with a tag and its length, so no two structures share a form:
1, 1.0, true and '1' differ, and so do a list and its only element.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping

from tasks.specs import Spec

FORMAT = 1


def digest(value: object) -> str:
    """SHA-256, 64 hexadecimal digits, of a value's canonical form."""
    return hashlib.sha256(f"format:{FORMAT};{canonical(value)}".encode()).hexdigest()


def canonical(value: object) -> str:  # noqa: PLR0911  one return for each type
    """The canonical form; TypeError for a type that has none.

    A spec is its class name, its version and its fields, whatever module it lives in, without
    those of `unset_is_left_out` that are None; a spec of a user's own carries the digest of its
    source as well.
    """
    match value:
        case None:
            return "none;"
        case bool():
            return f"bool:{int(value)};"
        case int():
            return f"int:{value};"
        case float():
            return f"float:{value.hex()};"
        case str():
            return f"str:{len(value)}:{value};"
        case tuple() | list():
            return f"list:{len(value)}[{''.join(map(canonical, value))}];"
        case Mapping():
            return f"map:{len(value)}{{{''.join(_pairs(value))}}};"
        case Spec():
            cls = type(value)
            fields = canonical(_fields(value))
            return f"spec:{cls.__name__}:{cls.version}:{cls.source_digest}:{fields};"
        case _:
            raise TypeError(f"no canonical form for {type(value).__qualname__}: {value!r}")


def _fields(value: Spec) -> dict[str, object]:
    """The fields that enter the digest."""
    fields = {key: getattr(value, key) for key in type(value).model_fields}
    for key in type(value).unset_is_left_out:
        if fields[key] is None:
            del fields[key]
    return fields


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


def own_digests(spec: Spec) -> dict[str, str]:
    """The digests of the classes of a user's own in a spec, by the classes' names."""
    classes = sorted(spec_classes(spec), key=lambda found: found.__name__)
    return {found.__name__: found.source_digest for found in classes if found.source_digest}


def spec_classes(spec: Spec) -> frozenset[type[Spec]]:
    """The classes of a spec and of every spec inside it."""
    return frozenset(map(type, parts_of(spec)))

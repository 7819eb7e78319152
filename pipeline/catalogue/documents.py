"""Strict YAML: no duplicate keys, no ambiguous scalars, and the file and line of every value."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from pipeline.problems import BadInput, reason_of, regular, shown

Place = tuple[str | int, ...]

DEEPEST = 20
"""Maximum nesting depth of a document."""
MOST_VALUES = 100_000
"""Maximum number of values in a document; an alias counts each time it is used."""
MOST_BYTES = 2**20
"""Maximum size of a file."""
STANDARD = "tag:yaml.org,2002:"
CORE_SCHEMA: tuple[tuple[str, Callable[[str], object]], ...] = (
    ("|~|null|Null|NULL", lambda _: None),
    ("true|True|TRUE", lambda _: True),
    ("false|False|FALSE", lambda _: False),
    ("[-+]?[0-9]+", int),
    ("0o[0-7]+", lambda text: int(text, 8)),
    ("0x[0-9a-fA-F]+", lambda text: int(text, 16)),
    (r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?", float),
    (r"[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)", lambda text: float(text.replace(".", ""))),
)
"""The core schema of YAML 1.2 for plain scalars; what matches no pattern is a string."""
CONSTRUCTOR = yaml.constructor.SafeConstructor()
LOADER: type[Any] = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
"""libyaml's loader if PyYAML has it, which is ten times as fast."""
SHORT = 4096
"""Longest text, in characters, that is given to `LOADER`: deeper nesting could overflow its stack.
"""


@dataclass(frozen=True)
class Document:
    """A parsed YAML mapping, with the file and line of each of its values."""

    path: Path
    value: dict[str, object]
    places: dict[Place, tuple[Path, int]] = field(default_factory=dict)

    def problem(self, place: Place, message: str) -> BadInput:
        """A one-line BadInput located at `place`, or at its nearest known parent."""
        path, line = self._standing(place)
        where = ".".join(str(part) for part in place)
        return BadInput(f"{shown(path)}:{line}: {where + ': ' if where else ''}{message}")

    def file_of(self, place: Place) -> Path:
        """The file that a value was written in: this one, or one that it extends."""
        return self._standing(place)[0]

    def over(self, below: Document) -> Document:
        """Overlay this document on another: mappings merge recursively, other values replace."""
        merged = Document(self.path, {}, {(): self._standing(())})
        merged.value.update(_merged((), self, self.value, below, below.value, merged))
        return merged

    def _standing(self, place: Place) -> tuple[Path, int]:
        while place and place not in self.places:
            place = place[:-1]
        return self.places.get(place, (self.path, 1))


def read_yaml(path: Path) -> Document:
    """Read a YAML file that holds one mapping.

    Raises:
        BadInput: If the file cannot be read or holds anything else, with file and line.
    """
    try:
        size = regular(path).stat().st_size
        if size > MOST_BYTES:
            raise BadInput(f"{shown(path)}: has {size:,} bytes, and {MOST_BYTES:,} are the most")
        node = _composed(path.read_text(encoding="utf-8"))
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 1
        raise BadInput(f"{shown(path)}:{line}: not valid YAML: {error.problem}") from None
    except OSError as error:
        raise BadInput(f"{shown(path)}: cannot be read: {reason_of(error)}") from None
    except (UnicodeDecodeError, yaml.YAMLError) as error:
        reason = " ".join(str(error).split())
        raise BadInput(f"{shown(path)}: cannot be read as YAML: {reason}") from None
    except RecursionError:
        raise BadInput(f"{shown(path)}: nested too deeply") from None
    document = Document(path, {})
    if not isinstance(node, yaml.MappingNode):
        raise document.problem((), "expected a mapping of keys to values")
    document.value.update(_mapping(node, (), document))
    return document


def read_value(text: str, document: Document) -> object:
    """Parse a single YAML value, such as `10`, `true` or `[0, 1]`.

    Args:
        document: The document that errors are located in.
    """
    try:
        node = _composed(text)
    except (yaml.YAMLError, RecursionError):
        raise document.problem((), "not a value of YAML, such as 10, true or [0, 1]") from None
    return None if node is None else _construct(node, (), document)


def _composed(text: str) -> yaml.Node | None:
    if len(text) <= SHORT:
        # errors are reported by the second call, so that their wording does not depend on the
        # loader
        with contextlib.suppress(yaml.YAMLError):
            return yaml.compose(text, Loader=LOADER)
    return yaml.compose(text, Loader=yaml.SafeLoader)


def _construct(node: yaml.Node, place: Place, document: Document) -> object:
    document.places[place] = (document.path, node.start_mark.line + 1)
    if len(place) > DEEPEST:
        # this also stops an alias that contains itself
        raise document.problem(place[:1], "nested too deeply")
    if len(document.places) > MOST_VALUES:
        raise document.problem(place[:1], f"more than {MOST_VALUES:,} values, aliases included")
    kind = node.tag.removeprefix(STANDARD)
    match node, kind:
        case yaml.MappingNode(), "map":
            return _mapping(node, place, document)
        case yaml.SequenceNode(), "seq":
            parts = enumerate(node.value)
            return [_construct(child, (*place, index), document) for index, child in parts]
        case yaml.ScalarNode(), "null" | "bool" | "int" | "float" | "str":
            try:
                value = CONSTRUCTOR.yaml_constructors[node.tag](CONSTRUCTOR, node)
            except (ValueError, LookupError, OverflowError):
                raise document.problem(place, f"{node.value!r} is no {kind}") from None
            if not node.style:
                _check_one_reading(node, value, place, document)
            return value
        case yaml.ScalarNode(), "timestamp" | "value":
            # no field is a date, so dates are plain strings
            return str(node.value)
        case _:
            raise document.problem(place, f"unknown tag {node.tag}")


def _check_one_reading(
    node: yaml.ScalarNode, value: object, place: Place, document: Document
) -> None:
    """Raise BadInput for a plain scalar that YAML 1.1, as read here, and 1.2 read differently."""
    other = _read_as_1_2(node.value)
    if type(value) is type(other) and (value == other or value != value):  # noqa: PLR0124  NaN
        return
    raise document.problem(
        place,
        f"{node.value} is {_reading(value)} in YAML 1.1 and {_reading(other)} in YAML 1.2; "
        "write the one that is meant, a text in quotes",
    )


def _read_as_1_2(text: str) -> object:
    """Interpret a plain scalar by the core schema of YAML 1.2."""
    for pattern, read in CORE_SCHEMA:
        if re.fullmatch(pattern, text, re.ASCII):
            return read(text)
    return text


def _reading(value: object) -> str:
    match value:
        case None:
            return "nothing"
        case bool():
            return str(value).lower()
        case int() | float():
            with contextlib.suppress(ValueError):  # Python prints no integer of 4,300 digits
                return f"the number {value}"
            return "a number of thousands of digits"
        case _:
            return f"the text '{value}'"


def _mapping(node: yaml.MappingNode, place: Place, document: Document) -> dict[str, object]:
    document.places[place] = (document.path, node.start_mark.line + 1)
    mapping: dict[str, object] = {}
    for key_node, child in node.value:
        if not isinstance(key_node, yaml.ScalarNode):
            raise document.problem(place, "keys must be plain words")
        key = key_node.value
        inner = (*place, key)
        if key in mapping:
            document.places[inner] = (document.path, key_node.start_mark.line + 1)
            raise document.problem(inner, "is given twice")
        mapping[key] = _construct(child, inner, document)
        document.places[inner] = (document.path, key_node.start_mark.line + 1)
    return mapping


def _merged(
    place: Place,
    above: Document,
    over: Mapping[str, object],
    below: Document,
    under: Mapping[str, object],
    merged: Document,
) -> dict[str, object]:
    """Merge `over` into `under`, and copy the location of each value to `merged`."""
    values: dict[str, object] = {}
    for key in [*under, *(key for key in over if key not in under)]:
        inner = (*place, key)
        source, value = (above, over[key]) if key in over else (below, under[key])
        old = under.get(key)
        if isinstance(value, dict) and isinstance(old, dict) and source is above:
            merged.places[inner] = above.places[inner]
            values[key] = _merged(inner, above, value, below, old, merged)
        else:
            values[key] = value
            merged.places.update(
                (known, at) for known, at in source.places.items() if known[: len(inner)] == inner
            )
    return values

"""The paper's published numbers, read from `configs/paper/`: one file for each table."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace

from pipeline.catalogue.catalogue import Catalogue, Section
from pipeline.catalogue.documents import Document, Place, read_yaml
from pipeline.catalogue.validation import ConfigEntry, validated
from pipeline.problems import suggestion

Key = tuple[str, str, str]
"""(model, attack, defense). A model with `stands_for` is looked up by the name given there."""

BOUND = re.compile(r"<= (\d+(?:\.\d+)?)")


@dataclass(frozen=True)
class Published:
    """A published accuracy in percent, or an upper bound of it.

    tables: names of the paper's tables that print it.
    """

    value: float
    upper_bound: bool
    tables: tuple[str, ...]


class PaperEntry(ConfigEntry):
    """One table of the paper."""

    title: str
    """Title of the table."""
    source: str
    """Where it is printed."""
    accuracy: Mapping[str, Mapping[str, Mapping[str, float | str]]]
    """Nested mapping from model, defense and attack to the accuracy in percent, or to an upper
    bound such as `'<= 1'`."""


def published(catalogue: Catalogue) -> dict[Key, Published]:
    """Load all published numbers, by model, attack and defense.

    Raises:
        BadInput: If a name does not exist, a number is no accuracy, or two tables contradict each
            other.
    """
    found: dict[Key, Published] = {}
    sections: tuple[Section, ...] = ("models", "attacks", "defenses")
    known = {section: catalogue.names(section) for section in sections}
    for table, path in catalogue.names("paper").items():
        document = read_yaml(path)
        entry = validated(PaperEntry, document, (), document.value)
        for model, defenses in entry.accuracy.items():
            for defense, attacks in defenses.items():
                for attack, number in attacks.items():
                    place: Place = ("accuracy", model, defense, attack)
                    _require(known["models"], "model", model, document, place[:2])
                    for part in defense.split("+"):
                        _require(known["defenses"], "defense", part, document, place[:3])
                    _require(known["attacks"], "attack", attack, document, place)
                    _admit(
                        found,
                        (model, attack, defense),
                        _number(number, table, document, place),
                        document,
                        place,
                    )
    return found


def _require(
    known: Mapping[str, object], what: str, name: str, document: Document, place: Place
) -> None:
    if name not in known:
        raise document.problem(place, f"no {what} named '{name}'{suggestion(name, known)}")


def _number(number: float | str, table: str, document: Document, place: Place) -> Published:
    bound = BOUND.fullmatch(number) if isinstance(number, str) else None
    value = float(bound[1]) if bound else number
    if isinstance(value, str) or not 0 <= value <= 100:
        message = f"expected percents, such as 3.6 or '<= 1', got {number!r}"
        raise document.problem(place, message)
    return Published(value, bound is not None, (table,))


def _admit(
    found: dict[Key, Published], key: Key, number: Published, document: Document, place: Place
) -> None:
    other = found.setdefault(key, number)
    if other is number:
        return
    if (other.value, other.upper_bound) != (number.value, number.upper_bound):
        raise document.problem(
            place, f"{_shown(number)}, but {other.tables[0]} has {_shown(other)}"
        )
    found[key] = replace(other, tables=(*other.tables, *number.tables))


def _shown(number: Published) -> str:
    return f"{'<= ' if number.upper_bound else ''}{number.value:g}"

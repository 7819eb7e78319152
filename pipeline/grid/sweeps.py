"""Expands the sweeps of a table: each choice with a swept parameter becomes one variant per value.

A variant is labelled with the values that differ from the original's, as in
`counter[step_size=2]+guo`. The variant with the original values keeps the label, and is the same
cell as in a table without a sweep.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from pipeline.catalogue.documents import Document, Place
from pipeline.catalogue.grid_entries import TableEntry, VariantEntry, label_of
from pipeline.catalogue.validation import check_once
from pipeline.grid.cells import Section, SweptChoice
from pipeline.grid.parameters import changed, has_parameter, no_owner
from pipeline.problems import suggestion
from tasks.specs import Problem, Spec, in_255ths

ALL: Mapping[Section, str] = {"models": "model", "attacks": "attack"}
"""Words that stand for all models or attacks that have a parameter."""
OF_A_MODEL = ("recipe.", "network.")
"""Prefixes of the model parameters that a sweep may change."""
MOST = 10_000
"""Maximum number of variants that a sweep may make of one choice."""


@dataclass(frozen=True)
class Ingredient:
    """An entry of a table and its specs: pairs of name and spec, several for a chain.

    problems: the problems of the table's models, which fill in defaults.
    """

    section: Section
    choice: str | VariantEntry
    parts: Sequence[tuple[str, Spec]]
    problems: Sequence[Problem]

    @property
    def label(self) -> str:
        """Its label in the table."""
        return label_of(self.choice)

    def owner(self, name: str) -> tuple[str, str] | None:
        """Split `owner.parameter` into the owning part and the parameter; None if none owns it."""
        for part, _ in self.parts:
            if name.startswith(f"{part}."):
                return part, name.removeprefix(f"{part}.")
        word = ALL.get(self.section)
        if word is not None and name.startswith(f"{word}."):
            parameter = name.removeprefix(f"{word}.")
            [(part, spec)] = self.parts
            if has_parameter(spec, parameter):
                return part, parameter
        return None


@dataclass
class _Axis:
    """Parameters that change together, and their values; used: whether any choice has them."""

    key: str
    names: tuple[str, ...]
    points: tuple[tuple[object, ...], ...]
    used: bool = False


@dataclass
class Sweep:
    """The sweep of a table; makes the variants of the table's choices."""

    table: TableEntry
    document: Document
    place: Place
    swept: list[SweptChoice] = field(default_factory=list)
    _owners: set[str] = field(default_factory=set)
    _axes: list[_Axis] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._axes = [self._axis(key, values) for key, values in self.table.sweep.items()]
        try:
            check_once("sweep", [name for axis in self._axes for name in axis.names])
        except ValueError as error:
            raise self.document.problem(self.place, str(error)) from None

    def _axis(self, key: str, values: Sequence[object]) -> _Axis:
        names = tuple(name.strip() for name in key.split(","))
        if len(names) == 1:
            return _Axis(key, names, tuple((value,) for value in values))
        for value in values:
            if not isinstance(value, list) or len(value) != len(names):
                raise self._problem(key, f"expected lists of {len(names)} values, got {value!r}")
        return _Axis(key, names, tuple(tuple(value) for value in values if isinstance(value, list)))

    def _problem(self, key: str, message: str) -> Exception:
        return self.document.problem((*self.place, key), message)

    def made_of(self, found: Ingredient) -> list[str | VariantEntry]:
        """The variants of a choice; the choice itself if it has none of the swept parameters."""
        self._owners.update(part for part, _ in found.parts)
        self._owners.update(filter(None, [ALL.get(found.section)]))
        axes = [axis for axis in self._axes if self._concerns(axis, found)]
        if not axes:
            return [found.choice]
        size = 1
        for axis in axes:
            axis.used = True
            size *= len(axis.points)
        if size > MOST:
            raise self._problem(axes[0].key, f"{size:,} of '{found.label}'; {MOST:,} are the most")
        return [
            self._variant(found, dict(itertools.chain.from_iterable(pairs)))
            for pairs in itertools.product(
                *(
                    [list(zip(axis.names, point, strict=True)) for point in axis.points]
                    for axis in axes
                )
            )
        ]

    def _concerns(self, axis: _Axis, found: Ingredient) -> bool:
        known = [found.owner(name) is not None for name in axis.names]
        if any(known) and not all(known):
            other = axis.names[known.index(False)]
            raise self._problem(axis.key, f"'{found.label}' has no '{other}'")
        return all(known)

    def _variant(self, found: Ingredient, values: Mapping[str, object]) -> VariantEntry:
        said: dict[str, tuple[str, str]] = {}
        differing: dict[str, tuple[str, str]] = {}
        changes: dict[str, object] = {}
        for name, value in values.items():
            owner = found.owner(name)
            assert owner is not None
            part, parameter = owner
            if found.section == "models" and not parameter.startswith(OF_A_MODEL):
                message = f"a model's parameters are recipe.… and network.…, not {parameter}"
                raise self._problem(name, message)
            spec = dict(found.parts)[part]
            prefix = name.removesuffix(parameter)
            other = changed(spec, {parameter: value}, self.document, self.place, prefix)
            said[name] = part, f"{parameter.rpartition('.')[2]}={_text(in_255ths(value))}"
            if not _same(spec, other, found.problems):
                differing[name] = said[name]
            changes[f"{part}.{parameter}" if found.section == "defenses" else parameter] = value
        label = _labelled(found, differing.values())
        without = {
            name: _labelled(found, [differing[key] for key in differing if key != name])
            for name in values
        }
        self.swept.append(
            SweptChoice(
                found.section,
                label,
                tuple((name, in_255ths(value)) for name, value in values.items()),
                tuple(without.items()),
                _labelled(found, said.values()),
            )
        )
        if isinstance(found.choice, str):
            return VariantEntry(label=label, use=found.choice, set=changes)
        return VariantEntry(label=label, use=found.choice.use, set={**found.choice.set, **changes})

    def place_of(self, section: Section, choice: str | VariantEntry) -> Place:
        """Where in the document a choice of the expanded table comes from."""
        own = getattr(self.table, section)
        if choice in own:
            return (*self.place[:-1], section, own.index(choice))
        made = any((each.section, each.label) == (section, label_of(choice)) for each in self.swept)
        return self.place if made else (*self.place[:-1], section)

    def check(self, expanded: TableEntry) -> None:
        """Check the expanded table.

        Raises:
            BadInput: If a swept parameter does not exist, if two variants have the same label, or
                if the figure's `x` is not swept or not a number.
        """
        for axis in self._axes:
            if not axis.used:
                owner, dot, parameter = axis.names[0].partition(".")
                if dot and owner in self._owners and owner in ALL.values():
                    raise self._problem(axis.key, f"no {owner} of this table has '{parameter}'")
                raise self._problem(axis.key, no_owner(axis.names[0], self._owners))
        for section in ("models", "attacks", "defenses"):
            labels = [label_of(choice) for choice in getattr(expanded, section)]
            try:
                check_once(section, labels)
            except ValueError as error:
                raise self.document.problem(self.place, str(error)) from None
        self._check_figure()

    def _check_figure(self) -> None:
        x = None if self.table.figure is None else self.table.figure.x
        if x is None or "." not in x:
            return
        at = (*self.place[:-1], "figure", "x")
        known = [name for axis in self._axes for name in axis.names]
        if x not in known:
            message = f"this table does not sweep '{x}'{suggestion(x, known)}"
            raise self.document.problem(at, message)
        for choice in self.swept:
            value = dict(choice.values).get(x, 0)
            if isinstance(value, bool) or not isinstance(value, int | float):
                raise self.document.problem(at, f"a figure needs numbers; {x} has {value!r}")


def _same(spec: Spec, other: Spec, problems: Sequence[Problem]) -> bool:
    """Whether two specs are equal once the defaults of each problem are filled in."""
    try:
        return all(spec.resolved(problem) == other.resolved(problem) for problem in problems)
    except ValueError:
        return False  # reported when the cell is built


def _labelled(found: Ingredient, said: Iterable[tuple[str, str]]) -> str:
    """A label with the differing values in brackets, after the part that they belong to."""
    said = list(said)
    pieces = found.label.split("+") if len(found.parts) > 1 else [found.label]
    if len(pieces) != len(found.parts):
        return _bracketed(found.label, [words for _, words in said])
    return "+".join(
        _bracketed(piece, [words for owner, words in said if owner == part])
        for piece, (part, _) in zip(pieces, found.parts, strict=True)
    )


def _bracketed(label: str, words: Sequence[str]) -> str:
    if not words:
        return label
    text = ",".join(words)
    return f"{label[:-1]},{text}]" if label.endswith("]") else f"{label}[{text}]"


def _text(value: object) -> str:
    if isinstance(value, str):
        return value
    if isinstance(value, float) and float(f"{value:g}") == value:
        return f"{value:g}"
    return json.dumps(value, separators=(",", ":"), default=str)

"""Parameters that a grid changes: in the variants of its tables, and by its rules."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import TypeVar

from pipeline.catalogue.documents import Document, Place
from pipeline.catalogue.entries import RuleEntry, VariantEntry
from pipeline.catalogue.validation import validated
from pipeline.problems import suggestion
from tasks.specs import Problem, Spec

AnySpec = TypeVar("AnySpec", bound=Spec)


class Rules:
    """The rules of a grid's document, and which of them, and of their parameters, were of use."""

    def __init__(self, entries: Sequence[RuleEntry], document: Document) -> None:
        self._entries = entries
        self._document = document
        self._patterns = [list(rule.where.model_dump().items()) for rule in entries]
        self._owners: dict[int, set[str]] = {}
        self._used: set[tuple[int, str]] = set()

    def matching(self, names: Mapping[str, str]) -> Matching:
        """The rules for a cell, by its names: dataset, model and so on."""
        return Matching(
            self,
            [
                position
                for position, patterns in enumerate(self._patterns)
                if all(fnmatchcase(names[key], pattern) for key, pattern in patterns)
            ],
        )

    def applied(self, position: int, spec: AnySpec, owner: str) -> AnySpec:
        """A spec with what one rule says of its owner: `attack`, or the name of a defense."""
        self._owners.setdefault(position, set()).add(owner)
        changes = owned(self._entries[position].set, owner)
        self._used.update((position, f"{owner}.{key}") for key in changes)
        return changed(spec, changes, self._document, ("rules", position, "set"), f"{owner}.")

    def check(self) -> None:
        """BadInput for a rule, or a parameter of one, that changes nothing."""
        for position, rule in enumerate(self._entries):
            if position not in self._owners:
                raise self._document.problem(("rules", position, "where"), "matches no cell")
            for key in rule.set:
                if (position, key) not in self._used:
                    place = ("rules", position, "set", key)
                    raise self._document.problem(place, no_owner(key, self._owners[position]))


@dataclass(frozen=True)
class Matching:
    """The rules that are for one cell, by their positions."""

    rules: Rules
    positions: Sequence[int]

    def applied(self, spec: AnySpec, owner: str) -> AnySpec:
        """A spec with what they say of its owner: `attack`, or the name of a defense."""
        for position in self.positions:
            spec = self.rules.applied(position, spec, owner)
        return spec


def with_variant(
    spec: AnySpec,
    choice: str | VariantEntry,
    document: Document,
    place: Place,
    *,
    owner: str = "",
    alone: bool = True,
) -> AnySpec:
    """A spec with a variant's parameters, if the choice is one.

    owner: the part of a chain that the spec is; alone: it is all there is, and needs no prefix.
    """
    if isinstance(choice, str):
        return spec
    place = (*place, "set")
    if alone:
        plain = {key: value for key, value in choice.set.items() if "." not in key or not owner}
        spec = changed(spec, plain, document, place)
    if owner:
        spec = changed(spec, owned(choice.set, owner), document, place, f"{owner}.")
    return spec


def check_owners(
    choice: str | VariantEntry, owners: Collection[str], document: Document, place: Place
) -> None:
    """BadInput for a parameter of a variant that belongs to none of its parts."""
    if isinstance(choice, str):
        return
    for key in choice.set:
        plain = "." not in key and len(owners) == 1
        if not plain and not any(key.startswith(f"{owner}.") for owner in owners):
            raise document.problem((*place, "set", key), no_owner(key, owners))


def changed(
    spec: AnySpec, changes: Mapping[str, object], document: Document, place: Place, prefix: str = ""
) -> AnySpec:
    """A spec with some parameters changed; BadInput, located, where they do not fit.

    prefix: what the document writes before the parameters' names. `recipe.epochs` is a parameter
    of the spec that the parameter `recipe` holds.
    """
    if not changes:
        return spec
    known = type(spec).model_fields.keys() - {"kind"}
    values = {name: getattr(spec, name) for name in type(spec).model_fields}
    for key, value in changes.items():
        outer, dot, inner = key.partition(".")
        held = values.get(outer)
        if dot and outer in known and isinstance(held, Spec):
            values[outer] = changed(held, {inner: value}, document, place, f"{prefix}{outer}.")
        elif key in known:
            values[key] = value
        else:
            message = f"no such parameter{suggestion(key, known)}"
            raise document.problem((*place, prefix + key), message)
    return validated(type(spec), document, place, values, prefix)


def has_parameter(spec: Spec, key: str) -> bool:
    """Whether a spec has a parameter, such as `draws`, or `recipe.epochs`."""
    outer, dot, inner = key.partition(".")
    if outer not in type(spec).model_fields or outer == "kind":
        return False
    held = getattr(spec, outer)
    return not dot or (isinstance(held, Spec) and has_parameter(held, inner))


def resolved(spec: AnySpec, problem: Problem, document: Document, place: Place) -> AnySpec:
    """A spec with the problem's defaults; BadInput, located, where it does not fit the problem."""
    try:
        return spec.resolved(problem)
    except ValueError as error:
        raise document.problem(place, " ".join(str(error).split())) from None


def owned(values: Mapping[str, object], owner: str) -> dict[str, object]:
    """What of `owner.parameter: value` belongs to an owner, by parameter."""
    prefix = f"{owner}."
    return {key[len(prefix) :]: value for key, value in values.items() if key.startswith(prefix)}


def no_owner(key: str, owners: Collection[str]) -> str:
    """What is said of `owner.parameter` where there is no such owner."""
    owner, dot, _ = key.partition(".")
    if not dot:
        return f"say of what, such as '{min(owners)}.{key}'"
    return f"nothing is called '{owner}' here{suggestion(owner, owners)}"

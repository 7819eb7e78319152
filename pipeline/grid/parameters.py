"""Changes of the parameters of specs, and the rules of a grid that make such changes."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import cache
from typing import Any, TypeVar

from pydantic import BaseModel, create_model

from pipeline.catalogue.documents import Document, Place
from pipeline.catalogue.grid_entries import RuleEntry
from pipeline.catalogue.validation import check_inherited, inherited_class, validated
from pipeline.problems import suggestion
from tasks.specs import Spec

AnySpec = TypeVar("AnySpec", bound=Spec)


class Rules:
    """Applies the rules of a grid, and records which rules and parameters had an effect."""

    def __init__(self, entries: Sequence[RuleEntry], document: Document) -> None:
        self._entries = entries
        self._document = document
        self._patterns = [list(rule.where.model_dump().items()) for rule in entries]
        self._owners: dict[int, set[str]] = {}
        self._used: set[tuple[int, str]] = set()

    def matching(self, names: Mapping[str, str]) -> Matching:
        """The rules that match a cell, given its names (dataset, model, ...)."""
        return Matching(
            self,
            [
                position
                for position, patterns in enumerate(self._patterns)
                if all(fnmatchcase(names[key], pattern) for key, pattern in patterns)
            ],
        )

    def applied(self, position: int, spec: AnySpec, owner: str) -> AnySpec:
        """Apply one rule to a spec; `owner` is `attack` or the name of a defense."""
        self._owners.setdefault(position, set()).add(owner)
        changes = owned(self._entries[position].set, owner)
        self._used.update((position, f"{owner}.{key}") for key in changes)
        return changed(spec, changes, self._document, ("rules", position, "set"), f"{owner}.")

    def check(self) -> None:
        """Raise BadInput for a rule that matched no cell, or a parameter that had no effect."""
        for position, rule in enumerate(self._entries):
            if position not in self._owners:
                raise self._document.problem(("rules", position, "where"), "matches no cell")
            for key in rule.set:
                if (position, key) not in self._used:
                    place = ("rules", position, "set", key)
                    raise self._document.problem(place, no_owner(key, self._owners[position]))


@dataclass(frozen=True)
class Matching:
    """The rules that apply to one cell, by position."""

    rules: Rules
    positions: Sequence[int]

    def applied(self, spec: AnySpec, owner: str) -> AnySpec:
        """Apply all of them to a spec; `owner` is `attack` or the name of a defense."""
        for position in self.positions:
            spec = self.rules.applied(position, spec, owner)
        return spec


def changed(
    spec: AnySpec, changes: Mapping[str, object], document: Document, place: Place, prefix: str = ""
) -> AnySpec:
    """A spec with some parameters changed.

    Args:
        changes: Values by parameter. `recipe.epochs` is a parameter of the spec in `recipe`.
        prefix: What the document writes before the parameter names.

    Raises:
        BadInput: If a parameter does not exist or a value is invalid; located in the document.
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
            written = validated(_alone(type(spec), key), document, place, {key: value}, prefix)
            values[key] = getattr(written, key)
            base = inherited_class(type(spec))
            if base is not type(spec) and key in base.model_fields:
                validated(_alone(base, key), document, place, {key: value}, prefix)
        else:
            message = f"no such parameter{suggestion(key, known)}"
            raise document.problem((*place, prefix + key), message)
    # the other values are no longer as a user wrote them: 0.5/255 has become 0.5
    found = validated(type(spec), document, place, values, prefix, written=False)
    if type(spec).source_digest:
        check_inherited(found, document, place, dict(found), prefix, written=False)
    return found


@cache
def _alone(cls: type[Spec], key: str) -> type[BaseModel]:
    """A model of one parameter of a class."""
    field = cls.model_fields[key]
    fields: dict[str, Any] = {key: (field.annotation, field)}
    return create_model(cls.__name__, __config__=cls.model_config, **fields)


def has_parameter(spec: Spec, key: str) -> bool:
    """Whether a spec has a parameter, such as `draws` or the nested `recipe.epochs`."""
    outer, dot, inner = key.partition(".")
    if outer not in type(spec).model_fields or outer == "kind":
        return False
    held = getattr(spec, outer)
    return not dot or (isinstance(held, Spec) and has_parameter(held, inner))


def owned(values: Mapping[str, object], owner: str) -> dict[str, object]:
    """Select the values for one owner from `owner.parameter: value`, by parameter."""
    prefix = f"{owner}."
    return {key[len(prefix) :]: value for key, value in values.items() if key.startswith(prefix)}


def no_owner(key: str, owners: Collection[str]) -> str:
    """Error message for a parameter whose owner does not exist."""
    owner, dot, _ = key.partition(".")
    if not dot:
        return f"say of what, such as '{min(owners)}.{key}'"
    return f"nothing is called '{owner}' here{suggestion(owner, owners)}"

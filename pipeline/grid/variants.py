"""The entries of a grid's tables: names of models, attacks and defenses, or variants of them."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass

from pipeline.catalogue.documents import Document, Place
from pipeline.catalogue.grid_entries import VariantEntry, label_of
from pipeline.grid.parameters import AnySpec, changed, has_parameter, no_owner, owned
from pipeline.problems import BadInput
from tasks.specs import Problem, Spec


@dataclass(frozen=True)
class Chosen:
    """An entry of a table, and its place in the document for error messages."""

    choice: str | VariantEntry
    document: Document
    place: Place

    @property
    def label(self) -> str:
        """Its label in the table."""
        return label_of(self.choice)

    @property
    def name(self) -> str:
        """Name of the model, attack or defense, or of the chain, that it is or starts from."""
        return self.choice if isinstance(self.choice, str) else self.choice.use

    @property
    def changes(self) -> Mapping[str, object]:
        """The parameters of a variant and their values."""
        return {} if isinstance(self.choice, str) else self.choice.set

    def problem(self, message: str, *inside: str | int) -> BadInput:
        """A one-line BadInput about the entry, or about a place inside it."""
        return self.document.problem((*self.place, *inside), message)

    def applied(self, spec: AnySpec, *, owner: str = "", alone: bool = True) -> AnySpec:
        """A spec with the parameters of the variant, if the entry is one.

        Args:
            owner: Name of the part of a chain that the spec is.
            alone: Whether it is the only part, so that parameters need no prefix.

        Raises:
            BadInput: If a parameter does not exist or a value is invalid.
        """
        place = (*self.place, "set")
        if alone:
            plain = {
                key: value for key, value in self.changes.items() if "." not in key or not owner
            }
            spec = changed(spec, plain, self.document, place)
        if owner:
            spec = changed(spec, owned(self.changes, owner), self.document, place, f"{owner}.")
        return spec

    def resolved(self, spec: AnySpec, problem: Problem) -> AnySpec:
        """A spec with its problem-dependent defaults; BadInput if it does not fit the problem."""
        try:
            return spec.resolved(problem)
        except ValueError as error:
            raise self.problem(" ".join(str(error).split())) from None

    def check_kept(self, before: Spec, after: Spec, *, owner: str = "") -> None:
        """Raise BadInput if a parameter of the variant has been changed, so its label is wrong.

        Args:
            before, after: The spec with the variant's parameters, before and after other changes.
            owner: See `applied`.
        """
        for key in self.changes:
            name = key.removeprefix(f"{owner}.") if owner else key
            if not has_parameter(before, name):
                continue  # of another part
            old, new = _value(before, name), _value(after, name)
            if old != new:
                message = f"'{self.label}' has {name} {old}, and a rule or --set makes it {new}"
                raise self.problem(message)

    def check_owners(self, owners: Collection[str]) -> None:
        """Raise BadInput for a parameter of the variant that belongs to none of its parts."""
        for key in self.changes:
            plain = "." not in key and len(owners) == 1
            if not plain and not any(key.startswith(f"{owner}.") for owner in owners):
                raise self.problem(no_owner(key, owners), "set", key)


def _value(spec: Spec, key: str) -> object:
    outer, _, inner = key.partition(".")
    held = getattr(spec, outer)
    return _value(held, inner) if inner and isinstance(held, Spec) else held

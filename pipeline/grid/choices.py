"""The specs of the entries of a grid's tables, with variants, rules and `--set` options applied."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path

from pydantic import ValidationError

from pipeline.catalogue.catalogue import Catalogue
from pipeline.catalogue.documents import Document, Place
from pipeline.catalogue.sources.locate import DatasetSource
from pipeline.grid.assigned import Assigned
from pipeline.grid.lookup import Ingredients, ModelParts
from pipeline.grid.parameters import Matching
from pipeline.grid.variants import Chosen
from tasks.attacks.base import Attack
from tasks.data.spec import DatasetSpec
from tasks.defenses.base import Defense
from tasks.defenses.chain import Chain
from tasks.specs import Problem
from tasks.training.recipe import EnsembleSpec

BARE = "none"
"""Name and kind of the defense that leaves the network without one."""


class Choices:
    """Makes the specs that a grid's tables choose; their defaults are not yet filled in.

    Each method raises BadInput, located at the entry, for what does not exist or does not fit.

    Args:
        data: Folders of data sets, by name.
        weights: Checkpoint files, by the name of the model.
        parameters: Values of `--set` options, by `owner.parameter`.

    Attributes:
        assigned: The `--set` options.
        models: Config names of the models so far, including those that variants are based on.
    """

    def __init__(
        self,
        catalogue: Catalogue,
        *,
        data: Mapping[str, Path],
        weights: Mapping[str, Path],
        parameters: Mapping[str, object],
    ) -> None:
        self._catalogue = catalogue
        self._ingredients = Ingredients(catalogue, data, weights)
        self.assigned = Assigned(parameters)
        self.models: set[str] = set()

    def dataset(self, name: str) -> tuple[DatasetSpec, DatasetSource]:
        """The spec of an existing data set, and its files on this machine."""
        return self._ingredients.dataset(name)

    def class_names(self, dataset: str) -> tuple[str, ...] | None:
        """Names of a data set's classes, in the order of the labels; None if they are numbers."""
        return self._ingredients.class_names(dataset)

    def problem(self, parts: ModelParts, epsilon: float) -> Problem:
        """The problem of a model's data set, which defaults of attacks and defenses depend on.

        Args:
            epsilon: Default size of perturbations, in 1/255.
        """
        spec, source = self.dataset(parts.dataset)
        return Problem(
            epsilon=epsilon,
            classes=spec.classes,
            side=spec.side,
            pool=source.train,
            mirrors=self._catalogue.dataset(parts.dataset).mirrors,
        )

    def model(self, chosen: Chosen) -> ModelParts:
        """Resolve a model or variant. A changed model has no published numbers of its own."""
        self.models.add(chosen.name)
        parts = self._ingredients.model(chosen.name, chosen.document, chosen.place)
        if isinstance(parts.spec, EnsembleSpec):
            return self._ensemble(parts, parts.spec, chosen)
        variant = chosen.applied(parts.spec)
        spec = self.assigned.applied(variant, chosen.name, "model")
        chosen.check_kept(variant, spec)
        if spec == parts.spec:
            return parts
        return dataclasses.replace(parts, spec=spec, stands_for=None, published_accuracy=None)

    def _ensemble(self, parts: ModelParts, spec: EnsembleSpec, chosen: Chosen) -> ModelParts:
        """Resolve an ensemble, applying `--set` options to its members."""
        if chosen.changes:
            message = "an ensemble has no parameters of its own; set those of its members' models"
            raise chosen.problem(message, "set")
        self.models.update(parts.members)
        self.assigned.refuse(chosen.name, "an ensemble has no parameters but its members'")
        members = [
            self.assigned.applied(member, name, "model")
            for name, member in zip(parts.members, spec.members, strict=True)
        ]
        return dataclasses.replace(parts, spec=EnsembleSpec.of(members))

    def attack(self, chosen: Chosen, rules: Matching | None = None) -> Attack:
        """Resolve an attack or variant; `rules` are those of the grid that match the cell."""
        variant = chosen.applied(self._named_attack(chosen))
        ruled = variant if rules is None else rules.applied(variant, "attack")
        spec = self.assigned.applied(ruled, chosen.name, "attack")
        chosen.check_kept(variant, spec)
        return spec

    def attack_note(self, chosen: Chosen, spec: Attack) -> str | None:
        """The note from the config of an attack; None if `spec` has other parameters."""
        return (
            self._catalogue.attack_note(chosen.name) if spec == self._named_attack(chosen) else None
        )

    def _named_attack(self, chosen: Chosen) -> Attack:
        return self._ingredients.attack(chosen.name, chosen.document, chosen.place)

    def defense(self, chosen: Chosen, rules: Matching | None = None) -> Defense:
        """Resolve a defense, variant or chain; `rules` are those that match the cell."""
        names = chosen.name.split("+")
        alone = len(names) == 1
        parts = []
        for name in names:
            named = self.single_defense(name, chosen.document, chosen.place)
            variant = chosen.applied(named, owner=name, alone=alone)
            ruled = variant if rules is None else rules.applied(variant, name)
            spec = self.assigned.applied(ruled, name)
            chosen.check_kept(variant, spec, owner=name)
            parts.append(spec)
        chosen.check_owners(names)
        if chosen.label == BARE and (not alone or parts[0].kind != BARE):
            kind = parts[0].kind if alone else chosen.name
            raise chosen.problem(
                f"'{BARE}' is the network without a defense, which gains and verdicts compare "
                f"with, and this is of kind '{kind}'; give it another name or label"
            )
        if alone:
            return parts[0]
        try:
            return Chain(parts=tuple(parts))
        except ValidationError as error:
            said = str(error.errors()[0]["ctx"]["error"])
            raise chosen.problem(f"'{chosen.name}': {said}") from None

    def single_defense(self, name: str, document: Document, place: Place) -> Defense:
        """The spec of a single defense as its config has it; `place` refers to it."""
        return self._ingredients.defense(name, document, place)

"""Builds the cells of a named grid: products of models, attacks and defenses, with rules applied.

The specs of a cell are complete: all defaults that depend on the problem (perturbation size,
classes, image size) are filled in. So a digest covers exactly what is computed.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from pydantic import ValidationError

from pipeline.catalogue.catalogue import Catalogue
from pipeline.catalogue.catalogue import Section as CatalogueSection
from pipeline.catalogue.documents import Document, Place
from pipeline.catalogue.entries import GridEntry, TableEntry, VariantEntry, plain_label
from pipeline.grid.assigned import Assigned
from pipeline.grid.cells import Cell, Grid, Section, SweptChoice, Table, plain
from pipeline.grid.lookup import Ingredients, ModelParts
from pipeline.grid.parameters import (
    Matching,
    Rules,
    check_kept,
    check_owners,
    resolved,
    with_variant,
)
from pipeline.grid.sweeps import Ingredient, Sweep
from pipeline.problems import BadInput, suggestion
from tasks.attacks.adaptive import Adaptive
from tasks.attacks.base import Attack, CompoundAttack
from tasks.defenses.base import Defense
from tasks.defenses.chain import Chain
from tasks.evaluation.costs import prediction_passes
from tasks.specs import Problem
from tasks.training.recipe import CheckpointSpec, ClassifierSpec, EnsembleSpec, TrainSpec


@dataclass(frozen=True, kw_only=True)
class Overrides:
    """Changes of a grid that are given on the command line.

    Attributes:
        add: Pairs of section and name or file: models, attacks and defenses added to every table.
        images: Number of test images.
        seeds: Number of seeds.
        redraws: Number of repeated predictions of randomised defenses.
        adaptive: Budget of an adaptive attack that is added to every table.
        parameters: Parameters changed in all cells, such as `guo.draws` or `attack.epsilon`.
        data: Folders of data sets, by name.
        weights: Checkpoint files, by the name of the model.
    """

    add: Sequence[tuple[CatalogueSection, str]] = ()
    images: int | None = None
    seeds: int = 1
    redraws: int | None = None
    adaptive: str | None = None
    parameters: Mapping[str, object] = dataclasses.field(default_factory=dict)
    data: Mapping[str, Path] = dataclasses.field(default_factory=dict)
    weights: Mapping[str, Path] = dataclasses.field(default_factory=dict)


def load_grid(catalogue: Catalogue, name: str, overrides: Overrides | None = None) -> Grid:
    """Build all cells of a grid.

    Raises:
        BadInput: If anything is invalid; the message says where.
    """
    overrides = overrides or Overrides()
    builder = _Builder(catalogue, overrides)
    grid = builder.grid(name, frozenset())
    builder.assigned.check()
    datasets, models = {cell.dataset for cell in grid.cells}, builder.models
    for option, what, given, used in (
        ("--data", "data set", overrides.data, datasets),
        ("--weights", "model", overrides.weights, models),
    ):
        for unknown in (known for known in given if known not in used):
            hint = suggestion(unknown, used)
            raise BadInput(f"{option} {unknown}: no such {what} in grid '{name}'{hint}")
    return dataclasses.replace(
        grid, parameters=dict(overrides.parameters), notes=builder.added_notes(grid)
    )


CHOSEN: tuple[Section, ...] = ("models", "attacks", "defenses")
"""The dimensions of a table; a cell has one of each."""


@dataclass(frozen=True)
class _Placed:
    """An entry of a table, and its place in the document for error messages."""

    choice: str | VariantEntry
    place: Place


class _Builder:
    """Builds the cells of a grid and of the grids that it includes."""

    def __init__(self, catalogue: Catalogue, overrides: Overrides) -> None:
        self._catalogue = catalogue
        self._overrides = overrides
        self._added = [
            (section, catalogue.add(section, choice)) for section, choice in overrides.add
        ]
        for section, name in self._added:
            _check_label(section, name)
            for part in name.split("+") if section == "defenses" else [name]:
                catalogue.document(section, part)
        self._ingredients = Ingredients(catalogue, overrides.data, overrides.weights)
        self.assigned = Assigned(overrides.parameters)
        self.models: set[str] = set()
        """Config names of the grid's models, including those that variants are based on."""
        self._added += [("attacks", name) for name in _budget(catalogue, overrides.adaptive)]
        self._unchanged: list[str] = []

    def added_notes(self, grid: Grid) -> tuple[str, ...]:
        """Say to which tables nothing was added, in lines; BadInput if these are all."""
        if not self._added or not self._unchanged:
            return ()
        what = ", ".join(f"{section[:-1]} {name}" for section, name in self._added)
        unchanged = dict.fromkeys(self._unchanged)
        if unchanged.keys() == {table.name for table in grid.tables}:
            raise BadInput(
                f"{what}: grid '{grid.name}' has only tables of class probabilities, to which "
                "nothing can be added"
            )
        return (f"{what}: not in {', '.join(unchanged)}, which shows class probabilities",)

    def grid(self, name: str, above: frozenset[str]) -> Grid:
        """Build a grid; `above` are the grids that include it."""
        entry, document = self._catalogue.grid(name)
        if not entry.tables and not entry.grids:
            raise document.problem((), "a grid needs tables or other grids")
        above |= {name}
        cells: dict[str, Cell] = {}
        tables: list[Table] = []
        for position, inner in enumerate(entry.grids):
            place: Place = ("grids", position)
            known = self._catalogue.names("grids").keys() - above
            if inner not in known:
                message = f"no other grid '{inner}'{suggestion(inner, known)}"
                raise document.problem(place, message)
            part = self.grid(inner, above)
            tables.extend(part.tables)
            for cell in part.cells:
                _admit(cells, cell, document, place)
        rules = Rules(entry.rules, document)
        for position, given in enumerate(entry.tables):
            place = ("tables", position)
            sweep, swept = self._swept(entry, self._grown(given), document, place)
            table = self._completed(swept, document, place)
            tables.append(_table(table, sweep.swept, document, place))
            for cell in self._table_cells(entry, table, sweep, rules, document):
                _admit(cells, cell, document, place)
        rules.check()
        return Grid(name, entry.title, tuple(cells.values()), tuple(tables), gallery=entry.gallery)

    def _grown(self, table: TableEntry) -> TableEntry:
        """Add the models, attacks and defenses of the command line to a table.

        In the figure of a table they are further curves. A table with a figure of class
        probabilities is not changed.
        """
        if table.figure is not None and table.figure.probabilities:
            self._unchanged.append(table.name)
            return table
        choices: dict[str, tuple[str | VariantEntry, ...]] = {
            "models": table.models,
            "attacks": table.attacks,
            "defenses": table.defenses,
        }
        for section, name in self._added:
            own = {_label(choice): choice for choice in choices[section]}
            if name in own and own[name] != name:
                raise BadInput(
                    f"--add {section[:-1]}={name}: table '{table.name}' calls a variant "
                    f"'{name}'; rename one of them"
                )
            if name not in own:
                choices[section] = (*choices[section], name)
        return table.model_copy(update=choices)

    def _swept(
        self, entry: GridEntry, table: TableEntry, document: Document, place: Place
    ) -> tuple[Sweep, TableEntry]:
        """Expand a table's sweep; returns the sweep and the table with its variants."""
        sweep = Sweep(table, document, (*place, "sweep"))
        if not table.sweep:
            return sweep, table
        no_rules = Rules((), document).matching({})
        models = [
            self._model(choice, document, (*place, "models", number))
            for number, choice in enumerate(table.models)
        ]
        problems = [self._problem(entry, parts) for parts in models]
        found = [
            Ingredient("models", choice, [(_used(choice), parts.spec)], [problem])
            for choice, parts, problem in zip(table.models, models, problems, strict=True)
        ]
        for number, choice in enumerate(table.attacks):
            attack = self._attack(choice, no_rules, document, (*place, "attacks", number))
            found.append(Ingredient("attacks", choice, [(_used(choice), attack)], problems))
        for number, choice in enumerate(table.defenses):
            defense = self._defense(choice, no_rules, document, (*place, "defenses", number))
            names = _used(choice).split("+")
            parts = defense.parts if isinstance(defense, Chain) and len(names) > 1 else (defense,)
            pairs = list(zip(names, parts, strict=True))
            found.append(Ingredient("defenses", choice, pairs, problems))
        made: dict[str, list[str | VariantEntry]] = {"models": [], "attacks": [], "defenses": []}
        for ingredient in found:
            made[ingredient.section] += sweep.made_of(ingredient)
        swept = table.model_copy(update={key: tuple(choices) for key, choices in made.items()})
        sweep.check(swept)
        return sweep, swept

    def _problem(self, entry: GridEntry, parts: ModelParts) -> Problem:
        """The problem of a model's data set, which defaults of attacks and defenses depend on."""
        spec, source = self._ingredients.dataset(parts.dataset)
        return Problem(
            epsilon=entry.epsilon,
            classes=spec.classes,
            side=spec.side,
            pool=source.train,
            mirrors=self._catalogue.dataset(parts.dataset).mirrors,
        )

    def _completed(self, table: TableEntry, document: Document, place: Place) -> TableEntry:
        """Add the baselines of equal cost to a table that has `equal_cost`."""
        if table.equal_cost is None:
            return table
        at: Place = (*place, "equal_cost")
        self._ingredients.defense(table.equal_cost, document, at)
        models = [self._model(choice, document, at) for choice in table.models]
        classes = {self._ingredients.dataset(model.dataset)[0].classes for model in models}
        no_rules = Rules((), document).matching({})
        specs = [
            self._defense(choice, no_rules, document, (*place, "defenses", number))
            for number, choice in enumerate(table.defenses)
        ]
        costs = {prediction_passes(spec, count).equivalents for spec in specs for count in classes}
        baselines = [
            VariantEntry(
                label=f"{table.equal_cost}[draws={draws}]",
                use=table.equal_cost,
                set={"draws": draws},
            )
            for draws in sorted(costs - {1})
        ]
        return table.model_copy(update={"defenses": (*table.defenses, *baselines)})

    def _table_cells(
        self,
        entry: GridEntry,
        table: TableEntry,
        sweep: Sweep,
        rules: Rules,
        document: Document,
    ) -> list[Cell]:
        models, attacks, defenses = (
            [_Placed(choice, sweep.place_of(section, choice)) for choice in getattr(table, section)]
            for section in CHOSEN
        )
        cells = [
            self._cell(entry, table, model, attack, defense, rules=rules, document=document)
            for model in models
            for attack in attacks
            for defense in defenses
        ]
        # seeds are the outer dimension, so that the table of the first seed is complete early
        return [
            dataclasses.replace(cell, seed=entry.seed + seed, model_spec=_seeded(cell, seed))
            for seed in range(self._overrides.seeds)
            for cell in cells
        ]

    def _cell(
        self,
        entry: GridEntry,
        table: TableEntry,
        model: _Placed,
        attack: _Placed,
        defense: _Placed,
        *,
        rules: Rules,
        document: Document,
    ) -> Cell:
        """Build the cell of one model, attack and defense of a table."""
        parts = self._model(model.choice, document, model.place)
        dataset_spec, source = self._ingredients.dataset(parts.dataset)
        problem = self._problem(entry, parts)
        names = {
            "dataset": parts.dataset,
            "model": _label(model.choice),
            "attack": _label(attack.choice),
            "defense": _label(defense.choice),
        }
        matching = rules.matching({**names, "table": table.name})
        attack_spec = self._attack(attack.choice, matching, document, attack.place)
        note = self._attack_note(attack_spec, attack.choice, document, attack.place)
        defense_spec = resolved(
            self._defense(defense.choice, matching, document, defense.place),
            problem,
            document,
            defense.place,
        )
        if defense_spec.asks_members() and not isinstance(parts.spec, EnsembleSpec):
            message = (
                f"defense '{names['defense']}' needs an ensemble (a model with `members`), "
                f"and '{names['model']}' of table '{table.name}' is a single network"
            )
            way = "; choose a grid whose models are all ensembles"
            raise self._refused("defenses", defense, document, message, way)
        if not source.train:
            spec = parts.spec
            members = spec.members if isinstance(spec, EnsembleSpec) else (spec,)
            trained = any(isinstance(member, TrainSpec) for member in members)
            if trained or (defense_spec.needs_pool() and defense_spec.pool_split() == "train"):
                message = f"data set '{parts.dataset}' has no images to train on or to draw from"
                raise document.problem((model if trained else defense).place, message)
        images = self._images(entry, parts.dataset, source.test, document)
        redraws = self._overrides.redraws or entry.redraws
        attack_spec = resolved(attack_spec, problem, document, attack.place)
        if isinstance(attack_spec, CompoundAttack):
            images = min(images, attack_spec.images or images)
        if isinstance(attack_spec, Adaptive):
            redraws = self._overrides.redraws or attack_spec.redraws or redraws
        cell = Cell(
            **names,
            seed=entry.seed,
            images=images,
            redraws=redraws,
            precision=entry.precision,
            adaptive_shard=entry.adaptive_shard,
            attack_note=note,
            members=parts.members,
            class_names=self._ingredients.class_names(parts.dataset),
            dataset_spec=dataset_spec,
            model_spec=resolved(parts.spec, problem, document, model.place),
            attack_spec=attack_spec,
            defense_spec=defense_spec,
            files=source.files,
            model_files=parts.files,
            stands_for=parts.stands_for,
            published_accuracy=parts.published_accuracy,
            train_images=source.train,
            test_images=source.test,
        )
        if attack_spec.draws_nothing and not cell.deterministic:
            message = (
                f"attack '{cell.attack}' is for models that always give the same answer, and "
                f"{cell.model} with defense '{cell.defense}' draws at random; "
                "an adaptive attack is for those"
            )
            raise self._refused("attacks", attack, document, message)
        return dataclasses.replace(cell, redraws=1) if cell.deterministic else cell

    def _refused(
        self, section: Section, chosen: _Placed, document: Document, message: str, way: str = ""
    ) -> BadInput:
        """The error for an entry of a table, which names `--add` if the entry comes from there.

        Args:
            way: What to do instead, for an entry that was added.
        """
        if (section, chosen.choice) in self._added:
            return BadInput(f"--add {section[:-1]}={chosen.choice}: {message}{way}")
        return document.problem(chosen.place, message)

    def _images(self, entry: GridEntry, dataset: str, available: int, document: Document) -> int:
        wanted = self._overrides.images or entry.images or available
        if wanted <= available:
            return wanted
        message = f"the test set of '{dataset}' has {available} images"
        if self._overrides.images:
            raise BadInput(f"--images {wanted}: {message}")
        raise document.problem(("images",), f"{message}, not {wanted}")

    def _model(self, choice: str | VariantEntry, document: Document, place: Place) -> ModelParts:
        """Resolve a model or variant. A changed model has no published numbers of its own."""
        name = _used(choice)
        self.models.add(name)
        parts = self._ingredients.model(name, document, place)
        if isinstance(parts.spec, EnsembleSpec):
            return self._ensemble(parts, parts.spec, choice, document, place)
        variant = with_variant(parts.spec, choice, document, place)
        spec = self.assigned.applied(variant, name, "model")
        check_kept(variant, spec, choice, document, place)
        if spec == parts.spec:
            return parts
        return dataclasses.replace(parts, spec=spec, stands_for=None, published_accuracy=None)

    def _ensemble(
        self,
        parts: ModelParts,
        spec: EnsembleSpec,
        choice: str | VariantEntry,
        document: Document,
        place: Place,
    ) -> ModelParts:
        """Resolve an ensemble, applying `--set` options to its members."""
        if not isinstance(choice, str) and choice.set:
            message = "an ensemble has no parameters of its own; set those of its members' models"
            raise document.problem((*place, "set"), message)
        self.models.update(parts.members)
        self.assigned.refuse(_used(choice), "an ensemble has no parameters but its members'")
        members = [
            self.assigned.applied(member, name, "model")
            for name, member in zip(parts.members, spec.members, strict=True)
        ]
        return dataclasses.replace(parts, spec=EnsembleSpec.of(members))

    def _attack(
        self, choice: str | VariantEntry, rules: Matching, document: Document, place: Place
    ) -> Attack:
        spec = self._ingredients.attack(_used(choice), document, place)
        variant = with_variant(spec, choice, document, place)
        spec = self.assigned.applied(rules.applied(variant, "attack"), _used(choice), "attack")
        check_kept(variant, spec, choice, document, place)
        return spec

    def _attack_note(
        self, spec: Attack, choice: str | VariantEntry, document: Document, place: Place
    ) -> str | None:
        """The note from the config of an attack; None if its parameters are changed here."""
        name = _used(choice)
        as_named = self._ingredients.attack(name, document, place)
        return self._catalogue.attack_note(name) if spec == as_named else None

    def _defense(
        self, choice: str | VariantEntry, rules: Matching, document: Document, place: Place
    ) -> Defense:
        names = _used(choice).split("+")
        alone = len(names) == 1
        parts = []
        for name in names:
            spec = self._ingredients.defense(name, document, place)
            variant = with_variant(spec, choice, document, place, owner=name, alone=alone)
            spec = self.assigned.applied(rules.applied(variant, name), name)
            check_kept(variant, spec, choice, document, place, owner=name)
            parts.append(spec)
        check_owners(choice, names, document, place)
        if alone:
            return parts[0]
        try:
            return Chain(parts=tuple(parts))
        except ValidationError as error:
            said = str(error.errors()[0]["ctx"]["error"])
            raise document.problem(place, f"'{_used(choice)}': {said}") from None


def _admit(cells: dict[str, Cell], cell: Cell, document: Document, place: Place) -> None:
    if cells.setdefault(cell.name, cell) != cell:
        raise document.problem(place, f"two different cells would be named '{cell.name}'")


def _budget(catalogue: Catalogue, budget: str | None) -> tuple[str, ...]:
    if budget is None:
        return ()
    prefix = "adaptive-"
    known = [
        name.removeprefix(prefix) for name in catalogue.names("attacks") if name.startswith(prefix)
    ]
    if budget not in known:
        raise BadInput(f"--adaptive {budget}: no such budget{suggestion(budget, known)}")
    return (prefix + budget,)


def _seeded(cell: Cell, seed: int) -> ClassifierSpec:
    """A model's spec with `seed` added to its training seed.

    The seeds of an ensemble's members rise in steps such that no training is a member of the
    ensembles of two seeds, whose spread would otherwise be too small.
    """
    if isinstance(cell.model_spec, EnsembleSpec):
        members = cell.model_spec.members
        return EnsembleSpec.of(
            [_trained_by(spec, (cell.seed + seed) * _apart(spec, members)) for spec in members]
        )
    return _trained_by(cell.model_spec, cell.seed + seed)


def _apart(spec: TrainSpec | CheckpointSpec, members: Sequence[TrainSpec | CheckpointSpec]) -> int:
    """The least step by which the seeds of all members with the same recipe may rise.

    Their seeds differ modulo the step, so those of different multiples of it are different.
    """
    if isinstance(spec, CheckpointSpec):
        return 1
    seeds = [
        other.seed
        for other in members
        if isinstance(other, TrainSpec) and other.model_copy(update={"seed": spec.seed}) == spec
    ]
    steps = itertools.count(len(seeds))
    return next(step for step in steps if len({seed % step for seed in seeds}) == len(seeds))


def _trained_by(spec: TrainSpec | CheckpointSpec, seed: int) -> TrainSpec | CheckpointSpec:
    """A model's spec with `seed` added to its training seed; a checkpoint has none."""
    if isinstance(spec, CheckpointSpec):
        return spec
    return spec.model_copy(update={"seed": spec.seed + seed})


def _label(choice: str | VariantEntry) -> str:
    return choice if isinstance(choice, str) else choice.label


def _check_label(section: CatalogueSection, name: str) -> None:
    try:
        plain_label(name)
    except ValueError as error:
        raise BadInput(f"--add {section.removesuffix('s')}: {error}") from None


def _used(choice: str | VariantEntry) -> str:
    return choice if isinstance(choice, str) else choice.use


def _table(
    entry: TableEntry, swept: Sequence[SweptChoice], document: Document, place: Place
) -> Table:
    labels, models = tuple(map(_label, entry.defenses)), tuple(map(_label, entry.models))
    if entry.gains_of is not None and entry.gains_over is not None:
        raise document.problem((*place, "gains_over"), "give either gains_of or gains_over")
    attacks = tuple(map(_label, entry.attacks))
    bases = {
        "gains_of": ("defense", {plain(label.partition("+")[0]) for label in labels}),
        "gains_over": ("defense, model or attack", {*labels, *models, *attacks}),
    }
    for key, (what, known) in bases.items():
        base = getattr(entry, key)
        if base is not None and base not in known:
            message = f"no such {what} in this table: '{base}'{suggestion(base, known)}"
            raise document.problem((*place, key), message)
    return Table(
        name=entry.name,
        title=entry.title,
        models=models,
        attacks=attacks,
        defenses=labels,
        gains_of=entry.gains_of,
        gains_over=entry.gains_over,
        figure=entry.figure,
        swept=tuple(swept),
    )

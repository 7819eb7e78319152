"""From a named grid to its cells: products of models, attacks and defenses, with rules applied.

A cell's specs are complete: every default that depends on the problem (perturbation size,
classes, image size) is filled in, so what enters a digest is what is computed.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from pydantic import ValidationError

from pipeline.catalogue.catalogue import Catalogue, Section
from pipeline.catalogue.documents import Document, Place
from pipeline.catalogue.entries import GridEntry, TableEntry, VariantEntry, plain_label
from pipeline.grid.cells import Cell, Grid, Table
from pipeline.grid.lookup import Ingredients
from pipeline.grid.parameters import Matching, Rules, check_owners, resolved, with_variant
from pipeline.problems import BadInput, suggestion
from tasks.attacks.adaptive import Adaptive
from tasks.attacks.base import Attack, CompoundAttack
from tasks.defenses.base import Defense
from tasks.defenses.chain import Chain
from tasks.evaluation.costs import prediction_passes
from tasks.specs import Problem
from tasks.training.recipe import CheckpointSpec, TrainSpec


@dataclass(frozen=True, kw_only=True)
class Overrides:
    """What the command line changes of a grid.

    add: (section, name or file) of models, attacks and defenses that every table gets as well;
    adaptive: the budget of an adaptive attack that every table gets, for all its defenses.
    """

    add: Sequence[tuple[Section, str]] = ()
    images: int | None = None
    seeds: int = 1
    redraws: int | None = None
    adaptive: str | None = None
    data: Mapping[str, Path] = dataclasses.field(default_factory=dict)
    weights: Mapping[str, Path] = dataclasses.field(default_factory=dict)


def load_grid(catalogue: Catalogue, name: str, overrides: Overrides | None = None) -> Grid:
    """The cells of a grid; BadInput, located, for anything that does not fit."""
    overrides = overrides or Overrides()
    grid = _Builder(catalogue, overrides).grid(name, frozenset())
    datasets, models = {cell.dataset for cell in grid.cells}, {cell.model for cell in grid.cells}
    for option, what, given, used in (
        ("--data", "data set", overrides.data, datasets),
        ("--weights", "model", overrides.weights, models),
    ):
        for unknown in (known for known in given if known not in used):
            hint = suggestion(unknown, used)
            raise BadInput(f"{option} {unknown}: no such {what} in grid '{name}'{hint}")
    return grid


class _Builder:
    """Makes the cells of a grid and of the grids that it includes."""

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
        self._added += [("attacks", name) for name in _budget(catalogue, overrides.adaptive)]

    def grid(self, name: str, above: frozenset[str]) -> Grid:
        """A grid; `above` are the grids that include it."""
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
            table = self._completed(self._grown(given), document, place)
            tables.append(_table(table, document, place))
            for cell in self._table_cells(entry, table, rules, document, place):
                _admit(cells, cell, document, place)
        rules.check()
        return Grid(name, entry.title, tuple(cells.values()), tuple(tables))

    def _grown(self, table: TableEntry) -> TableEntry:
        """A table with what the command line adds; a figure's keeps what it draws."""
        if table.figure is not None:
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

    def _completed(self, table: TableEntry, document: Document, place: Place) -> TableEntry:
        """A table with a baseline of equal cost for each of its defenses, where it asks for one."""
        if table.equal_cost is None:
            return table
        at: Place = (*place, "equal_cost")
        self._ingredients.defense(table.equal_cost, document, at)
        models = [self._ingredients.model(name, document, at) for name in table.models]
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
        self, entry: GridEntry, table: TableEntry, rules: Rules, document: Document, place: Place
    ) -> list[Cell]:
        cells = [
            self._cell(
                entry, table, model, attack, defense, rules=rules, document=document, place=place
            )
            for model in range(len(table.models))
            for attack in range(len(table.attacks))
            for defense in range(len(table.defenses))
        ]
        # seeds are the outer dimension, so that a first seed's table is whole early
        return [
            dataclasses.replace(cell, seed=entry.seed + seed, model_spec=_seeded(cell, seed))
            for seed in range(self._overrides.seeds)
            for cell in cells
        ]

    def _cell(
        self,
        entry: GridEntry,
        table: TableEntry,
        model: int,
        attack: int,
        defense: int,
        *,
        rules: Rules,
        document: Document,
        place: Place,
    ) -> Cell:
        """The cell of a table's model, attack and defense, each given by its position."""
        model_name = table.models[model]
        parts = self._ingredients.model(model_name, document, (*place, "models", model))
        dataset_spec, source = self._ingredients.dataset(parts.dataset)
        problem = Problem(
            epsilon=entry.epsilon,
            classes=dataset_spec.classes,
            side=dataset_spec.side,
            pool=source.train,
        )
        names = {
            "dataset": parts.dataset,
            "model": model_name,
            "attack": _label(table.attacks[attack]),
            "defense": _label(table.defenses[defense]),
        }
        matching = rules.matching({**names, "table": table.name})
        attack_place: Place = (*place, "attacks", attack)
        attack_spec = self._attack(table.attacks[attack], matching, document, attack_place)
        defense_place: Place = (*place, "defenses", defense)
        defense_spec = resolved(
            self._defense(table.defenses[defense], matching, document, defense_place),
            problem,
            document,
            defense_place,
        )
        if not source.train:
            trained = isinstance(parts.spec, TrainSpec)
            if trained or (defense_spec.needs_pool() and defense_spec.pool_split() == "train"):
                what, at = ("models", model) if trained else ("defenses", defense)
                message = f"data set '{parts.dataset}' has no images to train on or to draw from"
                raise document.problem((*place, what, at), message)
        images = self._images(entry, parts.dataset, source.test, document)
        redraws = self._overrides.redraws or entry.redraws
        attack_spec = resolved(attack_spec, problem, document, attack_place)
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
            dataset_spec=dataset_spec,
            model_spec=resolved(parts.spec, problem, document, (*place, "models", model)),
            attack_spec=attack_spec,
            defense_spec=defense_spec,
            files=source.files,
            model_files=parts.files,
            stands_for=parts.stands_for,
            published_accuracy=parts.published_accuracy,
            train_images=source.train,
        )
        if attack_spec.draws_nothing and not cell.deterministic:
            message = (
                f"attack '{cell.attack}' is for models that always give the same answer, and "
                f"{cell.model} with defense '{cell.defense}' draws at random; "
                "an adaptive attack is for those"
            )
            raise document.problem(attack_place, message)
        return dataclasses.replace(cell, redraws=1) if cell.deterministic else cell

    def _images(self, entry: GridEntry, dataset: str, available: int, document: Document) -> int:
        wanted = self._overrides.images or entry.images or available
        if wanted <= available:
            return wanted
        message = f"the test set of '{dataset}' has {available} images"
        if self._overrides.images:
            raise BadInput(f"--images {wanted}: {message}")
        raise document.problem(("images",), f"{message}, not {wanted}")

    def _attack(
        self, choice: str | VariantEntry, rules: Matching, document: Document, place: Place
    ) -> Attack:
        spec = self._ingredients.attack(_used(choice), document, place)
        spec = with_variant(spec, choice, document, place)
        return rules.applied(spec, "attack")

    def _defense(
        self, choice: str | VariantEntry, rules: Matching, document: Document, place: Place
    ) -> Defense:
        names = _used(choice).split("+")
        alone = len(names) == 1
        parts = []
        for name in names:
            spec = self._ingredients.defense(name, document, place)
            spec = with_variant(spec, choice, document, place, owner=name, alone=alone)
            parts.append(rules.applied(spec, name))
        check_owners(choice, names, document, place)
        if alone:
            return parts[0]
        try:
            return Chain(parts=tuple(parts))
        except ValidationError as error:
            raise document.problem(place, error.errors()[0]["msg"]) from None


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


def _seeded(cell: Cell, seed: int) -> TrainSpec | CheckpointSpec:
    if isinstance(cell.model_spec, CheckpointSpec):
        return cell.model_spec
    return cell.model_spec.model_copy(update={"seed": cell.seed + seed})


def _label(choice: str | VariantEntry) -> str:
    return choice if isinstance(choice, str) else choice.label


def _check_label(section: Section, name: str) -> None:
    try:
        plain_label(name)
    except ValueError as error:
        raise BadInput(f"--add {section.removesuffix('s')}: {error}") from None


def _used(choice: str | VariantEntry) -> str:
    return choice if isinstance(choice, str) else choice.use


def _table(entry: TableEntry, document: Document, place: Place) -> Table:
    labels = tuple(map(_label, entry.defenses))
    if entry.gains_of is not None and entry.gains_over is not None:
        raise document.problem((*place, "gains_over"), "stands beside gains_of; give one of them")
    attacks = tuple(map(_label, entry.attacks))
    bases = {
        "gains_of": ("defense", {label.partition("+")[0] for label in labels}),
        "gains_over": ("defense, model or attack", {*labels, *entry.models, *attacks}),
    }
    for key, (what, known) in bases.items():
        base = getattr(entry, key)
        if base is not None and base not in known:
            message = f"no such {what} in this table: '{base}'{suggestion(base, known)}"
            raise document.problem((*place, key), message)
    return Table(
        name=entry.name,
        title=entry.title,
        models=entry.models,
        attacks=attacks,
        defenses=labels,
        gains_of=entry.gains_of,
        gains_over=entry.gains_over,
        figure=entry.figure,
    )

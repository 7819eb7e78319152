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

from pipeline.catalogue.catalogue import Catalogue
from pipeline.catalogue.catalogue import Section as CatalogueSection
from pipeline.catalogue.documents import Document, Place
from pipeline.catalogue.grid_entries import GridEntry, TableEntry
from pipeline.catalogue.sources.locate import DatasetSource
from pipeline.grid.additions import Additions
from pipeline.grid.cells import Cell, Grid, Section, Table
from pipeline.grid.choices import Choices
from pipeline.grid.lookup import ModelParts
from pipeline.grid.parameters import Rules
from pipeline.grid.seeds import seeded
from pipeline.grid.sweeps import Sweep
from pipeline.grid.tables import arranged, swept, with_equal_cost
from pipeline.grid.variants import Chosen
from pipeline.problems import BadInput, suggestion
from tasks.attacks.adaptive import Adaptive
from tasks.attacks.base import CompoundAttack
from tasks.defenses.base import Defense
from tasks.training.recipe import EnsembleSpec, TrainSpec


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
    builder.choices.assigned.check()
    datasets, models = {cell.dataset for cell in grid.cells}, builder.choices.models
    for option, what, given, used in (
        ("--data", "data set", overrides.data, datasets),
        ("--weights", "model", overrides.weights, models),
    ):
        for unknown in (known for known in given if known not in used):
            hint = suggestion(unknown, used)
            raise BadInput(f"{option} {unknown}: no such {what} in grid '{name}'{hint}")
    return dataclasses.replace(
        grid, parameters=dict(overrides.parameters), notes=builder.additions.notes(grid)
    )


CHOSEN: tuple[Section, ...] = ("models", "attacks", "defenses")
"""The dimensions of a table; a cell has one of each."""


@dataclass(frozen=True)
class _Definition:
    """The file of a grid, and its rules."""

    entry: GridEntry
    document: Document
    rules: Rules


class _Builder:
    """Builds the cells of a grid and of the grids that it includes."""

    def __init__(self, catalogue: Catalogue, overrides: Overrides) -> None:
        self._catalogue = catalogue
        self._overrides = overrides
        self.additions = Additions(catalogue, overrides.add, overrides.adaptive)
        self.choices = Choices(
            catalogue,
            data=overrides.data,
            weights=overrides.weights,
            parameters=overrides.parameters,
        )

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
        definition = _Definition(entry, document, Rules(entry.rules, document))
        for position, given in enumerate(entry.tables):
            place = ("tables", position)
            added = self.additions.grown(given)
            sweep, expanded = swept(added, self.choices, entry.epsilon, document, place)
            table = with_equal_cost(expanded, self.choices, document, place)
            tables.append(arranged(table, sweep.swept, document, place))
            for cell in self._table_cells(definition, table, sweep):
                _admit(cells, cell, document, place)
        definition.rules.check()
        return Grid(name, entry.title, tuple(cells.values()), tuple(tables), gallery=entry.gallery)

    def _table_cells(self, definition: _Definition, table: TableEntry, sweep: Sweep) -> list[Cell]:
        sections = [
            [
                Chosen(choice, definition.document, sweep.place_of(section, choice))
                for choice in getattr(table, section)
            ]
            for section in CHOSEN
        ]
        cells = [
            self._cell(definition, table.name, model, attack, defense)
            for model, attack, defense in itertools.product(*sections)
        ]
        first = definition.entry.seed
        # seeds are the outer dimension, so that the table of the first seed is complete early
        return [
            dataclasses.replace(cell, seed=seed, model_spec=seeded(cell.model_spec, seed))
            for seed in range(first, first + self._overrides.seeds)
            for cell in cells
        ]

    def _cell(
        self, definition: _Definition, table: str, model: Chosen, attack: Chosen, defense: Chosen
    ) -> Cell:
        """Build the cell of one model, attack and defense of a table."""
        entry = definition.entry
        parts = self.choices.model(model)
        dataset_spec, source = self.choices.dataset(parts.dataset)
        problem = self.choices.problem(parts, entry.epsilon)
        names = {
            "dataset": parts.dataset,
            "model": model.label,
            "attack": attack.label,
            "defense": defense.label,
        }
        rules = definition.rules.matching({**names, "table": table})
        attack_spec = self.choices.attack(attack, rules)
        note = self.choices.attack_note(attack, attack_spec)
        defense_spec = defense.resolved(self.choices.defense(defense, rules), problem)
        if defense_spec.asks_members() and not isinstance(parts.spec, EnsembleSpec):
            message = (
                f"defense '{defense.label}' needs an ensemble (a model with `members`), "
                f"and '{model.label}' of table '{table}' is a single network"
            )
            way = "; choose a grid whose models are all ensembles"
            raise self.additions.refused("defenses", defense, message, way)
        _check_pool(parts, source, model, defense, defense_spec)
        images = self._images(definition, parts.dataset, source.test)
        redraws = self._overrides.redraws or entry.redraws
        attack_spec = attack.resolved(attack_spec, problem)
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
            class_names=self.choices.class_names(parts.dataset),
            dataset_spec=dataset_spec,
            model_spec=model.resolved(parts.spec, problem),
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
            raise self.additions.refused("attacks", attack, message)
        return dataclasses.replace(cell, redraws=1) if cell.deterministic else cell

    def _images(self, definition: _Definition, dataset: str, available: int) -> int:
        """Number of test images of the grid's cells on a data set."""
        wanted = self._overrides.images or definition.entry.images or available
        if wanted <= available:
            return wanted
        message = f"the test set of '{dataset}' has {available} images"
        if self._overrides.images:
            raise BadInput(f"--images {wanted}: {message}")
        raise definition.document.problem(("images",), f"{message}, not {wanted}")


def _admit(cells: dict[str, Cell], cell: Cell, document: Document, place: Place) -> None:
    """Add a cell to those of a grid; BadInput if another one has its name."""
    if cells.setdefault(cell.name, cell) != cell:
        raise document.problem(place, f"two different cells would be named '{cell.name}'")


def _check_pool(
    parts: ModelParts, source: DatasetSource, model: Chosen, defense: Chosen, spec: Defense
) -> None:
    """Raise BadInput if training or the defense needs training images that a data set lacks."""
    if source.train:
        return
    members = parts.spec.members if isinstance(parts.spec, EnsembleSpec) else (parts.spec,)
    trained = any(isinstance(member, TrainSpec) for member in members)
    if trained or (spec.needs_pool() and spec.pool_split() == "train"):
        message = f"data set '{parts.dataset}' has no images to train on or to draw from"
        raise (model if trained else defense).problem(message)

"""A grid as it is planned, run and reported: cells, the tables that lay them out."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

from pipeline.catalogue.entries import FigureEntry
from pipeline.problems import BadInput, suggestion
from tasks.attacks.base import Attack
from tasks.data.spec import DatasetSpec
from tasks.defenses.base import Defense
from tasks.specs import ADAPTIVE_SHARD, Precision
from tasks.training.recipe import ClassifierSpec, EnsembleSpec


@dataclass(frozen=True)
class Cell:
    """One point of a grid. The first fields are names for people; specs are what is computed.

    members: the names of those of an ensemble.
    """

    dataset: str
    model: str
    attack: str
    defense: str
    seed: int
    images: int
    redraws: int
    precision: Precision
    dataset_spec: DatasetSpec
    model_spec: ClassifierSpec
    attack_spec: Attack
    defense_spec: Defense
    files: tuple[tuple[str, str], ...] = dataclasses.field(default=(), repr=False)
    model_files: tuple[tuple[str, str], ...] = dataclasses.field(default=(), repr=False)
    stands_for: str | None = None
    train_images: int = 0
    published_accuracy: float | None = None
    adaptive_shard: int = ADAPTIVE_SHARD
    attack_note: str | None = None
    members: tuple[str, ...] = ()

    @property
    def deterministic(self) -> bool:
        """Whether neither the defense nor the network has anything to draw."""
        return not self.model_spec.randomised and self.defense_spec.deterministic(
            self.dataset_spec.classes
        )

    def models(self) -> tuple[Cell, ...]:
        """A cell for each model behind it: itself, and as if of that alone each member."""
        if not isinstance(self.model_spec, EnsembleSpec):
            return (self,)
        pairs = zip(self.members, self.model_spec.members, strict=True)
        return (
            self,
            *(
                dataclasses.replace(self, model=name, model_spec=spec, members=())
                for name, spec in pairs
            ),
        )

    @property
    def name(self) -> str:
        """`model/attack/defense`, and the seed where it is not 0."""
        seed = f"/seed{self.seed}" if self.seed else ""
        return f"{self.model}/{self.attack}/{self.defense}{seed}"


Section = Literal["models", "attacks", "defenses"]
"""What a cell has one each of."""


@dataclass(frozen=True)
class SweptChoice:
    """A model, an attack or a defense that a table's sweep made, by the label that it goes by.

    values: the swept parameters, such as `guo.draws`, and what they are; without: by each of
    these, the label without it, which is the same for all that differ in nothing else.
    """

    section: Section
    label: str
    values: tuple[tuple[str, object], ...]
    without: tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class Table:
    """How some cells are laid out: rows are defenses by model, columns are attacks.

    swept: those of them that a sweep made.
    """

    name: str
    title: str
    models: tuple[str, ...]
    attacks: tuple[str, ...]
    defenses: tuple[str, ...]
    gains_of: str | None
    gains_over: str | None
    figure: FigureEntry | None = None
    swept: tuple[SweptChoice, ...] = ()

    def baseline(self, model: str, attack: str, defense: str) -> tuple[str, str, str] | None:
        """The model, attack and defense that a place's gain is counted from, if it has one."""
        base = self.gains_over
        if self.gains_of is not None:
            first, _, rest = defense.partition("+")
            base = (rest or "none") if plain(first) == self.gains_of else None
        if base in self.defenses and base != defense:
            return model, attack, base
        if base in self.models and base != model:
            return base, attack, defense
        if base in self.attacks and base != attack:
            return model, base, defense
        return None


@dataclass(frozen=True)
class Grid:
    """A named grid: its cells, each once, its tables, and whether its report shows images.

    command: the words of the command that computes it, where its name is that of no file.
    """

    name: str
    title: str
    cells: tuple[Cell, ...]
    tables: tuple[Table, ...]
    command: tuple[str, ...] = ()
    gallery: bool = True

    def run_words(self, only: Iterable[str] = (), *, force: bool = False) -> list[str]:
        """The command that computes it, or the cells that `only` chooses, or these again.

        One of a grid that is in no file computes all that is missing.
        """
        if self.command:
            return list(self.command)
        chosen = [word for choice in only for word in ("--only", choice)]
        return ["pipeline", "run", "--grid", self.name, *chosen, *["--force"] * force]

    @cached_property
    def _by_name(self) -> dict[str, Cell]:
        return {cell.name: cell for cell in self.cells}

    def cell(self, name: str) -> Cell:
        """The cell of a name; BadInput with a suggestion if there is none."""
        known = self._by_name
        if name not in known:
            near = suggestion(name, known) if len(known) < 400 else ""
            near = near if near.startswith("; did") else "; `pipeline list cells` has them"
            raise BadInput(f"no cell '{name}' in grid '{self.name}'{near}")
        return known[name]


def plain(label: str) -> str:
    """A label without the parameters in brackets that a sweep or a variant adds."""
    return label.partition("[")[0]

"""Data model of a grid, used by plan, run and report: cells, and tables that arrange them."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Literal

from pipeline.catalogue.grid_entries import FigureEntry
from pipeline.problems import BadInput, suggestion
from tasks.attacks.base import Attack, BallAttack, CompoundAttack
from tasks.data.spec import DatasetSpec
from tasks.defenses.base import Defense
from tasks.specs import ADAPTIVE_SHARD, Precision
from tasks.training.recipe import ClassifierSpec, EnsembleSpec

Ball = tuple[str, float]
"""Norm and epsilon, in 1/255, of an attack."""


@dataclass(frozen=True)
class Cell:
    """One cell of a grid: a model, an attack and a defense on a data set, with a seed.

    Attributes:
        dataset, model, attack, defense: Names for people; they are in no digest.
        redraws: Number of repeated predictions; 1 if nothing is random.
        dataset_spec, model_spec, attack_spec, defense_spec: What is computed.
        files: Role and path of the data set's files on this machine.
        model_files: The same for the model.
        stands_for: Model whose published numbers are shown beside this cell.
        adaptive_shard: Images in a shard of an adaptive attack.
        attack_note: Comment on the attack's results from its config.
        members: Names of the members of an ensemble.
        class_names: Names of the classes for people, in the order of the labels, if known.
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
    test_images: int = 0
    published_accuracy: float | None = None
    adaptive_shard: int = ADAPTIVE_SHARD
    attack_note: str | None = None
    members: tuple[str, ...] = ()
    class_names: tuple[str, ...] | None = None

    @property
    def deterministic(self) -> bool:
        """Whether neither the defense nor the network draws random numbers."""
        return not self.model_spec.randomised and self.defense_spec.deterministic(
            self.dataset_spec.classes
        )

    @property
    def ball(self) -> Ball | None:
        """The ball of the attack's examples; None without one, as for clean images."""
        spec = self.attack_spec
        return (spec.norm, spec.epsilon or 0.0) if isinstance(spec, BallAttack) else None

    @property
    def candidates(self) -> int:
        """Number of candidates among which the attack chooses for each image."""
        attack = self.attack_spec
        if not isinstance(attack, CompoundAttack):
            return 1
        return len(attack.transfers()) + len(attack.tries(self.defense_spec))

    def in_ball_of(self, other: Cell) -> bool:
        """Whether all examples of this cell's attack lie in the ball of the other cell's attack.

        Clean images do. So do those of an attack that is not bounded by a norm and an epsilon.
        """
        own, theirs = self.attack_spec, other.attack_spec
        if not (isinstance(own, BallAttack) and isinstance(theirs, BallAttack)):
            return True
        return own.norm == theirs.norm and (own.epsilon or 0.0) <= (theirs.epsilon or 0.0)

    def models(self) -> tuple[Cell, ...]:
        """One cell for each model involved: this cell and, for an ensemble, a copy for each member.

        A copy describes the member as if it were the cell's only model.
        """
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
        """`model/attack/defense`, followed by the seed if it is not 0."""
        seed = f"/seed{self.seed}" if self.seed else ""
        return f"{self.model}/{self.attack}/{self.defense}{seed}"


Section = Literal["models", "attacks", "defenses"]
"""The dimensions of a table."""


@dataclass(frozen=True)
class SweptChoice:
    """A variant of a model, an attack or a defense that a table's sweep made.

    Attributes:
        label: Label of the variant.
        values: Swept parameters, such as `guo.draws`, and their values.
        without: For each swept parameter, the label without it. Variants that differ only in this
            parameter share it.
        in_full: The label with the values of all swept parameters, as `guo[draws=10]` where 10 is
            the original value and the label is `guo`.
    """

    section: Section
    label: str
    values: tuple[tuple[str, object], ...]
    without: tuple[tuple[str, str], ...]
    in_full: str


@dataclass(frozen=True)
class Table:
    """Arrangement of cells: defenses by model are the rows, attacks are the columns.

    swept: the variants that a sweep made.
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
        """The (model, attack, defense) that a cell's gain is measured against, if it has one."""
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
    """A named grid: its cells without duplicates, and its tables.

    Attributes:
        command: The command that computes the grid, if it is not defined in a file.
        gallery: Whether the report shows images.
        parameters: Parameters that were changed in all cells (`--set`), with their values.
        notes: Remarks for the user about what was added on the command line, in lines.
    """

    name: str
    title: str
    cells: tuple[Cell, ...]
    tables: tuple[Table, ...]
    command: tuple[str, ...] = ()
    gallery: bool = True
    parameters: Mapping[str, object] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    @property
    def defenses(self) -> tuple[str, ...]:
        """Labels of the tables' defenses, in order."""
        return tuple(dict.fromkeys(label for table in self.tables for label in table.defenses))

    def run_words(self, only: Iterable[str] = (), *, force: bool = False) -> list[str]:
        """The command line that computes the grid.

        For a grid without a file this is always its own command, which computes all that is
        missing.

        Args:
            only: `--only` filters of the cells to compute.
            force: Compute them again even if they are stored.
        """
        if self.command:
            return list(self.command)
        chosen = [word for choice in only for word in ("--only", choice)]
        return ["pipeline", "run", "--grid", self.name, *chosen, *["--force"] * force]

    @cached_property
    def _by_name(self) -> dict[str, Cell]:
        return {cell.name: cell for cell in self.cells}

    @cached_property
    def _labels(self) -> dict[tuple[Section, str], str]:
        """Labels by all names that stand for them."""
        swept = [each for table in self.tables for each in table.swept]
        found = {(each.section, each.in_full): each.label for each in swept}
        for cell in self.cells:
            found["models", cell.model] = cell.model
            found["attacks", cell.attack] = cell.attack
            found["defenses", cell.defense] = cell.defense
        return found

    def label(self, section: Section, name: str) -> str:
        """The label of a model, an attack or a defense that a user names.

        In a sweep, the variant with the original value has the plain label. It can also be named
        like its neighbours: `guo[draws=10]` for `guo`. A name that is not known is returned.
        """
        return self._labels.get((section, name), name)

    def cell_name(self, name: str) -> str:
        """The name of a cell that a user names; see `label`. An unknown name is returned."""
        model, _, rest = name.partition("/")
        attack, _, rest = rest.partition("/")
        defense, sign, seed = rest.partition("/")
        labels = (
            self.label("models", model),
            self.label("attacks", attack),
            self.label("defenses", defense),
        )
        found = f"{'/'.join(labels)}{sign}{seed}"
        return found if found in self._by_name else name

    def cell(self, name: str) -> Cell:
        """Look up a cell; BadInput with a suggestion if there is none of that name."""
        known = self._by_name
        name = self.cell_name(name)
        if name not in known:
            near = suggestion(name, known) if len(known) < 400 else ""
            near = near if near.startswith("; did") else "; `pipeline list cells` has them"
            defense = "".join(name.split("/")[2:3])
            if defense and all(cell.defense != defense for cell in self.cells):
                near += "; a defense that the grid lacks needs --add defense=NAME or FILE"
            raise BadInput(f"no cell '{name}' in grid '{self.name}'{near}")
        return known[name]


def plain(label: str) -> str:
    """A label without the bracketed parameters that a sweep or a variant adds."""
    return label.partition("[")[0]

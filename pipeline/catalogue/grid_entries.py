"""Pydantic models of the YAML files for grids.

The string below a field is the description of that key in `configs/README.md`, which `pipeline
reference` generates.
"""

from __future__ import annotations

from typing import Annotated, Self

from pydantic import AfterValidator, Discriminator, Field, Tag, model_validator

from pipeline.catalogue.validation import ConfigEntry, Heading, check_once
from pipeline.problems import suggestion
from tasks import registry
from tasks.specs import ADAPTIVE_SHARD, Count, LinfEpsilon, Precision, Seed

LONGEST_LABEL = 200
"""Maximum length of a label of a model, an attack or a defense, in characters."""


def plain_label(label: str) -> str:
    """Validate a label: not empty, printable, no surrounding spaces, not too long.

    Raises:
        ValueError: If the label breaks a rule; the message says which.
    """
    if not label.strip():
        raise ValueError("a label with nothing in it")
    if label != label.strip() or not label.isprintable():
        raise ValueError(f"{label!r} begins or ends with a space, or holds what is not printable")
    if len(label) > LONGEST_LABEL:
        raise ValueError(f"{len(label)} characters, and {LONGEST_LABEL} are the most")
    return label


Label = Annotated[str, AfterValidator(plain_label)]


class VariantEntry(ConfigEntry):
    """A model, attack or defense with changed parameters, under a label of its own."""

    label: Label
    """Label of the variant in the table."""
    use: str
    """Name of the model, attack or defense to start from."""
    set: dict[str, object]
    """Parameters to change and their values. In a chain of defenses a parameter is written with its
    part, `guo.draws`; in a model it is `recipe.epochs` or `network.width`."""


def _choice(value: object) -> str:
    return "name" if isinstance(value, str) else "variant"


Choice = Annotated[
    Annotated[str, Tag("name")] | Annotated[VariantEntry, Tag("variant")], Discriminator(_choice)
]
"""An entry of a table's `models`, `attacks` or `defenses`: a name or a variant.

The type of the value decides which, so that an error inside a variant is reported as one.
"""


def label_of(choice: str | VariantEntry) -> str:
    """The label of an entry of a table: that of a variant, or the name."""
    return choice if isinstance(choice, str) else choice.label


class FigureEntry(ConfigEntry):
    """A plot of a table: accuracy against a parameter, or the class probabilities of one image."""

    x: str | None = None
    """Parameter on the x axis. Either a parameter that the table sweeps, such as
    `counter.step_size` or `attack.epsilon`; or a parameter, without a dot, of the defense kind
    `of`, in which the table's variants differ. Give either this or `probabilities`."""
    of: str = "counter"
    """Kind of defense that `x` is a parameter of, if `x` has no dot."""
    probabilities: bool = False
    """Plot the class probabilities of one image instead."""

    @model_validator(mode="after")
    def _known(self) -> Self:
        if (self.x is not None) == self.probabilities:
            raise ValueError("give either x, a parameter to draw against, or probabilities: true")
        if self.x is not None and "." in self.x:
            if "of" in self.model_fields_set:
                raise ValueError(f"of: x says already of what, {self.x}; leave it out")
            return self
        kinds = registry.kinds("defenses")
        if self.of not in kinds:
            raise ValueError(f"of: no kind of defense '{self.of}'{suggestion(self.of, kinds)}")
        fields = set(registry.kind_class("defenses", self.of).model_fields) - {"kind"}
        if self.x is not None and self.x not in fields:
            raise ValueError(f"x: {self.of} has no '{self.x}'{suggestion(self.x, fields)}")
        return self


SweptValues = Annotated[tuple[object, ...], Field(strict=False, min_length=1)]
"""The values of a swept parameter; lists of values if one key names several parameters."""


class TableEntry(ConfigEntry):
    """One results table: the product of its models, attacks and defenses."""

    name: Label
    """Name of the table: used in file names, and by `where: {table: ...}` in rules."""
    title: Heading = ""
    """Heading of the table."""
    models: Annotated[tuple[Choice, ...], Field(strict=False, min_length=1)]
    """Names of models, or variants of them."""
    attacks: Annotated[tuple[Choice, ...], Field(strict=False, min_length=1)]
    """Names of attacks, or variants of them."""
    defenses: Annotated[tuple[Choice, ...], Field(strict=False, min_length=1)]
    """Names of defenses, or variants of them. `counter+guo` is a chain: first `counter`, then
    `guo`."""
    sweep: dict[str, SweptValues] = Field(default_factory=dict)
    """Parameters to vary and their values, such as `guo.draws: [1, 5, 30]`, which makes three
    variants of each defense that contains `guo`. Several parameters form a product. The word before
    the dot is the name of a defense, an attack or a model; or it is `attack` or `model`, for all
    attacks or models that have the parameter. Parameters that share a key, such as `xie.smallest,
    xie.largest: [[0.6, 0.8], [0.7, 0.9]]`, change together instead."""
    gains_of: str | None = None
    """Show the gain in accuracy that this defense brings: each chain that starts with it is
    compared with the same chain without it. Excludes `gains_over`."""
    gains_over: str | None = None
    """Show the gain in accuracy over this defense, model or attack of the table, with which all
    others are compared. Excludes `gains_of`."""
    equal_cost: str | None = None
    """Baseline defense, such as `flip-crop`, that is added to the table once for each cost of the
    other defenses, with as many draws as they need forward + backward passes."""
    figure: FigureEntry | None = None
    """Plot of the table."""

    @model_validator(mode="after")
    def _each_once(self) -> Self:
        for key in ("models", "attacks", "defenses"):
            labels = [label_of(choice) for choice in getattr(self, key)]
            check_once(key, labels)
            for label in labels:
                plain_label(label)
        return self


class Where(ConfigEntry):
    """Which cells a rule applies to: all patterns must match.

    Patterns are those of the shell: `*`, `?`, `[...]`.
    """

    dataset: str = "*"
    """Pattern for the name of the data set."""
    model: str = "*"
    """Pattern for the label of the model."""
    attack: str = "*"
    """Pattern for the label of the attack."""
    defense: str = "*"
    """Pattern for the label of the defense."""
    table: str = "*"
    """Pattern for the name of the table that the cell belongs to."""


class RuleEntry(ConfigEntry):
    """Overrides parameters of attacks and defenses in some cells of this grid's own tables."""

    where: Where = Where()
    """Which cells; all by default."""
    set: dict[str, object]
    """Parameters and their values. `attack.epsilon` is a parameter of the cell's attack,
    `guo.draws` one of the defense `guo`, alone or in a chain."""


class GridEntry(ConfigEntry):
    """An experiment grid: the tables of cells to compute, and the settings that all cells share."""

    title: Heading = ""
    """Title of the report."""
    epsilon: LinfEpsilon = 8.0
    """Default size of perturbations, in 1/255, for attacks and defenses that do not set their own.
    """
    images: Annotated[int, Field(ge=1, le=10**8)] | None = None
    """Number of test images to use, from the start of the test set. Its order is fixed and the
    classes take turns in it, so that they are balanced. All images by default."""
    redraws: Count = 3
    """How often the whole prediction is repeated with new random draws, if the defense or the
    network is randomised."""
    seed: Seed = 0
    """Base seed of trainings, attacks and random draws."""
    precision: Precision = "float32"
    """Floating-point arithmetic of the classifier in attacks and predictions. Trainings have their
    own, in the recipe."""
    adaptive_shard: Annotated[int, Field(ge=1, le=10**6)] = ADAPTIVE_SHARD
    """Images in a shard of an adaptive attack. Shards are computed in parallel: many small ones
    suit many CPUs, few large ones suit a GPU. Another size means that these attacks are computed
    again."""
    tables: Annotated[tuple[TableEntry, ...], Field(strict=False)] = ()
    """Tables of the grid. A cell that is in several tables is computed once."""
    gallery: bool = True
    """Whether the report shows images of each model before and after an attack and a defense."""
    rules: Annotated[tuple[RuleEntry, ...], Field(strict=False)] = ()
    """Overrides of parameters in some cells."""
    grids: Annotated[tuple[str, ...], Field(strict=False)] = ()
    """Names of other grids to include. Their tables come before this grid's own."""

    @model_validator(mode="after")
    def _each_once(self) -> Self:
        check_once("tables", [table.name for table in self.tables])
        check_once("grids", self.grids)
        return self

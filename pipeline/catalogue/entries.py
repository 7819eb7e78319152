"""What the YAML files of data sets, models and grids may say.

A docstring under a key is its line in `configs/README.md`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Annotated, Literal, Self

from pydantic import (
    AfterValidator,
    Discriminator,
    Field,
    Tag,
    field_validator,
    model_validator,
)

from pipeline.catalogue.validation import ConfigEntry
from pipeline.problems import suggestion
from pipeline.problems.sanitize import clean
from tasks import registry
from tasks.data.spec import Interpolation
from tasks.specs import ADAPTIVE_SHARD, Classes, Count, LinfEpsilon, Precision, Seed

LONGEST_LABEL = 200
"""Characters of what a table calls a model, an attack or a defense."""
DIGITS = {"classes": 10, "channels": 1, "side_px": 8}
"""What the digits of scikit-learn are."""


class DatasetEntry(ConfigEntry):
    """A data set: where its images come from and what they look like.

    kind `cifar` is the published archive, or a folder in any layout that is known here.
    """

    kind: Literal["digits", "parquet", "cifar", "npz", "folder"]
    """How its files are read."""
    classes: Classes | Annotated[tuple[str | int, ...], Field(strict=False, min_length=2)]
    """How many classes it has, or their names in the order of labels."""
    channels: Literal[1, 3] = 3
    """1 for grey images, 3 for colour."""
    side_px: Annotated[int, Field(ge=4, le=4096)] = 32
    """Side of its square images, in pixels."""
    label_column: str = "label"
    """Of Parquet files, the column of labels: numbers, or names of classes."""
    image_column: str | None = None
    """Of Parquet files, the column of images, where there are several."""
    resize: Interpolation | None = None
    """How images of other sizes are brought to `side_px`: turned upright as their EXIF data say,
    the shorter side scaled, the middle kept; all but `nearest` average over what they shrink."""
    folder: str | None = None
    """Where its files are, from this file's folder; of kind `npz`, the file itself will do."""

    @field_validator("classes")
    @classmethod
    def _each_once(cls, value: int | tuple[str | int, ...]) -> int | tuple[str | int, ...]:
        if not isinstance(value, int) and len({*map(str, value)}) < len(value):
            raise ValueError("a class stands here twice")
        return value

    @property
    def count(self) -> int:
        """The number of classes."""
        return self.classes if isinstance(self.classes, int) else len(self.classes)

    @property
    def names(self) -> tuple[str, ...] | None:
        """The classes in the order of labels, where they are named."""
        return None if isinstance(self.classes, int) else tuple(map(str, self.classes))

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        known = {"digits": DIGITS, "cifar": {"channels": 3, "side_px": 32}}.get(self.kind, {})
        for key, value in known.items():
            if getattr(self, key) != value:
                raise ValueError(f"{key}: {self.kind} has {value}, not {getattr(self, key)}")
        if self.kind == "digits" and self.resize is not None:
            raise ValueError("resize: the digits are of one size")
        if self.kind == "digits" and self.folder is not None:
            raise ValueError("folder: the digits come with scikit-learn, from no folder")
        for key in ("label_column", "image_column"):
            if self.kind not in {"parquet", "cifar"} and key in self.model_fields_set:
                raise ValueError(f"{key}: only Parquet files have columns, and not {self.kind}")
        return self


def _percent(value: float) -> float:
    if value <= 1:
        raise ValueError(f"{value:g} is no accuracy in percent; {100 * value:g} was probably meant")
    return value


Percent = Annotated[float, Field(gt=0, le=100), AfterValidator(_percent)]


class CheckpointEntry(ConfigEntry):
    """Weights from a file: a path or an address, read with weights only.

    Without `file` and `url` it is named by `--weights`; published: where one finds it. What is
    downloaded is kept, and must have the SHA-256 that is given.
    """

    file: str | None = None
    """Its path, from this file's folder: safetensors, `torch.save` of tensors, or `.pt2`."""
    url: Annotated[str, Field(pattern="^(https?|file)://")] | None = None
    """Where it is downloaded from, once."""
    published: str = ""
    published_accuracy: Percent | None = None
    """Of clean test images, in percent, as published; one that is far below it is told."""
    sha256: Annotated[str, Field(pattern="^[0-9a-f]{64}$")] | None = None
    """Of the file, 64 hexadecimal digits."""
    key_prefix: str = ""
    """What the weights' names begin with, to be left out, such as `module.`."""
    weights_key: str | None = None
    """The entry of a `torch.save` that holds the weights, such as `state_dict_ema`."""

    @model_validator(mode="after")
    def _one_place(self) -> Self:
        if self.url is not None and (self.file is not None or self.sha256 is None):
            raise ValueError("a url needs the file's sha256, and no file beside it")
        return self


class ModelEntry(ConfigEntry):
    """A network on a data set, trained by a recipe or loaded from a checkpoint; or an ensemble.

    stands_for: the model beside whose published numbers its own are put.
    """

    dataset: str
    """Name of a data set."""
    network: dict[str, object] | None = None
    """A mapping with a `kind`, see below."""
    recipe: str | dict[str, object] | None = None
    """Name of a recipe to train by, or its keys."""
    checkpoint: CheckpointEntry | None = None
    """A file of weights instead of a recipe."""
    members: Annotated[tuple[str, ...], Field(strict=False, min_length=2)] | None = None
    """Of an ensemble, in the place of network and weights: other models of the same data set. It
    answers their mean probability."""
    stands_for: str | None = None
    seed: Seed = 0
    """Of the training, added to the grid's: for a second network by the same recipe."""
    randomised: bool = False
    """The network draws random numbers when it is asked, so its answers are redrawn."""

    @model_validator(mode="after")
    def _of_one_kind(self) -> Self:
        if self.members is None:
            if self.network is None:
                raise ValueError("network: give one, or the members of an ensemble")
            return self
        for key in ("network", "recipe", "checkpoint", "stands_for", "seed", "randomised"):
            if key in self.model_fields_set:
                raise ValueError(f"{key}: an ensemble is its members; leave it out")
        check_once("members", self.members)
        return self


def plain_label(label: str) -> str:
    """A label that can be read and typed; ValueError, which says what is wrong with it."""
    if not label.strip():
        raise ValueError("a label with nothing in it")
    if label != label.strip() or not label.isprintable():
        raise ValueError(f"{label!r} begins or ends with a space, or holds what is not printable")
    if len(label) > LONGEST_LABEL:
        raise ValueError(f"{len(label)} characters, and {LONGEST_LABEL} are the most")
    return label


def _one_line(text: str) -> str:
    """A heading without line breaks and what else is not printable."""
    return clean(text)


Label = Annotated[str, AfterValidator(plain_label)]
Heading = Annotated[str, AfterValidator(_one_line)]


class VariantEntry(ConfigEntry):
    """A named model, attack or defense with some of its parameters changed, under a label."""

    label: Label
    """What the table calls it."""
    use: str
    """The name of a model, an attack or a defense."""
    set: dict[str, object]
    """Parameters and their values; of a part of a chain as `guo.draws`, of a model as
    `recipe.epochs` or `network.width`."""


def _choice(value: object) -> str:
    return "name" if isinstance(value, str) else "variant"


Choice = Annotated[
    Annotated[str, Tag("name")] | Annotated[VariantEntry, Tag("variant")], Discriminator(_choice)
]
"""A model, an attack or a defense of a table; by its type, so that a mistake in a variant is told
as one."""


class FigureEntry(ConfigEntry):
    """What is drawn of a table: accuracy against a parameter, or the probabilities of one image.

    x: what the table sweeps, such as `counter.step_size` or `attack.epsilon`; or a parameter of
    the defense kind `of`, in whose value the table's variants differ.
    """

    x: str | None = None
    of: str = "counter"
    """A kind of defense."""
    probabilities: bool = False
    """Draw the class probabilities of one image instead."""

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
"""What a parameter takes in turn; lists where one key has several parameters."""


class TableEntry(ConfigEntry):
    """One table: every model with every attack and every defense.

    sweep: parameters and the values that they take, each with each: `guo.draws: [1, 5, 30]` makes
    three of each defense that `guo` is a part of. Before the dot stands the name of a defense, an
    attack or a model, or `attack` or `model` for all that have the parameter. Parameters with one
    key, such as `xie.smallest, xie.largest: [[0.6, 0.8], [0.7, 0.9]]`, take their values together.
    gains_of: the defense whose rows are compared with those that lack it. gains_over: the
    defense, model or attack of this table that all others are compared with. equal_cost: a
    defense that is added with as many draws as each of the others costs forward passes, such as
    `flip-crop`.
    """

    name: Label
    """Of its files, and for rules."""
    title: Heading = ""
    """Its heading."""
    models: Annotated[tuple[Choice, ...], Field(strict=False, min_length=1)]
    """Names of models, or variants."""
    attacks: Annotated[tuple[Choice, ...], Field(strict=False, min_length=1)]
    """Names of attacks, or variants."""
    defenses: Annotated[tuple[Choice, ...], Field(strict=False, min_length=1)]
    """Names of defenses, such as `counter+guo` for one after the other, or variants."""
    sweep: dict[str, SweptValues] = Field(default_factory=dict)
    gains_of: str | None = None
    gains_over: str | None = None
    equal_cost: str | None = None
    figure: FigureEntry | None = None
    """What is drawn of it."""

    @model_validator(mode="after")
    def _each_once(self) -> Self:
        for key in ("models", "attacks", "defenses"):
            labels = [each if isinstance(each, str) else each.label for each in getattr(self, key)]
            check_once(key, labels)
            for label in labels:
                plain_label(label)
        return self


def check_once(key: str, names: Sequence[str]) -> None:
    """ValueError, which names the key, for a name that stands in a list twice."""
    for name, count in Counter(names).items():
        if count > 1:
            raise ValueError(f"{key}: '{name}' stands here {count} times")


class AttackNote(ConfigEntry):
    """What an attack's configuration may say besides its parameters.

    note: a sentence for whoever reads the attack's numbers, such as how far from a larger budget's
    they were when that was measured. It stands beside them in reports, and changes no result.
    """

    note: Annotated[Heading, Field(min_length=1, max_length=400)] | None = None


NOTE = "note"


class Where(ConfigEntry):
    """Shell patterns that a cell's names must match."""

    dataset: str = "*"
    """Of its name."""
    model: str = "*"
    """Of its name."""
    attack: str = "*"
    """Of its name."""
    defense: str = "*"
    """Of its name."""
    table: str = "*"
    """Of the name of a table that the cell is in."""


class RuleEntry(ConfigEntry):
    """Parameters that a grid changes in the cells that match: `attack.epsilon`, `guo.draws`."""

    where: Where = Where()
    """Which cells."""
    set: dict[str, object]
    """Parameters and their values, as `attack.epsilon` or `guo.draws`."""


class GridEntry(ConfigEntry):
    """Which cells a grid holds and the settings that they share."""

    title: Heading = ""
    """What a report calls it."""
    epsilon: LinfEpsilon = 8.0
    """Size of perturbations, in 1/255, of attacks and defenses that say nothing else."""
    images: Annotated[int, Field(ge=1, le=10**8)] | None = None
    """The first so many test images, the same of each class; all by default."""
    redraws: Count = 3
    """How often the whole prediction of a randomised defense is made."""
    seed: Seed = 0
    """Of trainings, attacks and draws."""
    precision: Precision = "float32"
    """Of the classifier's arithmetic when it is attacked and asked."""
    adaptive_shard: Annotated[int, Field(ge=1, le=10**6)] = ADAPTIVE_SHARD
    """Images in a task of an adaptive attack. Shards run beside each other, so many small ones suit
    many CPUs and few large ones a GPU. Another size computes these attacks again."""
    tables: Annotated[tuple[TableEntry, ...], Field(strict=False)] = ()
    """What is laid out together; a cell in several tables is computed once."""
    gallery: bool = True
    """Whether the report shows images of each model before and after an attack and a defense."""
    rules: Annotated[tuple[RuleEntry, ...], Field(strict=False)] = ()
    """Parameters changed in some cells."""
    grids: Annotated[tuple[str, ...], Field(strict=False)] = ()
    """Names of other grids, whose tables come before its own."""

    @model_validator(mode="after")
    def _each_once(self) -> Self:
        check_once("tables", [table.name for table in self.tables])
        check_once("grids", self.grids)
        return self

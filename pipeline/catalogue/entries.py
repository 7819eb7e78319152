"""Pydantic models of the YAML files for data sets, models and grids.

The string below a field is the description of that key in `configs/README.md`, which `pipeline
reference` generates.
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
"""Maximum length of a label of a model, an attack or a defense, in characters."""
DIGITS = {"classes": 10, "channels": 1, "side_px": 8}
"""The fixed properties of scikit-learn's digits data set."""


class FilesEntry(ConfigEntry):
    """The files of a data set, as `pipeline export` writes them."""

    kind: Literal["parquet", "cifar", "npz", "folder"]
    """File format."""
    sha256: dict[str, Annotated[str, Field(pattern="^[0-9a-f]{64}$")]]
    """SHA-256 of each file, by role."""
    train: Annotated[int, Field(ge=0)]
    """Number of training images."""
    test: Annotated[int, Field(ge=0)]
    """Number of test images."""
    class_names: Annotated[tuple[str, ...], Field(strict=False)] | None = None
    """Names of the classes in the files, in the order of the labels."""


class DatasetEntry(ConfigEntry):
    """A data set: where its images come from and what they look like."""

    kind: Literal["digits", "parquet", "cifar", "npz", "folder"]
    """File format. `digits`: scikit-learn's bundled digits. `cifar`: CIFAR-10 or CIFAR-100, as the
    published archive or as a folder in any of the other formats. `parquet`, `npz`: files of that
    type. `folder`: image files in one folder for each class."""
    classes: Classes | Annotated[tuple[str | int, ...], Field(strict=False, min_length=2)]
    """Number of classes, or the list of their names in the order of the labels."""
    channels: Literal[1, 3] = 3
    """Colour channels: 1 for grey images, 3 for RGB."""
    side_px: Annotated[int, Field(ge=4, le=4096)] = 32
    """Width and height of the images, which are square, in pixels."""
    label_column: str = "label"
    """Name of the column with the labels, which are numbers or class names. Only for Parquet files.
    """
    image_column: str | None = None
    """Name of the column with the images, needed if a file has several. Only for Parquet files."""
    mirrors: bool = True
    """Whether a mirrored image keeps its class. If not, as of digits and letters, the baseline
    `flip-crop` only crops."""
    resize: Interpolation | None = None
    """Interpolation filter that resizes images of other sizes to `side_px`. An image is first
    turned upright as its EXIF data say, then scaled so that its shorter side fits, then cropped to
    its centre. All filters but `nearest` are antialiased when they shrink an image. Unset, images
    of another size are an error."""
    folder: str | None = None
    """Folder that holds the files, relative to the folder of this YAML file; for kind `npz` it may
    be a single file. `--data` overrides it."""
    files: FilesEntry | None = None
    """The files that results were computed from. `pipeline export` writes it, so that the results
    can be shown without them; a run that reads the images needs `--data`."""

    @field_validator("classes")
    @classmethod
    def _each_once(cls, value: int | tuple[str | int, ...]) -> int | tuple[str | int, ...]:
        if not isinstance(value, int) and len({*map(str, value)}) < len(value):
            raise ValueError("a class is given twice")
        return value

    @property
    def count(self) -> int:
        """The number of classes."""
        return self.classes if isinstance(self.classes, int) else len(self.classes)

    @property
    def names(self) -> tuple[str, ...] | None:
        """The class names in the order of the labels; None if only their number is given."""
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
    """Pretrained weights from a file or a URL.

    Only tensors are loaded; no pickled code is executed. Without `file` and `url`, the file has to
    be given on the command line: `--weights MODEL=FILE`. A downloaded file is kept in the cache
    folder.
    """

    file: str | None = None
    """Path of the file, relative to the folder of this YAML file: safetensors, a `torch.save` of
    tensors, or a `.pt2` program."""
    url: Annotated[str, Field(pattern="^(https?|file)://")] | None = None
    """URL to download the file from, once. Requires `sha256`, and excludes `file`."""
    published: str = ""
    """Where the weights are published, for people to find them; shown in error messages only."""
    published_accuracy: Percent | None = None
    """Published accuracy on clean test images, in percent. If the measured one is far below it, the
    sanity checks of the report fail."""
    sha256: Annotated[str, Field(pattern="^[0-9a-f]{64}$")] | None = None
    """SHA-256 of the file, 64 hexadecimal digits. A file with another checksum is refused."""
    key_prefix: str = ""
    """Prefix to strip from the names of the weights, such as `module.`."""
    weights_key: str | None = None
    """Entry of a `torch.save` dictionary that holds the weights, such as `state_dict_ema`."""

    @model_validator(mode="after")
    def _one_place(self) -> Self:
        if self.url is not None and (self.file is not None or self.sha256 is None):
            raise ValueError("a url needs the file's sha256, and no file beside it")
        return self


class ModelEntry(ConfigEntry):
    """A network for a data set, trained or loaded from a checkpoint; or an ensemble of models.

    A model needs `network` and one of `recipe` and `checkpoint`; an ensemble needs only `members`.
    """

    dataset: str
    """Name of the data set."""
    network: dict[str, object] | None = None
    """Architecture: a mapping with a `kind` and the keys of that kind, see below."""
    recipe: str | dict[str, object] | None = None
    """Name of a training recipe, or a mapping with the keys of one."""
    checkpoint: CheckpointEntry | None = None
    """Pretrained weights to load instead of training."""
    members: Annotated[tuple[str, ...], Field(strict=False, min_length=2)] | None = None
    """Makes the model an ensemble of these models, which must be of the same data set. It predicts
    the mean of their class probabilities. Excludes all other keys but `dataset`."""
    stands_for: str | None = None
    """Another model whose published numbers are shown beside this model's results."""
    seed: Seed = 0
    """Seed of the training, added to the grid's seed. Another seed gives a second network by the
    same recipe."""
    randomised: bool = False
    """Whether the network draws random numbers during inference. If so, its predictions are
    repeated (`redraws`)."""

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


def _one_line(text: str) -> str:
    """Strip line breaks and other unprintable characters from a heading."""
    return clean(text)


Label = Annotated[str, AfterValidator(plain_label)]
Heading = Annotated[str, AfterValidator(_one_line)]


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
    other defenses, with as many draws as they need forward passes."""
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


def check_once(key: str, names: Sequence[str]) -> None:
    """Check that a list has no duplicates.

    Raises:
        ValueError: If a name occurs twice; the message begins with the key.
    """
    for name, count in Counter(names).items():
        if count > 1:
            raise ValueError(f"{key}: '{name}' is given {count} times")


class AttackNote(ConfigEntry):
    """An optional comment in the config of any attack, beside its parameters."""

    note: Annotated[Heading, Field(min_length=1, max_length=400)] | None = None
    """Sentence for readers of the attack's results, such as how far they are from those of a larger
    budget. Reports show it beside the results; it does not change them."""


NOTE = "note"


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

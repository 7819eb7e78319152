"""Pydantic models of the YAML files for data sets and models, and of the notes of attacks.

The string below a field is the description of that key in `configs/README.md`, which `pipeline
reference` generates.
"""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import (
    AfterValidator,
    Field,
    field_validator,
    model_validator,
)

from pipeline.catalogue.validation import ConfigEntry, Heading, check_once
from tasks.data.spec import Interpolation
from tasks.specs import Classes, Seed

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


class AttackNote(ConfigEntry):
    """An optional comment in the config of any attack, beside its parameters."""

    note: Annotated[Heading, Field(min_length=1, max_length=400)] | None = None
    """Sentence for readers of the attack's results, such as how far they are from those of a larger
    budget. Reports show it beside the results; it does not change them."""


NOTE = "note"

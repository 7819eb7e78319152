"""Description of a data set, without its pixels."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, ClassVar, Literal

from pydantic import Field

from tasks.specs import Classes, Spec

Source = Annotated[tuple[str, str], Field(strict=False)]
Interpolation = Literal["nearest", "box", "bilinear", "hamming", "bicubic", "lanczos"]
"""Pillow's filters; all but `nearest` average over what they shrink (antialiasing)."""


class DatasetSpec(Spec):
    """A data set of square images, split into training and test images."""

    version: ClassVar[int] = 2
    changes: ClassVar[Mapping[int, str]] = {2: "classes named by numbers are in numerical order"}
    unset_is_left_out: ClassVar[frozenset[str]] = frozenset(
        {"image_column", "class_names", "resize"}
    )
    kind: Literal["digits", "parquet", "cifar", "npz", "folder"]
    """How files are read; `digits` are those bundled with scikit-learn."""
    classes: Classes
    channels: Annotated[int, Field(ge=1, le=3)]
    side: Annotated[int, Field(ge=1, le=4096)]
    label_column: str = "label"
    """Column of labels in Parquet files."""
    sources: Annotated[tuple[Source, ...], Field(strict=False)] = ()
    """Role and SHA-256 of each file, such as ("test-00000", "4f..."). Where files lie is no part of
    the data set's identity."""
    image_column: str | None = None
    """Column of images in Parquet files."""
    class_names: Annotated[tuple[str, ...], Field(strict=False)] | None = None
    """Names of the classes in the files, in the order of labels; unset if labels are numbers, or
    names of folders in alphabetical order."""
    resize: Interpolation | None = None
    """Filter to bring images of other sizes to `side`: the shorter side is scaled to it, and the
    middle is cropped."""

    def results_version(self) -> int:
        """See `Spec.results_version`: version 2 changed only folders with numbers for names."""
        names = self.class_names if self.kind == "folder" else None
        return 2 if names and all(name.isdecimal() for name in names) else 1

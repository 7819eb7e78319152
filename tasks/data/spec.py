"""Which images: the description of a data set, without its pixels."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, ClassVar, Literal

from pydantic import Field

from tasks.specs import Classes, Spec

Source = Annotated[tuple[str, str], Field(strict=False)]
Interpolation = Literal["nearest", "box", "bilinear", "hamming", "bicubic", "lanczos"]
"""Pillow's filters. All but `nearest` average over what they shrink (antialiasing)."""


class DatasetSpec(Spec):
    """A data set of square images, split into what is trained on and what is scored on.

    kind: `digits` are scikit-learn's bundled ones; the others say how files are read.
    sources: (role, SHA-256) of each file, such as ("test-00000", "4f..."); where the files
    lie is no part of the data set's identity. label_column, image_column: of Parquet files.
    class_names: what the files call the classes, in the order of labels; unset where labels are
    numbers, or the names of folders in alphabetical order. resize: how images of other sizes are
    brought to `side`: the shorter side is scaled to it, and the middle is kept.
    """

    version: ClassVar[int] = 2
    changes: ClassVar[Mapping[int, str]] = {2: "order of numeric classes"}
    unset_is_left_out: ClassVar[frozenset[str]] = frozenset(
        {"image_column", "class_names", "resize"}
    )
    kind: Literal["digits", "parquet", "cifar", "npz", "folder"]
    classes: Classes
    channels: Annotated[int, Field(ge=1, le=3)]
    side: Annotated[int, Field(ge=1, le=4096)]
    label_column: str = "label"
    sources: Annotated[tuple[Source, ...], Field(strict=False)] = ()
    image_column: str | None = None
    class_names: Annotated[tuple[str, ...], Field(strict=False)] | None = None
    resize: Interpolation | None = None

    def results_version(self) -> int:
        """See `Spec.results_version`: only folders with numbers for names were in another order."""
        names = self.class_names if self.kind == "folder" else None
        return 2 if names and all(name.isdecimal() for name in names) else 1

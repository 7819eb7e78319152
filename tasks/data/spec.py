"""Which images: the description of a data set, without its pixels."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import Field

from tasks.specs import Classes, Spec

Source = Annotated[tuple[str, str], Field(strict=False)]


class DatasetSpec(Spec):
    """A data set of square images, split into what is trained on and what is scored on.

    kind: `digits` are scikit-learn's bundled ones; the others say how files are read.
    sources: (role, SHA-256) of each file, such as ("test-00000", "4f..."); where the files
    lie is no part of the data set's identity. label_column: of Parquet files.
    """

    version: ClassVar[int] = 1
    kind: Literal["digits", "parquet", "cifar", "npz", "folder"]
    classes: Classes
    channels: Annotated[int, Field(ge=1, le=3)]
    side: Annotated[int, Field(ge=1, le=4096)]
    label_column: str = "label"
    sources: Annotated[tuple[Source, ...], Field(strict=False)] = ()

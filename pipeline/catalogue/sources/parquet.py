"""Images in Parquet files, in the format of Hugging Face exports. The only user of pyarrow here."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from pipeline.problems import BadInput, shown


@dataclass(frozen=True)
class TableColumns:
    """The schema of a Parquet file.

    Attributes:
        rows: Number of rows.
        images: Columns that hold encoded images.
        numbers: Whether labels are integers; otherwise they are names.
        class_names: Names of integer labels in Hugging Face's metadata, if there are any.
    """

    rows: int
    images: tuple[str, ...]
    numbers: bool
    class_names: tuple[str, ...] | None


def parquet_columns(path: Path, label_column: str) -> TableColumns:
    """Read a file's footer; BadInput if it has none, no images, or labels of another type."""
    try:
        with pq.ParquetFile(path) as file:
            return _columns(path, file, label_column)
    except (OSError, pa.ArrowException) as error:
        raise _no_parquet(path, error) from None


def parquet_label_names(path: Path, label_column: str) -> set[str]:
    """The distinct class names in a label column that holds names."""
    try:
        column = pq.read_table(path, columns=[label_column], partitioning=None).column(0)
    except (OSError, pa.ArrowException) as error:
        raise _no_parquet(path, error) from None
    return {str(name) for name in pc.unique(column).to_pylist() if name is not None}


def read_parquet_images(
    path: Path, data: bytes, label_column: str, image_column: str | None
) -> tuple[list[bytes], list[int] | list[str]]:
    """Encoded images and labels of a file, from its bytes.

    An image is a struct with a field `bytes`, as in Hugging Face exports, or plain bytes.

    Args:
        image_column: Which column to use if the file has several with images.

    Raises:
        BadInput: If the columns do not exist, or a row lacks its image or label.
    """
    try:
        with pq.ParquetFile(pa.BufferReader(data)) as file:
            found = _columns(path, file, label_column)
            image = one_image_column(path, found, image_column)
            table = file.read(columns=[image, label_column])
    except (OSError, pa.ArrowException) as error:
        raise _no_parquet(path, error) from None
    encoded, column = table.column(image), table.column(label_column)
    if pa.types.is_struct(encoded.type):
        encoded = pc.struct_field(encoded, "bytes")
    for what, values in (("an image", encoded), ("a label", column)):
        if values.null_count:
            raise BadInput(f"{shown(path)}: rows without {what}: {values.null_count}")
    return encoded.to_pylist(), column.to_pylist()


def one_image_column(path: Path, found: TableColumns, wanted: str | None) -> str:
    """The image column to read; BadInput if there are several and the config names none."""
    if wanted is not None:
        if wanted in found.images:
            return wanted
        known = ", ".join(found.images)
        raise BadInput(f"{shown(path)}: no image column '{wanted}'; its image columns: {known}")
    if len(found.images) > 1:
        known = ", ".join(found.images)
        raise BadInput(
            f"{shown(path)}: several image columns: {known}; say which: "
            f"image_column: {found.images[-1]}"
        )
    return found.images[0]


def _columns(path: Path, file: pq.ParquetFile, label_column: str) -> TableColumns:
    schema = file.schema_arrow
    if label_column not in schema.names:
        known = ", ".join(schema.names)
        raise BadInput(f"{shown(path)}: no label column '{label_column}'; its columns: {known}")
    images = [
        field.name
        for field in schema
        if pa.types.is_struct(field.type) and field.type.get_field_index("bytes") >= 0
    ]
    images = images or [field.name for field in schema if _is_bytes(field.type)]
    if not images:
        raise BadInput(f"{shown(path)}: no image column (a struct with 'bytes')")
    kind = schema.field(label_column).type
    value = kind.value_type if pa.types.is_dictionary(kind) else kind
    numbers = pa.types.is_integer(value)
    if not numbers and not (pa.types.is_string(value) or pa.types.is_large_string(value)):
        raise BadInput(
            f"{shown(path)}: labels in '{label_column}' are {kind}, neither integers nor names"
        )
    names = _class_names(schema.metadata or {}, label_column) if numbers else None
    return TableColumns(int(file.metadata.num_rows), tuple(images), numbers, names)


def _class_names(metadata: Mapping[bytes, bytes], label_column: str) -> tuple[str, ...] | None:
    try:
        features = json.loads(metadata[b"huggingface"])["info"]["features"]
        return tuple(map(str, features[label_column]["names"]))
    except (KeyError, ValueError, TypeError):
        return None


def _is_bytes(kind: pa.DataType) -> bool:
    return bool(pa.types.is_binary(kind) or pa.types.is_large_binary(kind))


def _no_parquet(path: Path, error: Exception) -> BadInput:
    reason = " ".join(str(error).split())
    return BadInput(f"{shown(path)}: not a whole Parquet file: {reason}")

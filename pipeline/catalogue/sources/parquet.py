"""Images from Parquet files, as the Hugging Face hub exports them."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from pipeline.problems import BadInput, shown


def parquet_rows(path: Path) -> int:
    """The number of rows, from the file's footer; BadInput where there is none."""
    try:
        return int(pq.read_metadata(path).num_rows)
    except (OSError, pa.ArrowException) as error:
        reason = " ".join(str(error).split())
        raise BadInput(f"{shown(path)}: not a whole Parquet file: {reason}") from None


def read_parquet_images(path: Path, label_column: str) -> tuple[list[bytes], list[int]]:
    """Encoded images and labels of a file in the Hugging Face layout (a struct with `bytes`).

    BadInput where the file has no such columns, or a row of it lacks its image or label.
    """
    try:
        with pq.ParquetFile(path) as file:
            table = file.read()
    except (OSError, pa.ArrowException) as error:
        reason = " ".join(str(error).split())
        raise BadInput(f"{shown(path)}: not a whole Parquet file: {reason}") from None
    if label_column not in table.column_names:
        known = ", ".join(table.column_names)
        raise BadInput(f"{shown(path)}: no label column '{label_column}'; its columns: {known}")
    images = [field for field in table.schema if pa.types.is_struct(field.type)]
    if not images or images[0].type.get_field_index("bytes") < 0:
        raise BadInput(f"{shown(path)}: no image column (a struct with 'bytes')")
    column = table.column(label_column)
    if not pa.types.is_integer(column.type):
        raise BadInput(f"{shown(path)}: labels in '{label_column}' are {column.type}, not integers")
    encoded = pc.struct_field(table.column(images[0].name), "bytes")
    for what, values in (("image", encoded), ("label", column)):
        if values.null_count:
            raise BadInput(f"{shown(path)}: {values.null_count} rows have no {what}")
    return encoded.to_pylist(), column.to_pylist()

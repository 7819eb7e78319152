"""Tensors in memory-mapped Arrow files. The only module that imports pyarrow for tensors.

Files are in the Arrow IPC format. A column of tensors has the fixed-shape-tensor type, and the
schema's metadata hold the spec, so that pyarrow, polars or other languages can read it.
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa

from pipeline.problems import BadInput, reason_of

if TYPE_CHECKING:
    from torch import Tensor

BATCH_ROWS = 1000
NOTHING: Mapping[str, int] = {}


class BadArrow(ValueError):
    """The content of an Arrow file is invalid, or it lacks a column."""


def write_tensors(path: Path, columns: Mapping[str, Tensor], about: Mapping[str, object]) -> None:
    """Write tensors [N, ...] of the same length N as columns, and `about` as JSON metadata."""
    arrays = {name: tensor.detach().cpu().contiguous().numpy() for name, tensor in columns.items()}
    fields = [pa.field(name, _type(array)) for name, array in arrays.items()]
    schema = pa.schema(fields, metadata={"about": json.dumps(about, sort_keys=True)})
    rows = {len(array) for array in arrays.values()}
    if len(rows) != 1:
        raise BadArrow(f"columns of different lengths: {sorted(rows)}")
    with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_file(sink, schema) as writer:
        for start in range(0, rows.pop(), BATCH_ROWS):
            part = [_column(array[start : start + BATCH_ROWS]) for array in arrays.values()]
            writer.write_batch(pa.record_batch(part, schema=schema))


def read_tensors(path: Path, needed: Mapping[str, int] = NOTHING) -> dict[str, Tensor]:
    """Read all columns as tensors [N, ...].

    The tensors of a file with a single batch are memory-mapped and must not be written to.

    Args:
        needed: Required columns, and the number of dimensions of each.

    Raises:
        BadArrow: If the content is invalid, or a column is missing or of another type.
        BadInput: If the file cannot be opened, or if there is too little memory to map it.
    """
    import torch

    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "The given NumPy array is not writable")
        return {name: torch.from_numpy(array) for name, array in read_arrays(path, needed).items()}


def read_arrays(path: Path, needed: Mapping[str, int] = NOTHING) -> dict[str, np.ndarray]:
    """Read all columns as NumPy arrays, without torch; otherwise like `read_tensors`."""
    try:
        source = pa.memory_map(str(path), "r")
    except OSError as error:
        raise BadInput(f"{path}: cannot be read: {reason_of(error)}") from None
    try:
        with source:
            table = pa.ipc.open_file(source).read_all()
            table.validate(full=True)
        columns = {name: _array(table.column(name)) for name in table.column_names}
    except MemoryError:
        raise  # also an ArrowException
    except (OSError, pa.ArrowException, ValueError, TypeError, KeyError) as error:
        reason = " ".join(str(error).split())
        raise BadArrow(f"{path.name}: not a readable Arrow file: {reason}") from None
    for name, dimensions in needed.items():
        if name not in columns:
            raise BadArrow(f"{path.name}: no column {name}")
        if columns[name].ndim != dimensions:
            found = "x".join(map(str, columns[name].shape))
            raise BadArrow(f"{path.name}: column {name} is {found}, not of {dimensions} dimensions")
    for name, column in columns.items():
        if column.dtype.kind not in "biuf" or not column.ndim:
            raise BadArrow(f"{path.name}: column {name} holds no numbers")
    return columns


def _type(array: np.ndarray) -> pa.DataType:
    value = pa.from_numpy_dtype(array.dtype)
    return value if array.ndim == 1 else pa.fixed_shape_tensor(value, list(array.shape[1:]))


def _column(array: np.ndarray) -> pa.Array:
    if array.ndim == 1:
        return pa.array(array)
    # flattened first: pyarrow mistakes the strides of a dimension of size 1 for a permutation
    kind = _type(array)
    flat = pa.array(array.reshape(-1))
    rows = pa.FixedSizeListArray.from_arrays(flat, type=kind.storage_type)
    return pa.ExtensionArray.from_storage(kind, rows)


def _array(column: pa.ChunkedArray) -> np.ndarray:
    tensor = isinstance(column.type, pa.FixedShapeTensorType)
    chunks = [
        chunk.to_numpy_ndarray() if tensor else chunk.to_numpy(zero_copy_only=False)
        for chunk in column.chunks
    ]
    if not chunks:
        shape = (0, *column.type.shape) if tensor else (0,)
        value = column.type.value_type if tensor else column.type
        return np.empty(shape, dtype=value.to_pandas_dtype())
    return chunks[0] if len(chunks) == 1 else np.concatenate(chunks)

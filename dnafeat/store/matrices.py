"""Vector columns as the tables hold them, as fixed-size lists, and as NumPy matrices."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pyarrow as pa

from dnafeat.errors import StoreError, UsageError
from dnafeat.store.schema import arrow_schema


def one_array(column: pa.ChunkedArray | pa.Array) -> pa.Array:
    if isinstance(column, pa.ChunkedArray) and column.num_chunks == 1:
        return column.chunk(0)  # which combine_chunks would copy
    combined = column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column
    return pa.concat_arrays(combined.chunks) if isinstance(combined, pa.ChunkedArray) else combined


def fixed(column: pa.Array) -> pa.Array:
    """A list column as a fixed-size list, without copying the numbers."""
    if column.null_count:
        raise StoreError("the store is damaged: rows of one version lack a vector that others of it have")
    values = column.flatten()
    return pa.FixedSizeListArray.from_arrays(values, len(values) // len(column) if len(column) else 1)


def widths(columns: Sequence[pa.Array]) -> list[int]:
    """Of fixed-size lists."""
    return [column.type.list_size for column in columns]


def end_to_end(columns: Sequence[pa.Array]) -> pa.Array:
    """Fixed-size lists of the same rows, each row's put end to end."""
    if len(columns) == 1:
        return columns[0]
    whole = np.concatenate([matrix(column) for column in columns], axis=1)
    return pa.FixedSizeListArray.from_arrays(whole.ravel(), whole.shape[1])


def copy_rows(column: pa.Array, rows: np.ndarray, into: np.ndarray) -> None:
    """Copy some rows, (n,) int64, of a fixed-size list into an (n, width) float32 matrix."""
    values = matrix(column)
    if values.shape[1] != into.shape[1]:
        raise StoreError(f"the store is damaged: vectors of one version are {into.shape[1]} and {values.shape[1]} wide")
    if len(rows) == len(values) and rows[0] == 0 and (np.diff(rows) == 1).all():
        into[...] = values
    else:
        into[...] = values[rows]


def as_lists(vectors: np.ndarray) -> pa.Array:
    """(n, width) float32 as a list column of `features`, without copying the numbers."""
    n, width = vectors.shape
    offsets = pa.array(np.arange(0, (n + 1) * width, width, dtype=np.int32))
    return pa.ListArray.from_arrays(offsets, pa.array(vectors.ravel())).cast(arrow_schema("features").field("mean").type)


def matrix(column: pa.ChunkedArray | pa.Array) -> np.ndarray:
    """A vector column of `Store.read` as one contiguous (n, width) float32 array, not copied where the column is one array already."""
    if not isinstance(column, pa.ChunkedArray | pa.Array):
        raise UsageError(f"matrix takes a column of vectors, such as table['mean'], and not a {type(column).__name__}")
    array = one_array(column)
    if not pa.types.is_fixed_size_list(array.type):
        raise UsageError(f"matrix takes a column of vectors as Store.read gives it, and this one holds {array.type}")
    if array.null_count:
        raise UsageError(f"{array.null_count:,} of {len(array):,} rows have no vector: take them out with drop_null() first")
    return np.asarray(array.flatten()).reshape(len(array), array.type.list_size)


def as_nullable_lists(rows: np.ndarray, has: pa.Array | None) -> pa.Array:
    """A matrix as a column of lists; with `has`, which is true as often as there are rows, nulls where it is false."""
    count = np.full(len(rows), rows.shape[1], np.int64)
    missing = None
    if has is not None:
        there = has.to_numpy(zero_copy_only=False)
        count = np.where(there, rows.shape[1], 0)
        missing = pa.array(~there)
    offsets = pa.array(np.concatenate([[0], np.cumsum(count)]).astype(np.int32))
    return pa.ListArray.from_arrays(offsets, pa.array(rows.reshape(-1)), mask=missing)

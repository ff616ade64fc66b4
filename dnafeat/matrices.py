"""Vector columns as the tables hold them, as fixed-size lists, and as NumPy matrices."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pyarrow as pa

from dnafeat.errors import StoreError


def one_array(column: pa.ChunkedArray | pa.Array) -> pa.Array:
    combined = column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column
    return pa.concat_arrays(combined.chunks) if isinstance(combined, pa.ChunkedArray) else combined


def fixed(column: pa.Array) -> pa.Array:
    """A list column as a fixed-size list, without copying the numbers."""
    if column.null_count:
        raise StoreError("the store is damaged: rows of one version lack a vector that others of it have")
    values = column.flatten()
    return pa.FixedSizeListArray.from_arrays(values, len(values) // len(column) if len(column) else 1)


def end_to_end(columns: Sequence[pa.Array]) -> pa.Array:
    """Fixed-size lists of the same rows, each row's put end to end."""
    if len(columns) == 1:
        return columns[0]
    whole = np.concatenate([matrix(column) for column in columns], axis=1)
    return pa.FixedSizeListArray.from_arrays(whole.ravel(), whole.shape[1])


def matrix(column: pa.ChunkedArray | pa.Array) -> np.ndarray:
    """A vector column of `Store.read` as one contiguous (n, width) float32 array."""
    array = one_array(column)
    return np.asarray(array.flatten()).reshape(len(array), array.type.list_size)

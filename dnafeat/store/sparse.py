"""Rows of `features` by digest where few of many are wanted: pages of vectors that hold none of them are not unpacked."""

from __future__ import annotations

import mmap
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from dnafeat import parquet, storage
from dnafeat.store import digests
from dnafeat.store.data_file import DataFile
from dnafeat.store.float_pages import FloatColumn, UnusualPageError
from dnafeat.store.matrices import as_lists
from dnafeat.store.snapshot import TableSnapshot
from dnafeat.vectors import VECTORS

_NAME = "sequence_digest"
_AT_ONCE = 4  # files


def may_hold(file: DataFile, sought: np.ndarray) -> bool:
    """Return whether one of some sorted digests, (n,) of dtype S35, lies in a file's range."""
    # Files that another tool has rewritten may be without statistics.
    low, high = (str(ends.get(_NAME, end)).encode() for ends, end in ((file.minimum, ""), (file.maximum, "~")))
    return digests.any_between(sought, low, high)


def sought_rows(features: TableSnapshot, version: str, columns: Sequence[str], sought: np.ndarray) -> Iterator[pa.RecordBatch]:
    """The rows of a version that some digests have, in batches, with `columns`; what a file lacks is null.

    Parameters
    ----------
    features : TableSnapshot
    version : str
    columns : sequence of str
        Of `features`.
    sought : np.ndarray
        (n,) of dtype S35, sorted.

    Raises
    ------
    StoreError
        A file is gone, damaged or cannot be read.
    """
    mine = [file for file, _ in features.files() if file.partition.get("feature_version") == version and may_hold(file, sought)]
    schema = features.schema()

    def read(file: DataFile) -> list[pa.RecordBatch]:
        return _rows_of(features, file.path, [schema.field(name) for name in columns], sought)

    with ThreadPoolExecutor(_AT_ONCE) as pool:
        for some in range(0, len(mine), _AT_ONCE):
            for batches in pool.map(read, mine[some : some + _AT_ONCE]):
                yield from batches


def _rows_of(features: TableSnapshot, path: str, fields: Sequence[pa.Field], sought: np.ndarray) -> list[pa.RecordBatch]:
    uri = storage.join(features.uri, path)
    found = []
    with storage.reached(uri), parquet.opened(uri) as file:
        features.check_columns(file.schema_arrow.names, path)
        for number in range(file.num_row_groups):
            group = file.metadata.row_group(number)
            if not _in_range(group, file.schema_arrow.names.index(_NAME), sought):
                continue
            names = digests.to_numpy(file.read_row_group(number, columns=[_NAME])[_NAME])
            rows, _ = digests.located(sought, names)
            if len(rows):
                found.append(_batch(uri, file, number, fields, names, rows))
    return found


def _in_range(group: Any, at: int, sought: np.ndarray) -> bool:
    ends = group.column(at).statistics
    if ends is None or not ends.has_min_max:
        return True
    low, high = (end if isinstance(end, bytes) else end.encode() for end in (ends.min, ends.max))
    return digests.any_between(sought, low, high)


def _batch(
    uri: str, file: pq.ParquetFile, number: int, fields: Sequence[pa.Field], names: np.ndarray, rows: np.ndarray
) -> pa.RecordBatch:
    there, arrays = set(file.schema_arrow.names), []
    plain = [field.name for field in fields if field.name in there - {_NAME, *VECTORS}]
    rest = file.read_row_group(number, columns=plain) if plain else None
    for field in fields:
        if field.name == _NAME:
            array = digests.to_arrow(names[rows])
        elif field.name not in there:
            array = pa.nulls(len(rows), field.type)
        elif field.name in VECTORS:
            array = _vectors(uri, file, number, field, rows)
        else:
            assert rest is not None
            array = rest[field.name].combine_chunks().take(pa.array(rows))
        arrays.append(array)
    return pa.RecordBatch.from_arrays(arrays, names=[field.name for field in fields])


def _vectors(uri: str, file: pq.ParquetFile, number: int, field: pa.Field, rows: np.ndarray) -> pa.Array:
    group = file.metadata.row_group(number)
    column = next(one for i in range(group.num_columns) if (one := group.column(i)).path_in_schema.split(".")[0] == field.name)
    try:
        if storage.is_local(uri):
            with Path(uri).open("rb") as opened, mmap.mmap(opened.fileno(), 0, access=mmap.ACCESS_READ) as content:
                return as_lists(FloatColumn.of(content, 0, column, group.num_rows).take(rows, uri))
        first = column.data_page_offset
        [part] = storage.read_ranges([(uri, first, first + column.total_compressed_size)])
        return as_lists(FloatColumn.of(part, first, column, group.num_rows).take(rows, uri))
    except UnusualPageError:
        whole = file.read_row_group(number, columns=[field.name])[field.name].combine_chunks()
        return whole.take(pa.array(rows)).cast(field.type)

"""Open, read and write Parquet files on any storage, in the one encoding that every reader reads."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from io import RawIOBase
from typing import IO, Any

import pyarrow as pa
import pyarrow.parquet as pq

from dnafeat import storage

PRUNING = ("sequence_digest", "source_name", "from_run")
"""Columns with min/max statistics in a file: those that tell which files and row groups can be left out of a read."""

PAGED: Mapping[str, Any] = {"buffer_size": 1 << 20, "pre_buffer": False}
"""Options of `opened` that read pages as they are needed and none ahead: slower, and sparing of memory."""

_ROW_GROUP = 16_384  # rows


@contextlib.contextmanager
def opened(uri: str, **options: Any) -> Iterator[pq.ParquetFile]:
    """Open a Parquet file at a path or URI; `options` are those of `pyarrow.parquet.ParquetFile`, such as `PAGED`."""
    fs, path = storage.filesystem(uri)
    with fs.open(path, "rb") as file:
        yield pq.ParquetFile(file, **options)


def read(uri: str, columns: Sequence[str] | None = None) -> pa.Table:
    """Read a Parquet file, or some of its columns, into memory."""
    fs, path = storage.filesystem(uri)
    with fs.open(path, "rb") as file:
        return pq.read_table(file, columns=None if columns is None else list(columns))


def write_parquet(uri: str, tables: Iterable[pa.Table], footer: Callable[[], Mapping[str, str]] = dict) -> int:
    """Write one Parquet file, whole or not at all, and return its size in bytes; arguments as of `encode_parquet`."""
    return storage.write_whole(uri, lambda file: encode_parquet(file, tables, footer))


def encode_parquet(
    file: IO[bytes] | RawIOBase, tables: Iterable[pa.Table], footer: Callable[[], Mapping[str, str]] = dict
) -> None:
    """Write tables as Parquet: PLAIN float lists under zstd level 1, dictionaries for strings, no Arrow schema blob.

    Parameters
    ----------
    file : binary file
    tables : iterable of pyarrow.Table
        At least one. Each becomes a row group (a large one several), which is written in a thread while the next one is asked for.
    footer : callable
        Returns key-value metadata; called once the last table has been written.
    """
    tables = iter(tables)
    first = next(tables)
    strings = [field.name for field in first.schema if pa.types.is_string(field.type) and field.name != "sequence_digest"]
    measured = [name for name in PRUNING if name in first.column_names]
    writer = pq.ParquetWriter(
        file,
        first.schema,
        compression="zstd",
        compression_level=1,
        use_dictionary=strings,
        store_schema=False,
        write_statistics=measured or False,
    )
    # Left from the inside out: whatever is raised, nothing is written any more when the writer is closed.
    with writer, ThreadPoolExecutor(1) as pool:
        writing = pool.submit(writer.write_table, first, row_group_size=_ROW_GROUP)
        del first
        for table in tables:
            writing.result()
            writing = pool.submit(writer.write_table, table, row_group_size=_ROW_GROUP)
        writing.result()
        if metadata := dict(footer()):
            writer.add_key_value_metadata(metadata)

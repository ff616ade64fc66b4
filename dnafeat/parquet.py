"""Open, read and write Parquet files on any storage, in the one encoding that every reader reads.

Pages are written with checksums, which are compared on every read; files without them, of older versions or other writers, are read, too.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from io import RawIOBase
from typing import IO, TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.parquet as pq

from dnafeat import storage
from dnafeat.errors import DamagedError, one_line

PRUNING = ("sequence_digest", "source_name", "from_run")
"""Columns with min/max statistics in a file: those that tell which files and row groups can be left out of a read."""

# Small ones cost nothing to read through, and one row can be read without the megabyte around it.
_PAGE_BYTES = 128 * 2**10
_CHECKED: Mapping[str, Any] = {"page_checksum_verification": True}
PAGED: Mapping[str, Any] = {"buffer_size": 1 << 20, "pre_buffer": False, **_CHECKED}
"""Options of `pyarrow.parquet.ParquetFile` that compare checksums, and read pages as needed and none ahead: slower, sparing of memory."""
if TYPE_CHECKING:
    from pyarrow.dataset import ParquetFragmentScanOptions

# How object_store's words begin where a server failed; it gives no number.
_SERVER = "Generic ", "response body", "reading a body"


def is_damage(error: BaseException) -> bool:
    """Return whether an error of reading Parquet is of the file's content, and not of the storage that it lies on."""
    if isinstance(error, OSError):
        # What a system or a server refuses has a number or a class of its own.
        return type(error) is OSError and error.errno is None and not any(words in str(error) for words in _SERVER)
    return isinstance(error, pa.ArrowException | UnicodeDecodeError) and not isinstance(error, MemoryError | KeyboardInterrupt)


@contextlib.contextmanager
def whole(uri: str) -> Iterator[None]:
    """Raise DamagedError, which names the file, where its content cannot be read in the block."""
    try:
        yield
    except (OSError, pa.ArrowException, UnicodeDecodeError) as error:
        if not is_damage(error):
            raise
        raise DamagedError(f"{uri} is damaged: {one_line(error)}; restore it from a copy") from error


@dataclass(frozen=True)
class Packing:
    """How strings are packed.

    Attributes
    ----------
    plain : tuple of str
        Columns of strings without a dictionary: those whose values hardly repeat.
    repeated : tuple of str
        Columns of numbers with a dictionary.
    row_group : int
        Rows of a group at most.
    measured : tuple of str
        Columns with min/max statistics beside those of `PRUNING`.
    notes : mapping of str to str
        Key-value metadata of the file.
    """

    plain: tuple[str, ...] = ("sequence_digest",)
    repeated: tuple[str, ...] = ()
    row_group: int = 16_384
    measured: tuple[str, ...] = ()
    notes: Mapping[str, str] = field(default_factory=dict)


DISTINCT = Packing()
"""Rows whose digests differ."""


def checked_scan() -> ParquetFragmentScanOptions:
    """Options with which a scan of a dataset compares checksums."""
    # It imports pandas, which tasks that tokenise do not need.
    from pyarrow.dataset import ParquetFragmentScanOptions

    return ParquetFragmentScanOptions(pre_buffer=True, **_CHECKED)


@contextlib.contextmanager
def opened(uri: str, **options: Any) -> Iterator[pq.ParquetFile]:
    """Open a Parquet file at a path or URI; `options` are those of `pyarrow.parquet.ParquetFile`, such as `PAGED`.

    Raises DamagedError where it is not what was written.
    """
    fs, path = storage.filesystem(uri)
    with fs.open(path, "rb") as file, whole(uri):
        yield pq.ParquetFile(file, **{**_CHECKED, **options})


def read(uri: str, columns: Sequence[str] | None = None) -> pa.Table:
    """Read a Parquet file, or some of its columns, into memory. Raises DamagedError where it is not what was written."""
    fs, path = storage.filesystem(uri)
    with fs.open(path, "rb") as file, whole(uri):
        return pq.read_table(file, columns=None if columns is None else list(columns), **_CHECKED)


def check(uri: str) -> list[str]:
    """Read a Parquet file to its end, hold nothing of it, and return the names of its columns.

    Raises DamagedError where it is not what was written.
    """
    with opened(uri, **PAGED) as file:
        for _ in file.iter_batches(DISTINCT.row_group, use_threads=False):
            pass
        return list(file.schema_arrow.names)


def write_parquet(
    uri: str, tables: Iterable[pa.Table], footer: Callable[[], Mapping[str, str]] = dict, packing: Packing = DISTINCT
) -> int:
    """Write one Parquet file, whole or not at all, and return its size in bytes; arguments as of `encode_parquet`."""
    return storage.write_whole(uri, lambda file: encode_parquet(file, tables, footer, packing))


def encode_parquet(
    file: IO[bytes] | RawIOBase,
    tables: Iterable[pa.Table],
    footer: Callable[[], Mapping[str, str]] = dict,
    packing: Packing = DISTINCT,
) -> None:
    """Write tables as Parquet: PLAIN float lists under zstd level 1, dictionaries for strings, page checksums, no Arrow schema blob.

    Parameters
    ----------
    file : binary file
    tables : iterable of pyarrow.Table
        At least one; columns of dictionaries are written as what they stand for. Each becomes a row group (a large one several), which
        is written in a thread while the next one is asked for.
    footer : callable
        Returns key-value metadata; called once the last table has been written.
    packing : Packing
    """
    tables = iter(tables)
    first = next(tables)
    texts = [one.name for one in first.schema if pa.types.is_string(one.type) or pa.types.is_dictionary(one.type)]
    coded = [name for name in texts if name not in packing.plain] + list(packing.repeated)
    measured = [name for name in (*PRUNING, *packing.measured) if name in first.column_names]
    writer = pq.ParquetWriter(
        file,
        first.schema,
        compression="zstd",
        compression_level=1,
        use_dictionary=coded,
        store_schema=False,
        write_statistics=measured or False,
        write_page_checksum=True,
        data_page_size=_PAGE_BYTES,
    )
    # Left from the inside out: whatever is raised, nothing is written any more when the writer is closed.
    with writer, ThreadPoolExecutor(1) as pool:
        writing = pool.submit(writer.write_table, first, row_group_size=packing.row_group)
        del first
        for table in tables:
            writing.result()
            writing = pool.submit(writer.write_table, table, row_group_size=packing.row_group)
        writing.result()
        if metadata := {**packing.notes, **footer()}:
            writer.add_key_value_metadata(metadata)

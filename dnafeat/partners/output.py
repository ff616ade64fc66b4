"""A partner's table as it is published, a version of a Delta table or a Parquet file, and what stood there before."""

from __future__ import annotations

import itertools
import json
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
from deltalake import Schema

from dnafeat import storage, untrusted
from dnafeat.errors import UsageError
from dnafeat.parquet import opened, write_parquet
from dnafeat.partners.intake import ROW_GROUP, SCHEMA
from dnafeat.store.data_file import DataFile
from dnafeat.store.replaced import ABOUT, ReplacedTable

_FILE_BYTES = 128 * 2**20


@dataclass(frozen=True)
class Before:
    """The state of the output before it is written."""

    table: ReplacedTable | None = None
    width: int | None = None
    version: int | None = None

    @classmethod
    def look(cls, output: str) -> Before:
        """Raise UsageError for a table that this command did not write, and for a folder with other files."""
        with storage.reached(output):
            if output.endswith(".parquet"):
                return cls(width=_width_of_file(output))
            table = ReplacedTable(output)
            if not table.look():
                if other := next(storage.listing(output), None):
                    raise UsageError(f"{output} holds {other.path} and is no table: name a new folder for the output")
                return cls(table)
            if (names := table.table.snapshot.schema().to_arrow().names) != SCHEMA.names:
                raise UsageError(
                    f"{output} is a table of something else, with the columns {', '.join(names)}: name another output"
                )
            version, about = next(table.commits(), (None, {}))
            return cls(table, about.get("width"), version)


def _width_of_file(uri: str) -> int | None:
    try:
        with opened(uri) as file:
            stored = (file.metadata.metadata or {}).get(ABOUT.encode())
    except (FileNotFoundError, pa.ArrowException):
        return None
    try:
        return int(untrusted.parse_object(stored)["width"]) if stored else None
    except (ValueError, TypeError, KeyError):
        return None


def rejects_uri(output: str) -> str:
    """The URI of the list of rejects, beside the table."""
    return f"{output.removesuffix('.parquet')}.rejects.parquet"


def publish(rows: pa.RecordBatchReader, output: str, before: Before, about: dict[str, Any]) -> int | None:
    """Write the table, whole or not at all, and return the version of a Delta table.

    Raises
    ------
    ConflictError
        Another job has written the table since `before` was looked at.
    StoreError
        Storage does not answer, or refuses.
    """
    with storage.reached(output):
        if before.table is not None:
            return _commit(rows, before.table, about)
        write_parquet(output, (pa.Table.from_batches([batch]) for batch in rows), lambda: {ABOUT: json.dumps(about)})
    return None


def list_rejects(rows: pa.RecordBatchReader | None, output: str) -> None:
    """Write what was left out beside the table; None removes the list of an earlier call."""
    with storage.reached(output):
        if rows is None:
            storage.remove(rejects_uri(output))
        else:
            write_parquet(rejects_uri(output), _gathered(rows))


def _gathered(reader: pa.RecordBatchReader) -> Iterator[pa.Table]:
    """Batches of one row each as tables of more."""
    held: list[pa.RecordBatch] = []
    for batch in reader:
        held.append(batch)
        if len(held) == ROW_GROUP:
            yield pa.Table.from_batches(held)
            held = []
    if held:
        yield pa.Table.from_batches(held)


def _commit(rows: pa.RecordBatchReader, table: ReplacedTable, about: dict[str, Any]) -> int:
    """One version of the Delta table, with what was there replaced; returns its number."""
    attempt = uuid.uuid4().hex
    files: list[DataFile] = []
    try:
        _write_parts(rows, table.uri, attempt, about, files)
    except BaseException:
        table.remove(files)
        raise
    return table.commit(files, Schema.from_arrow(SCHEMA), about, attempt)


def _write_parts(rows: pa.RecordBatchReader, output: str, attempt: str, about: dict[str, Any], files: list[DataFile]) -> None:
    """The table's files, one after the other; deltalake's own writer holds several of them at once in memory."""
    most = max(ROW_GROUP, _FILE_BYTES // (4 * about["width"]))
    batches = iter(rows)
    for first in batches:
        path, count = f"{attempt}-{len(files):05}.parquet", 0

        def part(first: pa.RecordBatch = first) -> Iterator[pa.Table]:
            nonlocal count
            for batch in itertools.chain([first], batches):
                count += len(batch)
                yield pa.Table.from_batches([batch])
                if count >= most:
                    return

        size = write_parquet(storage.join(output, path), part())
        # No statistics in the log, which keeps what it has seen of ids for as long as it is kept itself.
        files.append(DataFile(path, size, count, {}, {}, {}, {}))

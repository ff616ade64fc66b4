"""An immutable copy of what a read gives, as plain Parquet: for readers that know no Delta, and for what must not change any more.

A folder of files of about 128 MB and, written last, `_manifest.json`: a folder without it is no export. Its fields:

| field | what |
| --- | --- |
| `store`, `exported_at` | where from, and when (UTC) |
| `feature_version`, `names`, `lineage`, `parent` | the version, its names, what it is made of, and which has its `cls`, `mean`, `max` |
| `runs` | of each source the run, by id and number, as of which its entries are |
| `selection` | what was asked for, as given |
| `columns` | name and type of each |
| `rows`, `files` | how many; of each file `path`, `rows`, `size` (bytes) and `sha256` |
"""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import IO, Any

import pyarrow as pa

from dnafeat import storage
from dnafeat.errors import UsageError
from dnafeat.parquet import encode_parquet
from dnafeat.store.catalog import Store
from dnafeat.store.reading import Reading
from dnafeat.text import human_bytes

MANIFEST = "_manifest.json"
_FILE_BYTES = 128_000_000
_GROUP_ROWS = 16_384


@dataclass(frozen=True, kw_only=True)
class ExportSummary:
    """The result of an export: rows, files and their bytes, below `output`."""

    output: str
    feature_version: str
    rows: int
    files: int
    bytes: int

    def __repr__(self) -> str:
        return format_summary(self)


def export(store: Store, output: str, **selection: Any) -> ExportSummary:
    """Write what `store.read(**selection)` gives, a file at a time, into a folder or prefix that is empty.

    Raises
    ------
    UsageError
        There is something in the folder.
    StoreError
        As `Store.read` does, and where the folder cannot be written.
    """
    folder = storage.absolute(output)
    with storage.reached(folder):
        there = next(storage.listing(folder), None)
    if there is not None:
        raise UsageError(f"{output} is not empty (it holds {there.path}), and an export never changes: name a folder of its own")
    history = store.history()
    reading = store.reading(**selection)
    files: list[dict[str, Any]] = []
    try:
        with storage.reached(folder):
            columns = _write(reading, folder, files)
            runs = {row["run_number"]: row["run_id"] for row in history.listing()}
            manifest = {
                "store": store.uri,
                "exported_at": datetime.now(UTC).isoformat(timespec="seconds"),
                "feature_version": reading.version,
                "names": history.names.names_of(reading.version),
                "lineage": history.lineage(reading.version),
                "parent": reading.parent,
                "runs": {source: {"run_id": runs.get(at), "run_number": at} for source, at in reading.state.items()},
                "selection": {name: value for name, value in selection.items() if value},
                "columns": columns,
                "rows": sum(file["rows"] for file in files),
                "files": files,
            }
            text = json.dumps(manifest, indent=1, default=str, ensure_ascii=False) + "\n"
            storage.write_whole(storage.join(folder, MANIFEST), lambda file: file.write(text.encode()))
    except BaseException:
        for file in files:
            storage.remove(storage.join(folder, file["path"]))
        raise
    size = sum(file["size"] for file in files)
    return ExportSummary(output=output, feature_version=reading.version, rows=manifest["rows"], files=len(files), bytes=size)


def _write(reading: Reading, folder: str, files: list[dict[str, Any]]) -> dict[str, str]:
    """Write the files and note each in `files`; return the columns' types."""
    pieces = _pieces(reading.batches())
    following: pa.Table | None = next(pieces)
    assert following is not None
    columns = {field.name: _type(field.type) for field in following.schema}
    rows = 0

    def one_file() -> Iterator[pa.Table]:
        nonlocal following, rows
        size = 0
        while following is not None and (size == 0 or size + following.nbytes <= _FILE_BYTES):
            piece, size, rows = following, size + following.nbytes, rows + len(following)
            yield piece
            following = next(pieces, None)

    while following is not None:
        rows, path = 0, f"part-{len(files):05d}.parquet"
        hashed: list[_Hashed] = []

        def write(file: IO[bytes], hashed: list[_Hashed] = hashed) -> None:
            hashed.append(_Hashed(file))
            encode_parquet(hashed[0], one_file())

        size = storage.write_whole(storage.join(folder, path), write)
        files.append({"path": path, "rows": rows, "size": size, "sha256": hashed[0].sha256.hexdigest()})
    return columns


def _pieces(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.Table]:
    """Batches of whatever size as tables of a row group's, the last of which may have fewer rows or, of all, none."""
    held: list[pa.RecordBatch] = []
    for batch in batches:
        held.append(batch)
        if sum(map(len, held)) >= _GROUP_ROWS:
            yield pa.Table.from_batches(held)
            held = []
    if held:
        yield pa.Table.from_batches(held)


def _type(kind: pa.DataType) -> str:
    """A column's type as a reader finds it: vectors are lists in the file, whose width stands beside."""
    return f"list<float>[{kind.list_size}]" if pa.types.is_fixed_size_list(kind) else str(kind)


class _Hashed(io.RawIOBase):
    """A file that takes the SHA-256 of what is written."""

    def __init__(self, file: IO[bytes]) -> None:
        super().__init__()
        self._file, self.sha256 = file, hashlib.sha256()

    def writable(self) -> bool:
        return True

    def write(self, data: Any) -> int:
        self.sha256.update(data)
        self._file.write(data)
        return memoryview(data).nbytes


def format_summary(summary: ExportSummary) -> str:
    return (
        f"{summary.rows:,} rows of version {summary.feature_version} in {summary.files:,} files below {summary.output} "
        f"({human_bytes(summary.bytes)}), listed in {MANIFEST}"
    )

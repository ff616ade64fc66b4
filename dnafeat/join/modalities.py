"""Tables of another modality, one vector a row: a version of a Delta table, or Parquet files, read piece by piece."""

from __future__ import annotations

import functools
import hashlib
import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds
import pyarrow.parquet as pq
from deltalake import DeltaTable
from deltalake.exceptions import DeltaError

from dnafeat import keys, storage
from dnafeat.errors import UsageError, one_line
from dnafeat.parquet import PAGED, checked_scan
from dnafeat.provenance import digest_of
from dnafeat.text import did_you_mean
from dnafeat.urls import delta_uri

# Of a batch of vectors that is read at a time.
_BATCH_BYTES = 8 * 2**20


@dataclass(frozen=True, kw_only=True)
class PartnerTable:
    """A partner's table at one state, and what of it is read. It can be sent to another process.

    Attributes
    ----------
    name, uri : str
    version : int | None
        Of the Delta table; None for Parquet files.
    fingerprint : str | None
        Of Parquet files: SHA-256 of their names and contents (on object storage of their ETags).
    key, vector : str
        Columns.
    order : str | None
        Column in whose order several rows of a key stand.
    width : int
        Of the vectors.
    rows, files : int
    """

    name: str
    uri: str
    version: int | None
    fingerprint: str | None
    key: str
    vector: str
    order: str | None
    width: int
    rows: int
    files: int

    def lineage(self) -> dict[str, Any]:
        """The part of a joined table's lineage that describes this modality."""
        values = {name: getattr(self, name) for name in ("name", "uri", "version", "fingerprint", "rows", "width")}
        return {**values, "key_column": self.key, "vector_column": self.vector, "order_column": self.order}

    def order_type(self) -> pa.DataType | None:
        return _dataset(self.uri, self.version, self.fingerprint).schema.field(self.order).type if self.order else None

    def batches(self, file: int) -> Iterator[tuple[int, pa.Array, np.ndarray, pa.Array, pa.Array | None]]:
        """The rows of a file in pieces.

        Yields
        ------
        first : int
            1-based number of the first row of the piece.
        keys : pa.Array
            Strings, nulls among them.
        has : np.ndarray, shape=(rows,), bool
            Which rows have a vector.
        vectors : pa.Array
            Of those rows alone: fixed-size lists of float32.
        order : pa.Array | None

        Raises
        ------
        UsageError
            A key that is no name, a vector of another width, a null or no finite number in one.
        """
        columns = list(dict.fromkeys([self.key, self.vector, *([self.order] if self.order else [])]))
        rows = max(64, _BATCH_BYTES // (4 * self.width))
        first = 1
        for path, batch in _batches(self.uri, self.version, self.fingerprint, file, columns, rows):
            place = f"partner {self.name}, file {storage.name(path)}"
            column = _plain(batch[self.vector])
            has = column.is_valid().to_numpy(zero_copy_only=False)
            vectors = self._checked(column, has, place, first)
            names = as_text(batch[self.key], f"{place}, column {self.key!r}")
            yield first, names, has, vectors, batch[self.order] if self.order else None
            first += len(has)

    def _checked(self, column: pa.Array, has: np.ndarray, place: str, first: int) -> pa.Array:
        """Those vectors that are there as fixed-size lists of float32."""
        at = first + np.flatnonzero(has)
        there = column.drop_null()
        width = pc.list_value_length(there).to_numpy(zero_copy_only=False)
        if (other := np.flatnonzero(width != self.width)).size:
            i = int(other[0])
            raise UsageError(
                f"{place}, row {at[i]}: its vector is {width[i]} wide and the first one of {self.uri} is {self.width}: a column holds "
                f"vectors of one width, so take these rows out or make a partner of their own of them"
            )
        numbers = np.asarray(there.flatten().cast(pa.float32()).fill_null(np.nan)).reshape(-1, self.width)
        if (strange := np.flatnonzero(~np.isfinite(numbers).all(axis=1))).size:
            i = int(strange[0])
            raise UsageError(
                f"{place}, row {at[i]}: its vector holds {numbers[i][~np.isfinite(numbers[i])][0]}, which is no finite number, or a null: "
                f"take the row out, or make its vector null, which counts as missing"
            )
        return pa.FixedSizeListArray.from_arrays(pa.array(numbers.ravel()), self.width)


def open_partner(
    name: str, uri: str, *, key: str, vector: str | None = None, order: str | None = None, version: int | None = None
) -> PartnerTable:
    """Look at a partner's table. Raises UsageError for one that cannot be read, or lacks what is to be read of it."""
    uri = storage.absolute(uri)
    if _is_delta(uri):
        version = _delta(uri, version).version()
    elif version is not None:
        raise UsageError(f"partner {name}: {uri} is no Delta table, so that it has no version {version}")
    try:
        fingerprint = _fingerprint(uri) if version is None else None
        dataset = _dataset(uri, version, fingerprint)
        schema = dataset.schema
        there = ", ".join(map(repr, schema.names))
        wanted = ((key, "key column", "key"), (vector, "vector column", "vector-column"), (order, "column to order by", "reduce"))
        for column, what, flag in wanted:
            if column is not None and column not in schema.names:
                raise UsageError(f"partner {name}: {uri} has no {what} {column!r}: name another with --{flag}, one of {there}")
        vector = vector or _only_list(schema, name, uri)
        if not is_vector(schema.field(vector).type):
            raise UsageError(
                f"partner {name}: column {vector!r} of {uri} holds {schema.field(vector).type}, not a list of numbers for each row: name "
                f"another with --vector-column, or make a table of one vector a row with `dnafeat partner`"
            )
        fragments = list(dataset.get_fragments())
        rows = sum(fragment.metadata.num_rows for fragment in fragments)
        width = _first_width(uri, version, fingerprint, len(fragments), vector)
    except (OSError, pa.ArrowException, *storage.SERVER_ERRORS) as error:
        raise storage.fault(error, UsageError)(f"partner {name}: {uri} cannot be read: {one_line(error)}") from error
    if not width:
        raise UsageError(f"partner {name}: {uri} has no vector in column {vector!r}: fill it before it is joined")
    return PartnerTable(
        name=name,
        uri=uri,
        version=version,
        fingerprint=fingerprint,
        key=key,
        vector=vector,
        order=order,
        width=width,
        rows=rows,
        files=len(fragments),
    )


def read_mapping(name: str, uri: str, *, key: str, on: str) -> tuple[pa.Table, str]:
    """A table that leads from one key space to another: strings `key` and `on`, one row for each key; and its version or fingerprint.

    Raises UsageError where a column is missing, or a key leads to two.
    """
    what = f"the mapping of {name}, {storage.absolute(uri)},"
    if key == on:
        raise UsageError(f"{what} would lead from {key!r} to itself: say with --key {name}=COLUMN how the partner's key is named")
    table, state = read_columns(what, uri, [key, on])
    columns = [as_text(table[column].combine_chunks(), f"{what} column {column!r}") for column in (key, on)]
    pairs = pa.table(columns, names=["key", "on"]).drop_null().group_by(["key", "on"]).aggregate([])
    counted = pc.value_counts(pairs["key"].combine_chunks())
    if double := counted.filter(pc.greater(counted.field("counts"), 1)).field("values").to_pylist():
        two = sorted(pairs.filter(pc.equal(pairs["key"], double[0]))["on"].to_pylist())
        raise UsageError(f"{what} leads from {double[0]!r} to {two[0]!r} and to {two[1]!r}: leave one")
    return pairs.select(["key", "on"]), state


def read_columns(what: str, uri: str, columns: Sequence[str], version: int | None = None) -> tuple[pa.Table, str]:
    """Read some columns of a Delta table or of Parquet files, and its version or fingerprint. Raises UsageError; `what` names it."""
    uri = storage.absolute(uri)
    if _is_delta(uri):
        version = _delta(uri, version).version()
    fingerprint = _fingerprint(uri) if version is None else None
    try:
        dataset = _dataset(uri, version, fingerprint)
        for column in columns:
            if column not in dataset.schema.names:
                wanted, there = " and ".join(map(repr, columns)), ", ".join(map(repr, dataset.schema.names))
                hint = did_you_mean(column, dataset.schema.names)
                raise UsageError(f"{what} has no column {column!r}: it needs {wanted}, and has {there}{hint}")
        return dataset.to_table(columns=list(columns), fragment_scan_options=checked_scan()), fingerprint or f"version {version}"
    except (OSError, pa.ArrowException, *storage.SERVER_ERRORS) as error:
        raise storage.fault(error, UsageError)(f"{what} cannot be read: {one_line(error)}") from error


def as_text(column: pa.Array, what: str) -> pa.Array:
    """Keys as strings, spelled by the rule of `dnafeat.keys`; null where missing.

    Raises UsageError for other types, and for floats that are no whole number or stand for several.
    """
    kind = column.type
    if pa.types.is_dictionary(kind):
        return as_text(column.dictionary_decode(), what)
    if pa.types.is_floating(kind):
        names, strange = keys.digits_of_floats(column)
        if strange.any():
            raise UsageError(f"{what} holds {keys.no_key(column[int(np.flatnonzero(strange)[0])].as_py())}")
        return names
    if pa.types.is_integer(kind) or any(
        getattr(pa.types, f"is_{one}")(kind) for one in ("string", "large_string", "string_view")
    ):
        names = keys.named(pc.cast(column, pa.string()))
        check_lossless(names, what)
        return names
    if pa.types.is_null(kind):
        return pa.nulls(len(column), pa.string())
    raise UsageError(f"{what} holds {kind}: keys are texts or whole numbers")


def check_lossless(names: pa.Array | pa.ChunkedArray, what: str) -> None:
    """Raise UsageError for a key that was a float and stands for several whole numbers."""
    if text := keys.lossy(names):
        raise UsageError(f"{what} holds {keys.no_key(float(text))}")


def is_vector(kind: pa.DataType) -> bool:
    """Return whether a column's rows are lists of numbers."""
    kind = kind.storage_type if isinstance(kind, pa.BaseExtensionType) else kind
    lists = ("list", "large_list", "fixed_size_list")
    return any(getattr(pa.types, f"is_{one}")(kind) for one in lists) and (
        pa.types.is_floating(kind.value_type) or pa.types.is_integer(kind.value_type)
    )


def _only_list(schema: pa.Schema, name: str, uri: str) -> str:
    found = [field.name for field in schema if is_vector(field.type)]
    if len(found) == 1:
        return found[0]
    if not found:
        there = ", ".join(f"{field.name!r} ({field.type})" for field in schema)
        raise UsageError(
            f"partner {name}: {uri} has no column with a list of numbers for each row, but {there}: make one with `dnafeat partner`"
        )
    there = ", ".join(map(repr, found))
    raise UsageError(
        f"partner {name}: {uri} has several columns of lists, {there}: name one, as in --vector-column {name}={found[0]}"
    )


def _plain(column: pa.Array) -> pa.Array:
    return column.storage if isinstance(column, pa.ExtensionArray) else column


def _first_width(uri: str, version: int | None, fingerprint: str | None, files: int, vector: str) -> int | None:
    """Width of the first vector there is."""
    for file in range(files):
        for _, batch in _batches(uri, version, fingerprint, file, [vector], 1024):
            there = _plain(batch[vector]).drop_null()
            if len(there):
                return int(pc.list_value_length(there.slice(0, 1))[0].as_py())
    return None


def _batches(
    uri: str, version: int | None, fingerprint: str | None, file: int, columns: list[str], rows: int
) -> Iterator[tuple[str, pa.RecordBatch]]:
    """The rows of one file, with the values of partition columns, which do not stand in it; and its path."""
    dataset = _dataset(uri, version, fingerprint)
    fragment = next(itertools.islice(dataset.get_fragments(), file, None))
    outside = ds.get_partition_keys(fragment.partition_expression)
    with fragment.open() as opened:
        # Page by page: a file that pandas wrote is one row group, however large.
        parquet = pq.ParquetFile(opened, **PAGED)
        stored = [name for name in columns if name in parquet.schema_arrow.names]
        # A Delta table's older files lack its later columns.
        if version is None and (absent := set(columns) - set(stored)):
            raise UsageError(f"{fragment.path} has no column {min(absent)!r}, which the first file of {uri} has: make them alike")
        for batch in parquet.iter_batches(batch_size=rows, columns=stored, use_threads=False):
            arrays = [
                batch[name] if name in stored else pa.array([outside.get(name)] * len(batch), dataset.schema.field(name).type)
                for name in columns
            ]
            yield fragment.path, pa.RecordBatch.from_arrays(arrays, names=columns)


def _is_delta(uri: str) -> bool:
    if any(mark in uri for mark in "*?[") or uri.endswith(".parquet"):
        return False
    try:
        place = delta_uri(uri)
    except UsageError:
        # Plain Parquet files may lie in a folder of any name.
        if "_delta_log" in storage.names(uri):
            raise
        return False
    try:
        return bool(DeltaTable.is_deltatable(place, storage_options=storage.delta_options(uri)))
    except (DeltaError, OSError) as error:
        raise storage.table_fault(error, uri)(f"{uri} cannot be read: {one_line(error)}") from error


def _delta(uri: str, version: int | None) -> DeltaTable:
    try:
        return DeltaTable(delta_uri(uri), version=version, storage_options=storage.delta_options(uri))
    except (DeltaError, OSError) as error:
        asked = "" if version is None else f" at version {version}"
        raise storage.table_fault(error, uri)(f"the Delta table {uri} cannot be read{asked}: {one_line(error)}") from error


@functools.lru_cache(maxsize=8)
def _snapshot(uri: str, version: int) -> ds.Dataset:
    # Many tasks of a process look at the same snapshot, which never changes.
    try:
        return _delta(uri, version).to_pyarrow_dataset()
    except (DeltaError, OSError, ValueError) as error:
        raise storage.table_fault(error, uri)(f"the Delta table {uri} cannot be read: {one_line(error)}") from error


def _dataset(uri: str, version: int | None, fingerprint: str | None) -> ds.Dataset:
    """A Delta table's version, or Parquet files that have this fingerprint where it is None."""
    return _parquet(uri, fingerprint) if version is None else _snapshot(uri, version)


@functools.lru_cache(maxsize=8)
def _parquet(uri: str, fingerprint: str | None) -> ds.Dataset:
    # Files that have changed have another fingerprint; those that have not are listed once a process.
    fs, _ = storage.filesystem(uri)
    return ds.dataset([storage.filesystem(one)[1] for one in _files(uri)], filesystem=fs, format="parquet")


def _files(uri: str) -> list[str]:
    """Parquet files behind a path, folder or glob; what is hidden, or begins with an underscore, is none of the table's."""
    root = "" if any(mark in uri for mark in "*?[") else uri
    found = [one for one in storage.expand(uri) if one.endswith((".parquet", ".pq"))]
    found = [one for one in found if not any(part.startswith(("_", ".")) for part in one.removeprefix(root).split("/"))]
    if not found:
        raise UsageError(f"{uri} holds no Delta table and no file that ends in .parquet")
    return found


def _fingerprint(uri: str) -> str:
    states: dict[str, str] = {}
    for one in _files(uri):
        fs, path = storage.filesystem(one)
        if storage.is_local(one):
            with fs.open(path, "rb") as file:
                states[one.removeprefix(uri)] = hashlib.file_digest(file, "sha256").hexdigest()
        else:
            about = fs.info(path)
            states[one.removeprefix(uri)] = str(about.get("ETag", about))
    return digest_of(states)

"""One Delta table of a store: its snapshot, its files, and commits that hold only if nobody committed since the snapshot was taken."""

from __future__ import annotations

import contextlib
import functools
import json
import operator
import random
import re
import time
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from io import RawIOBase
from typing import IO, Any, TypeVar

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds
import pyarrow.fs as pa_fs
import pyarrow.parquet as pq
from deltalake import CommitProperties, DeltaTable, Field, Transaction
from deltalake.exceptions import CommitFailedError, DeltaError, TableNotFoundError
from deltalake.schema import PrimitiveType
from deltalake.transaction import AddAction, RemoveAction

from dnafeat import storage
from dnafeat.errors import ConflictError, ForgottenError, StoreError, one_line
from dnafeat.store.schema import arrow_schema, delta_schema

# Columns with min/max statistics in the log: those that prune files. Never a personal one (ids, keys, rejected text), because the
# log keeps what it has seen for as long as the log itself is kept. And never one that mixes values and nulls (until_run): PyArrow
# takes a minimum for a promise that no row is null, and leaves the file out of a search for nulls.
_STATISTICS = {
    "features": ("sequence_digest",),
    "sequences": ("source_name", "from_run"),
    "versions": (),
    "rejects": (),
    "runs": (),
}
_COMPARED: dict[str, Callable[[Any, Any], pc.Expression]] = {"=": operator.eq, ">=": operator.ge, "<=": operator.le}
_PARTITION = {"features": ["feature_version"]}


_ROW_GROUP = 16_384  # rows
_ATTEMPTS = 20
_LONGEST_WAIT = 2.0  # seconds between two attempts
_READINGS = 6  # of what breaks off again and again
_BROKEN_OFF = "response body", "reading a body"  # words of object_store's and of its HTTP library's

T = TypeVar("T")


def plain(name: str) -> str:
    """A name of letters, digits, '.', '_' and '-' alone; two names never become the same."""
    return re.sub(r"[^A-Za-z0-9._-]", lambda m: "".join(f"~{byte:02x}" for byte in m[0].encode()), name)


class Refused(Exception):
    """Somebody committed to the table since the snapshot, or it is not known whether the commit is there: reload, check and try again."""


def broken_off(error: Exception) -> bool:
    """Whether the connection was lost in the middle of a reply: the one fault that deltalake does not try again by itself."""
    return isinstance(error, OSError | DeltaError) and any(words in str(error) for words in _BROKEN_OFF)


def again(call: Callable[[], T]) -> T:
    """What `call` returns, which does the same however often it is called; it is called again where a reply breaks off."""
    for attempt in range(_READINGS - 1):
        try:
            return call()
        except (DeltaError, OSError) as error:
            if not broken_off(error):
                raise
            time.sleep(random.uniform(0, 0.1 * 2**attempt))
    return call()


@dataclass(frozen=True)
class DataFile:
    """A whole Parquet file below a table's folder, not yet part of it.

    Attributes
    ----------
    path : str
        Relative to the table's folder.
    size : int
        Bytes.
    rows : int
    minimum, maximum : Mapping[str, Any]
        Of the columns that have statistics.
    nulls : Mapping[str, int]
        Likewise.
    partition : Mapping[str, str]
        Partition column values, which do not stand in the file.
    """

    path: str
    size: int
    rows: int
    minimum: Mapping[str, Any]
    maximum: Mapping[str, Any]
    nulls: Mapping[str, int]
    partition: Mapping[str, str]

    def added(self, rows_change: bool = True) -> AddAction:
        ends = {"minValues": dict(self.minimum), "maxValues": dict(self.maximum), "nullCount": dict(self.nulls)}
        stats = {"numRecords": self.rows, **ends}
        return AddAction(self.path, self.size, self.partition, int(time.time() * 1000), rows_change, json.dumps(stats))


@dataclass(frozen=True, kw_only=True)
class Change:
    """What one commit does to a table: files that come, paths that go, and what it leaves in the log beside its own id."""

    added: Sequence[DataFile] = ()
    removed: Sequence[str] = ()
    transactions: Mapping[str, int] = field(default_factory=dict)
    number: int = 1
    """The version under which the commit's own application id is left in the log."""
    rows_change: bool = True
    """False: the same rows in other files, which those who follow the table's changes need not look at."""


def write_parquet(uri: str, tables: Iterable[pa.Table], footer: Callable[[], Mapping[str, str]] = dict) -> int:
    """One Parquet file, whole or not at all, in the encoding every reader reads; returns its size in bytes.

    `tables` and `footer` as `encode_parquet` takes them.
    """
    return storage.write_whole(uri, lambda file: encode_parquet(file, tables, footer))


def encode_parquet(
    file: IO[bytes] | RawIOBase, tables: Iterable[pa.Table], footer: Callable[[], Mapping[str, str]] = dict
) -> None:
    """Writes tables as Parquet in the encoding every reader reads.

    PLAIN float lists under zstd level 1, dictionaries for strings, no Arrow schema blob (DESIGN.md, "The store"). Each table becomes a
    row group (a large one several), which is written in a thread while the next one is asked for here. At least one is needed. `footer`
    is asked for key-value metadata once the last has been written.
    """
    tables = iter(tables)
    first = next(tables)
    strings = [field.name for field in first.schema if pa.types.is_string(field.type) and field.name != "sequence_digest"]
    measured = [name for names in _STATISTICS.values() for name in names if name in first.column_names]
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
        if told := dict(footer()):
            writer.add_key_value_metadata(told)


@functools.lru_cache(maxsize=4)
def _at_version(uri: str, version: int, **options: str) -> DeltaTable:
    # Many tasks of a process look at the same snapshot, which is read from the log once.
    return DeltaTable(uri, version=version, storage_options=options)


def _snapshot(uri: str, version: int | None, **options: str) -> DeltaTable:
    return DeltaTable(uri, storage_options=options) if version is None else _at_version(uri, version, **options)


def _holds_some(statistics: Mapping[str, Mapping[str, Any]], sought: np.ndarray) -> bool:
    """Whether one of some sorted digests lies in a row group's range."""
    ends = statistics.get("sequence_digest")
    if not ends:
        return True
    return bool(np.searchsorted(sought, ends["min"].encode()) < np.searchsorted(sought, ends["max"].encode(), side="right"))


class Table:
    """A table at one snapshot, also in another process that it is sent to.

    `reload` moves to the newest; a commit makes the snapshot stale, so reload after it.
    """

    def __init__(self, store: str, name: str) -> None:
        self.name = name
        self.uri = storage.join(store, name)
        self._options = storage.delta_options(store)
        self._snapshot: DeltaTable | None = None
        self._version: int | None = None

    def __getstate__(self) -> dict[str, Any]:
        """What another process needs to see the same snapshot."""
        return {**self.__dict__, "_snapshot": None, "_version": self._snapshot and self._snapshot.version()}

    @property
    def snapshot(self) -> DeltaTable:
        if self._snapshot is None:
            try:
                self._snapshot = again(lambda: _snapshot(self.uri, self._version, **self._options))
            except TableNotFoundError:
                raise StoreError(f"there is no store at {self.uri.rpartition('/')[0]}: fill one with `dnafeat embed`") from None
            except (DeltaError, OSError) as error:
                raise storage.fault(error)(f"{self.uri} cannot be read: {one_line(error)}") from error
        return self._snapshot

    def reload(self) -> Table:
        self._snapshot = self._version = None
        return self

    def exists(self) -> bool:
        try:
            return again(lambda: DeltaTable.is_deltatable(self.uri, storage_options=self._options))
        except (DeltaError, OSError) as error:
            raise storage.fault(error)(f"{self.uri} cannot be read: {one_line(error)}") from error

    def create(self) -> None:
        """Makes the empty table unless it is there; two that do so at the same time both end well."""
        if self.exists():
            return
        columns = ",".join(_STATISTICS[self.name])
        try:
            again(lambda: self._create(columns))
        except (DeltaError, OSError) as error:
            if not self.exists():
                raise storage.fault(error)(f"{self.uri} cannot be created: {one_line(error)}") from error

    def _create(self, columns: str) -> None:
        DeltaTable.create(
            self.uri,
            delta_schema(self.name),
            mode="error",
            partition_by=_PARTITION.get(self.name),
            # Other tools that rewrite the table must not put ids into the log either.
            configuration={"delta.dataSkippingStatsColumns": columns} if columns else {"delta.dataSkippingNumIndexedCols": "0"},
            storage_options=self._options,
            # Without this a second creation is put on top of the first, and undoes what came between.
            commit_properties=CommitProperties(max_commit_retries=0),
        )

    def schema(self) -> pa.Schema:
        """The table's own columns as they are now, caller's keys included, and those that its newest contract has beside them."""
        there = pa.schema([field.remove_metadata() for field in pa.schema(self.snapshot.schema().to_arrow())])
        return pa.schema([*there, *(field for field in arrow_schema(self.name) if field.name not in there.names)])

    def version(self) -> int:
        return self.snapshot.version()

    def dataset(self, pruned_by: Sequence[tuple[str, str, Any]] | None = None) -> ds.Dataset:
        """A PyArrow dataset of the snapshot; `pruned_by` leaves out files that can hold no such row (rows are still to be filtered)."""
        return self.snapshot.to_pyarrow_dataset(
            filesystem=pa_fs.SubTreeFileSystem(self.uri, pa_fs.LocalFileSystem()) if storage.is_local(self.uri) else None,
            file_pruning_predicate=list(pruned_by) if pruned_by else None,
            # Of a column that came with a newer contract, an older store has nulls.
            schema=self.schema(),
        )

    def count_rows(self, partition: Mapping[str, str]) -> int:
        """Rows of the snapshot in some partition, as the log counts them."""
        added = pa.table(self.snapshot.get_add_actions(flatten=True))
        where = [pc.equal(added[f"partition.{column}"], value) for column, value in partition.items()] if len(added) else []
        for one in where:
            added = added.filter(one)
        return pc.sum(added["num_records"]).as_py() or 0

    def read(
        self,
        columns: Sequence[str] | None = None,
        where: pc.Expression | None = None,
        pruned_by: Sequence[tuple[str, str, Any]] | None = None,
    ) -> pa.Table:
        """Rows of the snapshot. Raises StoreError when a file of it is gone or cannot be read."""
        with self._readable():
            return again(lambda: self.dataset(pruned_by).to_table(columns=columns, filter=where))

    def batches(
        self,
        columns: Sequence[str],
        where: pc.Expression,
        pruned_by: Sequence[tuple[str, str, Any]],
        rows: int,
    ) -> Iterator[pa.RecordBatch]:
        """The same in batches of at most `rows` rows, none of them empty."""
        given = 0

        def rest() -> Iterator[pa.RecordBatch]:
            """What was not given yet: a scan has one order, so that one begun anew is taken up where the last broke off."""
            seen = 0
            # Arrow's own readahead holds a third more of a million vectors in memory, and is no faster.
            ahead = {"batch_readahead": 8, "fragment_readahead": 2}
            for batch in self.dataset(pruned_by).to_batches(columns=columns, filter=where, batch_size=rows, **ahead):
                first, seen = max(given - seen, 0), seen + len(batch)
                if first < len(batch):
                    yield batch.slice(first)

        with self._readable():
            scan = rest()

            def following() -> pa.RecordBatch | None:
                nonlocal scan
                try:
                    return next(scan, None)
                except OSError:
                    scan = rest()
                    raise

            while (batch := again(following)) is not None:
                given += len(batch)
                yield batch

    def pages(
        self,
        columns: Sequence[str],
        pruned_by: Sequence[tuple[str, str, Any]],
        rows: int,
        sought: np.ndarray | None = None,
    ) -> Iterator[pa.RecordBatch]:
        """Batches of at most `rows` rows of those files, and row groups of them, that can hold such rows as `pruned_by` describes.

        Slower than `batches` and sparing of memory: pages are read as they are needed, and none ahead. A column that a file lacks is null
        there. With `sought`, sorted digests of dtype S35, row groups in whose range none of them lies are left out; Arrow itself does so
        for no more than some fifty.
        """
        where = functools.reduce(operator.and_, (_COMPARED[how](ds.field(name), value) for name, how, value in pruned_by))
        with self._readable():
            dataset = self.dataset(pruned_by)
            for fragment in dataset.get_fragments(where):
                found = fragment.subset(where, schema=dataset.schema).row_groups
                groups = [group.id for group in found if sought is None or _holds_some(group.statistics, sought)]
                if not groups:
                    continue
                with fragment.open() as opened:
                    file = pq.ParquetFile(opened, buffer_size=1 << 20, pre_buffer=False)
                    there = [name for name in columns if name in file.schema_arrow.names]
                    for batch in file.iter_batches(rows, row_groups=groups, columns=there, use_threads=False):
                        arrays = [
                            batch[name] if name in there else pa.nulls(len(batch), dataset.schema.field(name).type)
                            for name in columns
                        ]
                        yield pa.RecordBatch.from_arrays(arrays, names=list(columns))

    @contextlib.contextmanager
    def _readable(self) -> Iterator[None]:
        try:
            yield
        except (OSError, pa.ArrowInvalid) as error:
            raise storage.fault(error)(f"{self.uri} cannot be read: {one_line(error)}") from error

    def paths(self, pruned_by: Sequence[tuple[str, str, Any]] | None = None) -> list[str]:
        """Files of the snapshot, relative to the table's folder."""
        uris = self.snapshot.file_uris(file_pruning_predicate=list(pruned_by) if pruned_by else None)
        # The folder's part of a URI is percent-encoded, ours is not and has no slash but a partition's.
        return [uri.rpartition(f"/{self.name}/")[2] for uri in uris]

    def files(self) -> list[tuple[DataFile, datetime]]:
        """Files of the snapshot as the log describes them, and when each was added by the clock of who added it."""
        rows = pa.table(self.snapshot.get_add_actions(flatten=True)).to_pylist()
        found = []
        for row in rows:
            told: dict[str, dict[str, Any]] = {"min": {}, "max": {}, "null_count": {}, "partition": {}}
            for name, value in row.items():
                kind, _, column = name.partition(".")
                if kind in told and value is not None:
                    told[kind][column] = value
            about = (row["path"], row["size_bytes"], row["num_records"] or 0, *told.values())
            found.append((DataFile(*about), datetime.fromtimestamp(row["modification_time"] / 1000, UTC)))
        return found

    def read_file(self, path: str) -> pa.Table:
        """One file of an unpartitioned table, in the table's present schema: columns it lacks come back as nulls."""
        return pa.concat_tables([self.schema().empty_table(), *self.pieces(path)])

    def pieces(self, path: str) -> Iterator[pa.Table]:
        """The same a row group at a time."""
        schema = self.schema()
        fs, root = storage.filesystem(storage.join(self.uri, path))
        with self._readable(), fs.open(root, "rb") as opened:
            file = pq.ParquetFile(opened)
            for i in range(file.num_row_groups):
                table = file.read_row_group(i)
                there = set(table.column_names)
                columns = [table[f.name].cast(f.type) if f.name in there else pa.nulls(len(table), f.type) for f in schema]
                yield pa.Table.from_arrays(columns, schema=schema)

    def write(
        self,
        rows: pa.Table | Iterable[pa.Table],
        *,
        stem: str,
        partition: Mapping[str, str] | None = None,
        footer: Callable[[], Mapping[str, str]] = dict,
    ) -> DataFile:
        """Writes a file below the table without making it part of it.

        `stem` begins its name, with `~` and hexadecimals for what a path in Delta's log cannot hold as it is; no two files ever share
        a name. Rows may come in pieces, which are not held; `footer` is called after the last.
        """
        folder = "".join(f"{column}={value}/" for column, value in (partition or {}).items())
        path = f"{folder}{plain(stem)}-{uuid.uuid4().hex}.parquet"
        ends: dict[str, list[Any]] = {column: [] for column in _STATISTICS[self.name]}
        nulls = dict.fromkeys(ends, 0)
        count = 0

        def measured() -> Iterator[pa.Table]:
            nonlocal count
            for table in [rows] if isinstance(rows, pa.Table) else rows:
                count += len(table)
                for column, seen in ends.items():
                    both = pc.min_max(table[column]).as_py()
                    seen += [value for value in both.values() if value is not None]
                    nulls[column] += table[column].null_count
                yield table

        size = write_parquet(storage.join(self.uri, path), measured(), footer)
        low, high = ({column: end(seen) for column, seen in ends.items() if seen} for end in (min, max))
        return DataFile(path, size, count, low, high, nulls, partition or {})

    def commit(
        self,
        added: Iterable[DataFile],
        *,
        removed: Iterable[str] = (),
        transactions: Mapping[str, int] | None = None,
        rows_change: bool = True,
    ) -> None:
        """Adds and removes files in one commit, made from this snapshot and from no other.

        Parameters
        ----------
        added : iterable of DataFile
        removed : iterable of str
            Paths in the snapshot.
        transactions : mapping of str to int
            Application ids and versions to leave in the log; `transaction` reads them back.
        rows_change : bool
            As in `Change`.

        Raises
        ------
        Refused
            The table has moved on since the snapshot, or the reply was lost: `transaction` of the run's own id tells which.
        """
        actions: list[AddAction | RemoveAction] = [file.added(rows_change) for file in added]
        now = int(time.time() * 1000)
        actions += [RemoveAction(path, rows_change, now) for path in removed]
        properties = CommitProperties(
            max_commit_retries=0,
            app_transactions=[Transaction(app, version) for app, version in (transactions or {}).items()],
        )
        try:
            self.snapshot.create_write_transaction(
                actions,
                mode="append",
                schema=self.snapshot.schema(),
                partition_by=_PARTITION.get(self.name, []),
                commit_properties=properties,
            )
        except CommitFailedError as error:
            raise Refused(one_line(error)) from error
        except (DeltaError, OSError) as error:
            if broken_off(error):
                raise Refused(one_line(error)) from error
            raise storage.fault(error)(f"{self.uri} cannot be committed to: {one_line(error)}") from error
        self.reload()

    def transaction(self, app: str) -> int | None:
        return self.snapshot.transaction_version(app)

    def settle(self, app: str, change: Callable[[], Change | None]) -> int | None:
        """Commits what `change` makes of the newest snapshot, once, whoever else commits at the same time.

        `change` is asked anew whenever somebody else was faster, and what it returns is committed from the snapshot it looked at or
        not at all; it may itself raise Refused to be asked again. The commit leaves `app` in the log, so that one whose reply was lost
        is recognised and not made twice.

        Parameters
        ----------
        app : str
            Application id of this one commit.
        change : callable
            Returns None when there is nothing to do.

        Returns
        -------
        int | None
            The number left under `app`; None where nothing was committed.

        Raises
        ------
        ConflictError
            Others were faster again and again.
        ForgottenError
            A file to be added was taken out before it was part of the table: the log has it as removed, and it may be deleted already.
        """
        for attempt in range(_ATTEMPTS):
            self.reload()
            number = self.transaction(app)
            if number is not None:
                return number
            try:
                wanted = change()
                if wanted is None:
                    return None
                self._check_not_removed(wanted.added)
                transactions = {app: wanted.number, **wanted.transactions}
                self.commit(wanted.added, removed=wanted.removed, transactions=transactions, rows_change=wanted.rows_change)
                return wanted.number
            except Refused:
                time.sleep(random.uniform(0, min(_LONGEST_WAIT, 0.02 * 2**attempt)))
        raise ConflictError(
            f"{_ATTEMPTS} commits to {self.uri} were overtaken by others: send the same command again, what was written is kept"
        )

    def _check_not_removed(self, added: Sequence[DataFile]) -> None:
        """Whoever deletes a file that is not part of the table has it removed in the log first, so that it cannot become part of it."""
        if gone := {file.path for file in added} & self.removed_paths() if added else set():
            raise ForgottenError(
                f"{len(gone)} files were taken out of {self.uri} before they could be committed, by `dnafeat forget` or because they were "
                f"too old: send the run again"
            )

    def removed_paths(self) -> set[str]:
        """Files that were part of the table and are not any more, for as long as the log knows them (a week, by Delta's default)."""
        with self._readable():
            return set(again(lambda: self.snapshot.vacuum(retention_hours=0, dry_run=True, enforce_retention_duration=False)))

    def uncommitted(self, within: str = "") -> list[storage.Listed]:
        """Parquet files below the table's folder that are not part of the snapshot, and that the log does not know as removed.

        `within` is the folder of a partition, to list that alone; paths are relative to the table's all the same.
        """
        known = set(self.paths()) | self.removed_paths()
        found = []
        for listed in storage.listing(storage.join(self.uri, within) if within else self.uri):
            listed = replace(listed, path=f"{within}/{listed.path}" if within else listed.path)
            parts = listed.path.split("/")
            # What Delta and other tools keep for themselves begins with an underscore, what is not yet whole with a dot.
            ours = parts[-1].endswith(".parquet") and not any(part.startswith(("_", ".")) for part in parts)
            if ours and listed.path not in known:
                found.append(listed)
        return found

    def add_string_columns(self, names: Iterable[str]) -> None:
        """Adds nullable string columns that are not there yet. Raises StoreError where a column of the name has another type."""
        names, schema = list(names), self.schema()
        same = {name.lower(): name for name in schema.names}
        for name in names:
            if same.get(name.lower(), name) != name:
                raise StoreError(
                    f"key {name!r} differs from column {same[name.lower()]!r} of {self.uri} in case alone: rename the key"
                )
            if name in schema.names and not pa.types.is_string(schema.field(name).type):
                raise StoreError(f"column {name!r} of {self.uri} is {schema.field(name).type} and not a string: rename the key")
        missing = [name for name in names if name not in schema.names]
        if not missing:
            return
        try:
            self.snapshot.alter.add_columns(
                [Field(name, PrimitiveType("string")) for name in missing],
                commit_properties=CommitProperties(max_commit_retries=0),
            )
        except (DeltaError, OSError) as error:
            if isinstance(error, CommitFailedError) or broken_off(error):
                raise Refused(one_line(error)) from error
            raise
        self.reload()

"""One Delta table of a store at one snapshot: what it holds, and how its rows are read."""

from __future__ import annotations

import contextlib
import functools
import operator
import sys
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any, Self

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds
import pyarrow.fs as pa_fs
import pyarrow.parquet as pq
from deltalake import DeltaTable
from deltalake.exceptions import DeltaError, TableNotFoundError

from dnafeat import parquet, storage
from dnafeat.errors import DamagedError, StoreError, one_line
from dnafeat.store import delta_log, digests
from dnafeat.store.data_file import DataFile
from dnafeat.store.ownership import is_data_file
from dnafeat.store.retry import again
from dnafeat.store.schema import DROPPABLE, arrow_schema
from dnafeat.urls import delta_uri

_DROP = "--drop-damaged"
_COMPARED: dict[str, Callable[[Any, Any], pc.Expression]] = {"=": operator.eq, ">=": operator.ge, "<=": operator.le}


@functools.lru_cache(maxsize=4)
def _at_version(uri: str, version: int, **options: str) -> DeltaTable:
    # Many tasks of a process look at the same snapshot, which is read from the log once.
    return DeltaTable(delta_uri(uri), version=version, storage_options=options)


def _snapshot(uri: str, version: int | None, **options: str) -> DeltaTable:
    if version is not None:
        return _at_version(uri, version, **options)
    return DeltaTable(delta_uri(uri), storage_options=options)


def _holds_some(statistics: Mapping[str, Mapping[str, Any]], sought: np.ndarray) -> bool:
    """Return whether one of some sorted digests lies in a row group's range."""
    ends = statistics.get("sequence_digest")
    if not ends:
        return True
    return digests.any_between(sought, ends["min"].encode(), ends["max"].encode())


class TableSnapshot:
    """A table at one snapshot, also in another process that it is sent to; `reload` moves to the newest."""

    def __init__(self, store: str, name: str) -> None:
        self.name = name
        self.uri = storage.join(store, name)
        self._options = storage.delta_options(store)
        self._snapshot: DeltaTable | None = None
        self._version: int | None = None

    def __getstate__(self) -> dict[str, Any]:
        """Return what another process needs to see the same snapshot."""
        return {**self.__dict__, "_snapshot": None, "_version": self._snapshot and self._snapshot.version()}

    @property
    def snapshot(self) -> DeltaTable:
        if self._snapshot is None:
            try:
                self._snapshot = again(lambda: _snapshot(self.uri, self._version, **self._options))
                self._check_log(self._snapshot.version())
            except TableNotFoundError:
                self._check_log(sys.maxsize)
                raise StoreError(f"there is no store at {self.uri.rpartition('/')[0]}: fill one with `dnafeat embed`") from None
            except (DeltaError, OSError) as error:
                self._check_log(sys.maxsize)
                raise storage.fault(error)(f"{self.uri} cannot be read: {one_line(error)}") from error
        return self._snapshot

    def _check_log(self, version: int) -> None:
        """Raise StoreError where an entry that a snapshot is made of is damaged; it is not kept then."""
        try:
            delta_log.check(self.uri, version)
        except StoreError:
            self._snapshot = None
            raise

    def reload(self) -> Self:
        self._snapshot = self._version = None
        return self

    def exists(self) -> bool:
        try:
            place = delta_uri(self.uri)
            return again(lambda: DeltaTable.is_deltatable(place, storage_options=self._options))
        except (DeltaError, OSError) as error:
            raise storage.fault(error)(f"{self.uri} cannot be read: {one_line(error)}") from error

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
        """Rows of the snapshot. Raises StoreError when a file of it is gone, damaged or cannot be read."""
        with self._readable(pruned_by):
            dataset = self.dataset(pruned_by)
            table = again(lambda: dataset.to_table(columns=columns, filter=where, fragment_scan_options=parquet.checked_scan()))
            self._check_names(dataset, where)
            return table

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
            ahead = {"batch_readahead": 8, "fragment_readahead": 2, "fragment_scan_options": parquet.checked_scan()}
            dataset = self.dataset(pruned_by)
            for batch in dataset.to_batches(columns=columns, filter=where, batch_size=rows, **ahead):
                first, seen = max(given - seen, 0), seen + len(batch)
                if first < len(batch):
                    yield batch.slice(first)
            self._check_names(dataset, where)

        with self._readable(pruned_by):
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
        with self._readable(pruned_by):
            dataset = self.dataset(pruned_by)
            for fragment in dataset.get_fragments(where):
                found = fragment.subset(where, schema=dataset.schema).row_groups
                groups = [group.id for group in found if sought is None or _holds_some(group.statistics, sought)]
                if not groups:
                    continue
                with fragment.open() as opened:
                    file = pq.ParquetFile(opened, **parquet.PAGED)
                    self.check_columns(file.schema_arrow.names, fragment.path)
                    there = [name for name in columns if name in file.schema_arrow.names]
                    for batch in file.iter_batches(rows, row_groups=groups, columns=there, use_threads=False):
                        arrays = [
                            batch[name] if name in there else pa.nulls(len(batch), dataset.schema.field(name).type)
                            for name in columns
                        ]
                        yield pa.RecordBatch.from_arrays(arrays, names=list(columns))

    @contextlib.contextmanager
    def _readable(self, pruned_by: Sequence[tuple[str, str, Any]] | None = None) -> Iterator[None]:
        try:
            with self._remedied():
                yield
        except storage.SERVER_ERRORS as error:
            raise storage.fault(error)(f"{self.uri} cannot be read: {one_line(error)}") from error
        except (OSError, pa.ArrowException, UnicodeDecodeError) as error:
            if parquet.is_damage(error):
                with self._remedied():
                    self._check(pruned_by)
            if not isinstance(error, OSError | pa.ArrowInvalid | UnicodeDecodeError):
                raise
            raise storage.fault(error)(f"{self.uri} cannot be read: {one_line(error)}") from error

    @contextlib.contextmanager
    def _remedied(self) -> Iterator[None]:
        """Add to the error of a damaged file what can be done without a copy of it."""
        try:
            yield
        except DamagedError as error:
            if self.name not in DROPPABLE or _DROP in str(error):
                raise
            store = self.uri.rpartition("/")[0]
            raise DamagedError(f"{error}, or take it out with `dnafeat maintain --store {store} {_DROP}`") from error

    def check_file(self, path: str) -> None:
        """Read a file of the table to its end. Raises DamagedError where it is not what was written."""
        self.check_columns(parquet.check(storage.join(self.uri, path)), path)

    def _check_names(self, dataset: ds.Dataset, where: pc.Expression | None) -> None:
        """Raise DamagedError where a file that was scanned has other columns than the table: their names have no checksum.

        The scan has read the footers, and the fragments keep them.
        """
        known = set(dataset.schema.names)
        for fragment in dataset.get_fragments(where) if where is not None else dataset.get_fragments():
            self.check_columns(fragment.physical_schema.names, fragment.path, known)

    def check_columns(self, names: Sequence[str], path: str, known: Collection[str] = ()) -> None:
        """Raise DamagedError where a file has columns that the table, whose columns may be given as `known`, has not."""
        if strange := set(names).difference(known or self.schema().names):
            raise DamagedError(
                f"{storage.join(self.uri, path)} is damaged: it has a column {min(strange)!r} that its table lacks; restore it from a copy"
            )

    def _check(self, pruned_by: Sequence[tuple[str, str, Any]] | None) -> None:
        """Raise DamagedError for the first damaged file. Arrow does not say in which one it met what it cannot read."""
        dataset = self.dataset(pruned_by)
        for path, fragment in zip(self.paths(pruned_by), dataset.get_fragments(), strict=True):
            self.check_file(path)
            # Or Arrow cannot make of it what the table's schema says.
            with parquet.whole(storage.join(self.uri, path)):
                for _ in fragment.to_batches(schema=dataset.schema, fragment_scan_options=parquet.checked_scan()):
                    pass

    def paths(self, pruned_by: Sequence[tuple[str, str, Any]] | None = None) -> list[str]:
        """Files of the snapshot, relative to the table's folder."""
        uris = self.snapshot.file_uris(file_pruning_predicate=list(pruned_by) if pruned_by else None)
        # The folder's part of a URI is percent-encoded, ours is not and has no slash but a partition's.
        return [uri.rpartition(f"/{self.name}/")[2] for uri in uris]

    def files(self) -> list[tuple[DataFile, datetime]]:
        """Files of the snapshot as the log describes them, and when each was added by the clock of the process that added it."""
        rows = pa.table(self.snapshot.get_add_actions(flatten=True)).to_pylist()
        found = []
        for row in rows:
            statistics: dict[str, dict[str, Any]] = {"min": {}, "max": {}, "null_count": {}, "partition": {}}
            for name, value in row.items():
                kind, _, column = name.partition(".")
                if kind in statistics and value is not None:
                    statistics[kind][column] = value
            about = (row["path"], row["size_bytes"], row["num_records"] or 0, *statistics.values())
            found.append((DataFile(*about), datetime.fromtimestamp(row["modification_time"] / 1000, UTC)))
        return found

    def read_file(self, path: str) -> pa.Table:
        """One file of an unpartitioned table, in the table's present schema: columns it lacks come back as nulls."""
        return pa.concat_tables([self.schema().empty_table(), *self.pieces(path)])

    def pieces(self, path: str, *, committed: bool = True) -> Iterator[pa.Table]:
        """The same a row group at a time; a file that is not `committed` yet may have columns that a newer snapshot has."""
        schema = self.schema()
        with self._readable([]), parquet.opened(storage.join(self.uri, path)) as file:
            if committed:
                self.check_columns(file.schema_arrow.names, path)
            for i in range(file.num_row_groups):
                table = file.read_row_group(i)
                there = set(table.column_names)
                columns = [table[f.name].cast(f.type) if f.name in there else pa.nulls(len(table), f.type) for f in schema]
                yield pa.Table.from_arrays(columns, schema=schema)

    def transaction(self, app: str) -> int | None:
        return self.snapshot.transaction_version(app)

    def removed(self) -> dict[str, datetime]:
        """Files that were part of the table and are not any more, for as long as the log knows them (a week, by Delta's default).

        Each with the time at which it was removed, by the storage's clock.
        """
        with self._readable():
            return again(lambda: delta_log.removed(self.uri, self.version()))

    def removed_paths(self) -> set[str]:
        """The same without the times."""
        return set(self.removed())

    def uncommitted(self, within: str = "", own: Callable[[str], bool] | None = None) -> list[storage.Listed]:
        """Files below the table's folder that are not part of the snapshot, and that the log does not know as removed.

        Parameters
        ----------
        within : str
            The folder of a partition, to list that alone; paths are relative to the table's all the same.
        own : callable | None
            Whether a path is one of those that are meant; None: those that `Table.write` gives files of a store's table.
        """
        own = own or functools.partial(is_data_file, self.name)
        known = set(self.paths()) | self.removed_paths()
        found = []
        for listed in storage.listing(storage.join(self.uri, within) if within else self.uri):
            listed = replace(listed, path=f"{within}/{listed.path}" if within else listed.path)
            if own(listed.path) and listed.path not in known:
                found.append(listed)
        return found

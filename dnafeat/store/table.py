"""Commits to one Delta table of a store, which hold only if there was no other since the snapshot was taken."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
from deltalake import CommitProperties, DeltaTable, Field, Transaction
from deltalake.exceptions import CommitFailedError, DeltaError
from deltalake.schema import PrimitiveType
from deltalake.transaction import AddAction, RemoveAction

from dnafeat import storage
from dnafeat.errors import ConflictError, ForgottenError, MissingFileError, StoreError, one_line
from dnafeat.parquet import DISTINCT, Packing, write_parquet
from dnafeat.store import delta_log, durability
from dnafeat.store.data_file import Change, DataFile, plain
from dnafeat.store.retry import READINGS, again, back_off, broken_off
from dnafeat.store.schema import delta_schema
from dnafeat.store.snapshot import TableSnapshot
from dnafeat.urls import delta_uri

# Columns with min/max statistics in the log: those that prune files. Never a personal one (ids, keys, rejected text), because the
# log keeps what it has seen for as long as the log itself is kept. And never one that mixes values and nulls (until_run): PyArrow
# takes a minimum for a promise that no row is null, and leaves the file out of a search for nulls.
_STATISTICS = {
    "features": ("sequence_digest",),
    "sequences": ("source_name", "from_run"),
    "versions": (),
    "rejects": (),
    "runs": (),
    "haplotypes": ("source_name", "from_run"),
    "effects": ("source_name",),
}
_MEASURED = "delta.dataSkippingStatsColumns"
_PARTITION = {"features": ["feature_version"]}
_ATTEMPTS = 20
_LONGEST_WAIT = 2.0  # seconds between two attempts


class Refused(Exception):
    """A commit conflict, or a commit whose outcome is unknown: reload, check and retry."""


class Table(TableSnapshot):
    """A table that is written: a commit makes the snapshot stale, so that it is loaded anew after one."""

    def create(self) -> None:
        """Make the empty table unless it is there; two that do so at the same time both end well."""
        if self.exists():
            return
        columns = ",".join(_STATISTICS[self.name])
        place = delta_uri(self.uri)
        try:
            again(lambda: self._create(place, columns))
        except (DeltaError, OSError) as error:
            if not self.exists():
                raise storage.fault(error)(f"{self.uri} cannot be created: {one_line(error)}") from error
        durability.sync(self.uri.rpartition("/")[0], [f"{self.name}/{delta_log.FOLDER}/{0:020}.json"])

    def _create(self, place: str, columns: str) -> None:
        DeltaTable.create(
            place,
            delta_schema(self.name),
            mode="error",
            partition_by=_PARTITION.get(self.name),
            # Other tools that rewrite the table must not put ids into the log either.
            configuration={_MEASURED: columns} if columns else {"delta.dataSkippingNumIndexedCols": "0"},
            storage_options=self._options,
            # Without this a second creation is put on top of the first, and undoes what came between.
            commit_properties=CommitProperties(custom_metadata={delta_log.ACTIONS: "2"}, max_commit_retries=0),
        )

    def write(
        self,
        rows: pa.Table | Iterable[pa.Table],
        *,
        stem: str,
        partition: Mapping[str, str] | None = None,
        footer: Callable[[], Mapping[str, str]] = dict,
        packing: Packing = DISTINCT,
    ) -> DataFile:
        """Write a file below the table without making it part of it.

        `stem` begins its name, with `~` and hexadecimals for what a path in Delta's log cannot hold as it is; no two files ever share
        a name. Rows may come in pieces, which are not held; `footer` is called after the last.
        """
        folder = "".join(f"{column}={value}/" for column, value in (partition or {}).items())
        path = f"{folder}{plain(stem)}-{uuid.uuid4().hex}.parquet"
        more = [column for column in packing.measured if column in self.schema().names]
        ends: dict[str, list[Any]] = {column: [] for column in (*_STATISTICS[self.name], *more)}
        nulls = dict.fromkeys(ends, 0)
        count = 0

        def measured() -> Iterator[pa.Table]:
            nonlocal count
            for table in [rows] if isinstance(rows, pa.Table) else rows:
                count += len(table)
                for column, seen in ends.items():
                    both = pc.min_max(_values(table[column])).as_py()
                    seen += [value for value in both.values() if value is not None]
                    nulls[column] += table[column].null_count
                yield table

        size = write_parquet(storage.join(self.uri, path), measured(), footer, packing)
        for column in (column for column in more if nulls[column]):
            # As `until_run`: a minimum would promise that no row is null.
            del ends[column], nulls[column]
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
        """Add and remove files in one commit, made from this snapshot and from no other.

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
        added, removed = list(added), list(removed)
        transactions = transactions or {}
        # Ages are counted from it: this machine's clock may be wrong, or another than that of the machine that counts.
        with storage.reached(self.uri):
            now = durability.now(self.uri) if added or removed else datetime.now(UTC)
        actions: list[AddAction | RemoveAction] = [file.added(now, rows_change) for file in added]
        actions += [RemoveAction(path, rows_change, int(now.timestamp() * 1000)) for path in removed]
        properties = CommitProperties(
            custom_metadata={delta_log.ACTIONS: str(len(actions) + len(transactions))},
            max_commit_retries=0,
            app_transactions=[Transaction(app, version) for app, version in transactions.items()],
        )
        version = self.version()
        # Nothing is named before it is on the disk, be it a file or the entry that this one is put upon.
        durability.sync(self.uri, [file.path for file in added])
        delta_log.sync(self.uri, version)
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
        delta_log.sync(self.uri, version + 1)
        self.reload()

    def settle(self, app: str, change: Callable[[], Change | None]) -> int | None:
        """Commit what `change` makes of the newest snapshot, once, beside other writers.

        `change` is called again after each conflict, and where files of its snapshot are replaced and deleted; what it returns is
        committed from the snapshot it looked at or not at all. It may itself raise Refused to be asked again. The commit leaves `app` in
        the log, so that one whose reply was lost is recognised and not made twice.

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
        missing = 0
        for attempt in range(_ATTEMPTS):
            self.reload()
            number = self.transaction(app)
            if number is not None:
                # It is there, and its reply was lost.
                delta_log.sync(self.uri, self.version())
                return number
            try:
                wanted = change()
                if wanted is None:
                    return None
                self._check_not_removed(wanted.added)
                transactions = {app: wanted.number, **wanted.transactions}
                self.commit(wanted.added, removed=wanted.removed, transactions=transactions, rows_change=wanted.rows_change)
                return wanted.number
            except (FileNotFoundError, MissingFileError):
                missing += 1
                if missing == READINGS:
                    raise
            except Refused:
                back_off(attempt, first=0.02, longest=_LONGEST_WAIT)
        raise ConflictError(
            f"{_ATTEMPTS} commits to {self.uri} were overtaken by others: send the same command again, what was written is kept"
        )

    def _check_not_removed(self, added: Sequence[DataFile]) -> None:
        """A file that is not part of the table is removed in the log before it is deleted, so that it cannot become part of it."""
        if gone := {file.path for file in added} & self.removed_paths() if added else set():
            raise ForgottenError(
                f"{len(gone)} files were taken out of {self.uri} before they could be committed, by `dnafeat forget` or because they were "
                f"too old: send the run again"
            )

    def measure(self, names: Iterable[str]) -> None:
        """Have the log keep the statistics of further columns, those of the table among `names`: other tools write them, too."""
        known = [name for name in self.snapshot.metadata().configuration.get(_MEASURED, "").split(",") if name]
        if missing := [name for name in names if name in self.schema().names and name not in known]:
            # A store of an early release may not name those that its log has.
            every = dict.fromkeys([*_STATISTICS[self.name], *known, *missing])
            self._alter(lambda made: self._set_measured(every, made))

    def _set_measured(self, names: Iterable[str], made: CommitProperties) -> None:
        self.snapshot.alter.set_table_properties({_MEASURED: ",".join(names)}, commit_properties=made)

    def add_string_columns(self, names: Iterable[str]) -> None:
        """Add nullable string columns that are not there yet. Raises StoreError where a column of the name has another type."""
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
        fields = [Field(name, PrimitiveType("string")) for name in missing]
        self._alter(lambda made: self.snapshot.alter.add_columns(fields, commit_properties=made))

    def _alter(self, change: Callable[[CommitProperties], None]) -> None:
        """Commit a change of the table's description, from this snapshot and from no other. Raises Refused as `commit` does."""
        version = self.version()
        delta_log.sync(self.uri, version)
        try:
            change(CommitProperties(custom_metadata={delta_log.ACTIONS: "1"}, max_commit_retries=0))
        except (DeltaError, OSError) as error:
            if isinstance(error, CommitFailedError) or broken_off(error):
                raise Refused(one_line(error)) from error
            raise
        delta_log.sync(self.uri, version + 1)
        self.reload()


def _values(column: pa.ChunkedArray) -> pa.ChunkedArray:
    """A column whose least and greatest values can be told: of dictionaries those that occur, each once."""
    return column.unique().dictionary_decode() if pa.types.is_dictionary(column.type) else column

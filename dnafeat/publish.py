"""The commits of a run, in their order: versions, features, rejects, sequences, and the runs row that publishes them.

Delta commits one table at a time, so the last commit is the one that counts: readers take entries and vectors only as far as a row of
`runs` says. Every commit is made from the snapshot that was checked; when it is refused, the table is loaded and checked again.
A reply may be lost after the commit went through: each commit leaves the attempt's own id in the log, and a refused one looks for it.
"""

from __future__ import annotations

import re
import uuid
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds
import pyarrow.parquet as pq

from dnafeat import digests, storage
from dnafeat.errors import ConflictError
from dnafeat.plan import Intake, id_partition, netstring, not_stored
from dnafeat.schema import arrow_schema
from dnafeat.spill import Spill
from dnafeat.store import Store
from dnafeat.tables import DataFile, Refused, Table, plain

_ATTEMPTS = 20
# The application id under which `sequences` keeps the last run number it gave out.
_NUMBER = "dnafeat/run_number"
_ROWS_PER_FILE = 1_000_000


@dataclass
class Publication:
    """One attempt to publish a run."""

    store: Store
    run_id: str
    source_name: str
    attempt: str = field(default_factory=lambda: uuid.uuid4().hex)
    _stored: tuple[str, int] | None = None
    """Feature version, and the Delta version of `features` up to which nobody but this run has changed it since the plan."""

    @property
    def _app(self) -> str:
        return f"dnafeat/{self.run_id}/{self.attempt}"

    def commit_features(self, files: list[DataFile], version: str, planned: int) -> list[DataFile]:
        """Adds the run's vector files to `features`, less the rows that somebody stored after Delta version `planned`.

        Returns the files as they were committed.
        """
        table = self.store.features
        self._stored = version, planned
        for _ in range(_ATTEMPTS):
            table.reload()
            if not files or table.transaction(self._app) is not None:
                return files
            untouched = table.version() == planned
            if not untouched:
                files = list(self._without_stored(files, version))
            try:
                table.commit(files, transactions={self._app: 1})
            except Refused:
                continue
            self._stored = version, planned + untouched
            return files
        raise self._lost(table)

    def _check_stored(self, intake: Intake) -> None:
        """Raises ConflictError when vectors that the plan found stored are gone: somebody took them out meanwhile."""
        if self._stored is None:
            return
        version, seen = self._stored
        if self.store.features.reload().version() == seen:
            return
        for i in range(intake.sequences.partitions):
            names = np.unique(digests.to_numpy(intake.sequences.table(i)["sequence_digest"]))
            gone = not_stored(names, self.store, version)
            if gone.any():
                raise ConflictError(
                    f"{int(gone.sum())} vectors that run {self.run_id} found in {self.store.features.uri} were taken out before it "
                    f"could publish: send the run again"
                )

    def _without_stored(self, files: Iterable[DataFile], version: str) -> Iterator[DataFile]:
        """The files, rewritten where another run has stored some of their rows meanwhile; nothing is encoded again."""
        table = self.store.features
        for file in files:
            first, last = file.minimum["sequence_digest"], file.maximum["sequence_digest"]
            stored = list(self.store.stored_digests(version, first, last))
            if not stored:
                yield file
                continue
            fs, path = storage.filesystem(storage.join(table.uri, file.path))
            with fs.open(path, "rb") as opened:
                rows = pq.read_table(opened)
            keep = ~np.isin(digests.to_numpy(rows["sequence_digest"]), np.concatenate(stored))
            if keep.all():
                yield file
            elif keep.any():
                yield table.write(rows.filter(pa.array(keep)), stem=self.run_id, partition=file.partition)

    def commit_rejects(self, rejects: Spill) -> None:
        """Writes the refused entries to `rejects`."""
        table = self.store.rejects
        if not rejects.rows:
            return
        schema = arrow_schema("rejects")
        files = []
        for rows in _chunks(rejects.batches()):
            own = {"run_id": self.run_id, "source_name": self.source_name}
            columns = [
                pa.array([own[f.name]] * len(rows), f.type) if f.name in own else rows[f.name].combine_chunks() for f in schema
            ]
            files.append(table.write(pa.Table.from_arrays(columns, schema=schema), stem=self.run_id))
        mine = re.compile(re.escape(plain(self.run_id)) + r"-[0-9a-f]{32}\.parquet")
        for _ in range(_ATTEMPTS):
            table.reload()
            if table.transaction(self._app) is not None:
                return
            # What an attempt that died, or one beside this, wrote under the run's id is replaced: refused entries stand once a run.
            earlier = [path for path in table.paths() if mine.fullmatch(path)]
            try:
                table.commit(files, removed=earlier, transactions={self._app: 1})
                return
            except Refused:
                continue
        raise self._lost(table)

    def commit_sequences(self, intake: Intake, folder: Path) -> tuple[int, int, int]:
        """Brings the source's rows in `sequences` up to what was read, and takes a run number.

        New and changed entries open a row, changed and gone ones close theirs; unchanged ones are left alone. The number is taken in
        the same commit, so that numbers and intervals have one order however many runs publish at once.

        Returns
        -------
        (run_number, opened, closed)
        """
        self._check_stored(intake)
        table = self.store.sequences
        opened = closed = 0
        for round_ in range(_ATTEMPTS):
            table.reload()
            number = table.transaction(self._app)
            if number is not None:
                return number, opened, closed
            try:
                table.add_string_columns(intake.keys)
                number = (table.transaction(_NUMBER) or 0) + 1
                fresh, gone = self._compare(intake, folder, round_)
                added, removed = self._close(gone, number)
                opened, closed = fresh.rows, sum(len(rows) for rows in gone.values())
                for rows in _chunks(fresh.batches()):
                    added.append(table.write(_opened(rows, self.source_name, number, table.schema()), stem=self.run_id))
                table.commit(added, removed=removed, transactions={self._app: number, _NUMBER: number})
                return number, opened, closed
            except Refused:
                continue
        raise self._lost(table)

    def _compare(self, intake: Intake, folder: Path, round_: int) -> tuple[Spill, dict[str, np.ndarray]]:
        """Entries to open, and for each file of `sequences` the places of the rows to close."""
        current, paths = self._current(intake, folder, round_)
        fresh = Spill(folder, f"fresh-{round_}", intake.entries.schema)
        gone: dict[str, list[np.ndarray]] = {}
        for i in range(intake.entries.partitions):
            new, old = intake.entries.table(i), current.table(i)
            before = pc.index_in(new["sequence_id"], value_set=old["sequence_id"])
            same = pc.equal(_state(new, intake.keys), old["state"].take(before))
            changed = pc.invert(pc.fill_null(same, False))
            for batch in new.filter(changed).combine_chunks().to_batches(max_chunksize=65_536):
                fresh.add(batch)
            stays = pc.is_in(old["sequence_id"], value_set=new.filter(pc.fill_null(same, False))["sequence_id"])
            leaving = old.filter(pc.invert(stays))
            file, row = leaving["file"].to_numpy(), leaving["row"].to_numpy()
            for number in np.unique(file):
                gone.setdefault(paths[number], []).append(row[file == number])
        fresh.close()
        return fresh, {path: np.concatenate(rows) for path, rows in gone.items()}

    def _current(self, intake: Intake, folder: Path, round_: int) -> tuple[Spill, list[str]]:
        """The source's open rows, spilled like the new entries: sequence_id, state, number of the file, row in it."""
        table = self.store.sequences
        schema = pa.schema([("sequence_id", pa.string()), ("state", pa.string()), ("file", pa.int64()), ("row", pa.int64())])
        partitions = intake.entries.partitions
        current = Spill(folder, f"current-{round_}", schema, partitions)
        keys = [name for name in table.schema().names if name not in arrow_schema("sequences").names]
        paths = table.paths([("source_name", "=", self.source_name)])
        for number, path in enumerate(paths):
            rows = table.read_file(path)
            mask = pc.and_(pc.equal(rows["source_name"], self.source_name), pc.is_null(rows["until_run"]))
            at = np.flatnonzero(mask.to_numpy())
            kept = rows.take(pa.array(at))
            columns = [kept["sequence_id"], _state(kept, keys), pa.array(np.full(len(at), number)), pa.array(at)]
            for batch in pa.Table.from_arrays(columns, schema=schema).combine_chunks().to_batches(max_chunksize=65_536):
                current.add(batch, id_partition(batch["sequence_id"], partitions))
        current.close()
        return current, paths

    def _close(self, gone: dict[str, np.ndarray], number: int) -> tuple[list[DataFile], list[str]]:
        """Rewrites the files that hold rows to close; the files to add and the paths to remove."""
        table = self.store.sequences
        added = []
        for path, places in gone.items():
            rows = table.read_file(path)
            ends = np.zeros(len(rows), bool)
            ends[places] = True
            until = pc.if_else(pa.array(ends), pa.scalar(number, pa.int64()), rows["until_run"])
            at = rows.schema.get_field_index("until_run")
            added.append(table.write(rows.set_column(at, rows.schema.field(at), until), stem=self.run_id))
        return added, list(gone)

    def commit_run(self, row: dict) -> bool:
        """Writes the row that publishes the run. False: another attempt under this run id has published it already."""
        table = self.store.runs
        file = table.write(pa.Table.from_pylist([row], schema=arrow_schema("runs")), stem=self.run_id)
        for _ in range(_ATTEMPTS):
            table.reload()
            if table.transaction(self._app) is not None:
                return True
            if len(table.read(["run_id"], ds.field("run_id") == self.run_id)):
                return False
            try:
                table.commit([file], transactions={self._app: 1})
                return True
            except Refused:
                continue
        raise self._lost(table)

    def _lost(self, table: Table) -> ConflictError:
        return ConflictError(
            f"{_ATTEMPTS} commits to {table.uri} were overtaken by others: send the run again, what it encoded and committed is kept"
        )


def _state(rows: pa.Table, keys: Iterable[str]) -> pa.ChunkedArray:
    """Digest and keys of each row as one string; keys that are null leave no trace, so that a new key column changes nothing by itself."""
    state = rows["sequence_digest"].cast(pa.string())
    for key in sorted(keys):
        value = pc.binary_join_element_wise(f"{len(key)}:{key}", netstring(rows[key]), "")
        state = pc.binary_join_element_wise(state, pc.if_else(pc.is_null(rows[key]), "", value), "")
    return state


def _opened(rows: pa.Table, source_name: str, number: int, schema: pa.Schema) -> pa.Table:
    """Entries as rows of `sequences` that begin at a run number."""
    columns = []
    for column in schema:
        if column.name == "source_name":
            columns.append(pa.array([source_name] * len(rows), column.type))
        elif column.name == "from_run":
            columns.append(pa.array(np.full(len(rows), number), column.type))
        elif column.name in rows.column_names:
            columns.append(rows[column.name].combine_chunks())
        else:
            columns.append(pa.nulls(len(rows), column.type))
    return pa.Table.from_arrays(columns, schema=schema)


def _chunks(batches: Iterable[pa.RecordBatch]) -> Iterator[pa.Table]:
    """Batches gathered into tables of about a million rows."""
    held: list[pa.RecordBatch] = []
    rows = 0
    for batch in batches:
        for at in range(0, len(batch), _ROWS_PER_FILE):
            held.append(batch.slice(at, _ROWS_PER_FILE))
            rows += len(held[-1])
            if rows >= _ROWS_PER_FILE:
                yield pa.Table.from_batches(held)
                held, rows = [], 0
    if rows:
        yield pa.Table.from_batches(held)

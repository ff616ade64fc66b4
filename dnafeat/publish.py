"""The commits of a run, in their order: versions, features, rejects, sequences, and the runs row that publishes them.

Delta commits one table at a time, so the last commit is the one that counts: readers take entries and vectors only as far as a row of
`runs` says. Every commit is made from the snapshot that was checked (`Table.settle`).

Two things may happen between the plan and the last commit that those checks do not see. Vectors may be taken out that the run counts on:
after `sequences` names them, an empty commit to `features` seals that they are there. Whoever takes vectors out loads `features`, then
looks what `sequences` names, then commits from the `features` it loaded: it either sees the names or is refused by the seal. And a subject
may be forgotten that the run has read: who forgets leaves a count in `sequences` and `rejects`, and a run that began under another count
commits to neither.
"""

from __future__ import annotations

import functools
import uuid
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds

from dnafeat import digests, storage, vectorfiles
from dnafeat.errors import ConflictError, ForgottenError, UsageError
from dnafeat.plan import Intake, id_partition, netstring, not_stored
from dnafeat.schema import arrow_schema
from dnafeat.spill import Spill
from dnafeat.store import Store
from dnafeat.tables import Change, DataFile, Table

# The application id under which `sequences` and `rejects` count how often something was forgotten.
FORGOTTEN = "dnafeat/forgotten"
# The application id under which `sequences` keeps the last run number it gave out.
_NUMBER = "dnafeat/run_number"
_ROWS_PER_FILE = 1_000_000


class Places:
    """Rows of some files of `sequences`, by file."""

    def __init__(self, paths: Sequence[str]) -> None:
        self._paths = paths
        self.rows: dict[str, list[np.ndarray]] = {}
        self.count = 0

    def add(self, chosen: pa.Table) -> None:
        """Takes rows of what `Publication._current` gives."""
        self.count += len(chosen)
        file, row = chosen["file"].to_numpy(), chosen["row"].to_numpy()
        for number in np.unique(file):
            self.rows.setdefault(self._paths[number], []).append(row[file == number])

    def mask(self, path: str, rows: int) -> np.ndarray:
        """Which rows of a file they are, (rows,) bool."""
        chosen = np.zeros(rows, bool)
        for places in self.rows.get(path, []):
            chosen[places] = True
        return chosen


def forgotten(table: Table) -> int:
    """How often something was forgotten in `sequences` or `rejects`, at the table's snapshot."""
    return table.transaction(FORGOTTEN) or 0


@dataclass
class Publication:
    """One attempt to publish a run. Make it before the source is read: a subject that is forgotten from then on is not brought back."""

    store: Store
    run_id: str
    source_name: str
    attempt: str = field(default_factory=lambda: uuid.uuid4().hex)
    _stored: tuple[str, int] | None = None
    """Feature version, and the Delta version of `features` up to which nobody but this run has changed it since the plan."""
    _forgotten: dict[str, int] = field(default_factory=dict)
    _kept: Spill | None = None
    """Digests of entries that a run in mode merge leaves as they are, by range."""

    def __post_init__(self) -> None:
        self._forgotten = {table.name: forgotten(table.reload()) for table in (self.store.sequences, self.store.rejects)}

    @property
    def _app(self) -> str:
        return f"dnafeat/{self.run_id}/{self.attempt}"

    def commit_features(self, files: Sequence[DataFile], version: str, planned: int) -> list[DataFile]:
        """Adds vector files to `features`, less the rows that somebody stored after Delta version `planned`.

        Returns the files as they were committed.
        """
        table = self.store.features
        self._stored = version, planned
        committed, base = list(files), -1

        def change() -> Change:
            nonlocal committed, base
            self._check_forgotten(self.store.sequences.reload())
            base = table.version()
            if base != planned:
                committed = list(self._without_stored(committed, version))
            return Change(added=committed)

        if committed:
            table.settle(self._app, change)
        if base == planned:
            # The commit was made from what was planned on, so that nothing came between.
            self._stored = version, planned + 1
        return committed

    def _check_stored(self, intake: Intake) -> None:
        """Raises ConflictError when vectors that the plan found stored are gone: somebody took them out meanwhile."""
        if self._stored is None:
            return
        version, seen = self._stored
        if self.store.features.version() == seen:
            return
        for spill in (intake.sequences, self._kept):
            if gone := self._lacking(spill, version):
                raise ConflictError(
                    f"{gone} vectors that run {self.run_id} found in {self.store.features.uri} were taken out before it "
                    f"could publish: send the run again"
                )

    def _lacking(self, spill: Spill | None, version: str) -> int:
        """How many of the digests in a spill by range have no vectors of the version."""
        if spill is None:
            return 0
        names = (np.unique(digests.to_numpy(spill.table(i)["sequence_digest"])) for i in range(spill.partitions))
        return sum(int(not_stored(one, self.store, version).sum()) for one in names)

    def _check_kept(self) -> None:
        """Raises UsageError where a run in mode merge would leave entries that its version has no vectors of."""
        lacking = self._lacking(self._kept, self._stored[0]) if self._stored else 0
        if lacking:
            raise UsageError(
                f"source {self.source_name} has {lacking} sequences that this run does not read and that its version has no vectors of, so "
                f"it cannot be merged: send a run with the whole source in mode replace"
            )

    def _check_forgotten(self, table: Table) -> None:
        if forgotten(table) != self._forgotten[table.name]:
            raise ForgottenError(
                f"something was forgotten in {self.store.uri} after run {self.run_id} had read its source: take it out of the source, "
                f"if it still stands there, and send the run again"
            )

    def _without_stored(self, files: Iterable[DataFile], version: str) -> Iterator[DataFile]:
        """The files, rewritten where somebody has stored some of their rows meanwhile; nothing is encoded again."""
        table = self.store.features
        for file in files:
            first, last = file.minimum["sequence_digest"], file.maximum["sequence_digest"]
            stored = list(self.store.stored_digests(version, first, last))
            if not stored:
                yield file
                continue
            missing = ~np.isin(vectorfiles.read_digests(table, file.path), np.concatenate(stored))
            if missing.all():
                yield file
            elif missing.any():
                keep = functools.partial(_those, missing)
                receipt = vectorfiles.rewrite(table, [file], keep, stem=self.run_id, version=version)
                assert receipt is not None
                yield receipt.file

    def commit_rejects(self, rejects: Spill) -> None:
        """Writes the refused entries to `rejects`."""
        table = self.store.rejects
        if not rejects.rows:
            return
        self._check_forgotten(table.reload())
        schema = arrow_schema("rejects")
        files = []
        for rows in _chunks(rejects.batches()):
            own = {"run_id": self.run_id, "source_name": self.source_name}
            columns = [
                pa.array([own[f.name]] * len(rows), f.type) if f.name in own else rows[f.name].combine_chunks() for f in schema
            ]
            files.append(table.write(pa.Table.from_arrays(columns, schema=schema), stem=self.run_id))

        def change() -> Change:
            self._check_forgotten(table)
            # What an attempt that died, one beside this, or a withdrawn one stored under the run's id is replaced.
            kept, removed = [], []
            for path in table.paths():
                if pc.any(pc.equal(vectorfiles.read_columns(table, path, ["run_id"])["run_id"], self.run_id)).as_py():
                    removed.append(path)
                    rows = table.read_file(path)
                    rows = rows.filter(pc.not_equal(rows["run_id"], self.run_id))
                    kept += [table.write(rows, stem=f"kept-{uuid.uuid4().hex}")] if len(rows) else []
            return Change(added=[*files, *kept], removed=removed)

        try:
            table.settle(self._app, change)
        except ForgottenError:
            # They may name whom the store is to forget.
            for file in files:
                storage.remove(storage.join(table.uri, file.path))
            raise

    def commit_sequences(self, intake: Intake, folder: Path, mode: str = "replace") -> tuple[int, int, int]:
        """Brings the source's rows in `sequences` up to what was read, and takes a run number.

        New and changed entries open a row, changed ones close theirs; unchanged ones are left alone. In mode `replace` the entries that
        are gone close theirs, too; in mode `merge` they stay. The number is taken in the same commit, so that numbers and intervals have
        one order however many runs publish at once.

        Returns
        -------
        (run_number, opened, closed)
        """
        table = self.store.sequences
        self._check_forgotten(table.reload())
        self.store.features.reload()
        self._check_stored(intake)
        opened = closed = round_ = 0

        def change() -> Change:
            nonlocal opened, closed, round_
            round_ += 1
            self._check_forgotten(table)
            table.add_string_columns(intake.keys)
            number = (table.transaction(_NUMBER) or 0) + 1
            fresh, closing, opening = self._compare(intake, folder, round_, mode)
            self.store.features.reload()
            self._check_kept()
            added, removed = self._ended(closing, opening, number)
            opened, closed = fresh.rows + opening.count, closing.count
            for rows in _chunks(fresh.batches()):
                added.append(table.write(_opened(rows, self.source_name, number, table.schema()), stem=self.run_id))
            return Change(added=added, removed=removed, transactions={_NUMBER: number}, number=number)

        number = table.settle(self._app, change)
        assert number is not None
        self._seal(intake)
        return number, opened, closed

    def _seal(self, intake: Intake) -> None:
        """Makes sure, once `sequences` names them, that all vectors are there: whoever takes some out from now on sees the names."""

        def change() -> Change:
            self._check_stored(intake)
            return Change()

        self.store.features.settle(f"{self._app}/seal", change)

    def _compare(self, intake: Intake, folder: Path, round_: int, mode: str) -> tuple[Spill, Places, Places]:
        """Entries to open; and of `sequences`, rows to close and rows to open again."""
        current, paths = self._current(intake, folder, round_)
        fresh = Spill(folder, f"fresh-{round_}", intake.entries.schema)
        closing, opening = Places(paths), Places(paths)
        kept = Spill(folder, f"kept-{round_}", pa.schema([("sequence_digest", pa.string())]), intake.sequences.partitions)
        for i in range(intake.entries.partitions):
            new, old = intake.entries.table(i), current.table(i)
            ended, old = old.filter(old["ended"]), old.filter(pc.invert(old["ended"]))
            before = pc.index_in(new["sequence_id"], value_set=old["sequence_id"])
            same = pc.equal(_state(new, intake.keys), old["state"].take(before))
            changed = pc.invert(pc.fill_null(same, False))
            for batch in new.filter(changed).combine_chunks().to_batches(max_chunksize=65_536):
                fresh.add(batch)
            unread = pc.invert(pc.is_in(old["sequence_id"], value_set=new["sequence_id"]))
            stays = pc.and_(unread, pc.invert(old["withdrawn"])) if mode == "merge" else pc.and_(unread, False)
            unchanged = pc.is_in(old["sequence_id"], value_set=new.filter(pc.fill_null(same, False))["sequence_id"])
            closing.add(old.filter(pc.invert(pc.or_(stays, unchanged))))
            if mode == "merge":
                again = ended.filter(pc.invert(pc.is_in(ended["sequence_id"], value_set=new["sequence_id"])))
                opening.add(again)
                # A state begins with the digest.
                names = pc.utf8_slice_codeunits(pa.concat_tables([old.filter(stays), again])["state"], 0, digests.WIDTH)
                for batch in pa.table({"sequence_digest": names}, kept.schema).combine_chunks().to_batches():
                    kept.add(batch, digests.partition(digests.to_numpy(batch["sequence_digest"]), kept.partitions))
        fresh.close()
        kept.close()
        self._kept = kept
        return fresh, closing, opening

    def _current(self, intake: Intake, folder: Path, round_: int) -> tuple[Spill, list[str]]:
        """The source's open rows, spilled like the new entries, and those that a withdrawn run has closed.

        Columns: sequence_id, state, number of the file, row in it, whether a withdrawn run has opened it, whether one has closed it.
        Runs that are not published and were not withdrawn count: they may be about to be.
        """
        table = self.store.sequences
        kinds = {"sequence_id": pa.string(), "state": pa.string(), "file": pa.int64(), "row": pa.int64()}
        schema = pa.schema([*kinds.items(), ("withdrawn", pa.bool_()), ("ended", pa.bool_())])
        partitions = intake.entries.partitions
        current = Spill(folder, f"current-{round_}", schema, partitions)
        keys = [name for name in table.schema().names if name not in arrow_schema("sequences").names]
        paths = table.paths([("source_name", "=", self.source_name)])
        withdrawn = pa.array(self.store.history().undone(self.source_name), pa.int64())
        for number, path in enumerate(paths):
            rows = table.read_file(path)
            opened = pc.is_in(rows["from_run"], value_set=withdrawn)
            ended = pc.and_(pc.is_in(rows["until_run"], value_set=withdrawn), pc.invert(opened))
            mask = pc.and_(pc.equal(rows["source_name"], self.source_name), pc.or_(pc.is_null(rows["until_run"]), ended))
            at = pa.array(np.flatnonzero(mask.to_numpy()))
            kept = rows.take(at)
            places = [pa.array(np.full(len(at), number)), at]
            columns = [kept["sequence_id"], _state(kept, keys), *places, opened.take(at), ended.take(at)]
            for batch in pa.Table.from_arrays(columns, schema=schema).combine_chunks().to_batches(max_chunksize=65_536):
                current.add(batch, id_partition(batch["sequence_id"], partitions))
        current.close()
        return current, paths

    def _ended(self, closing: Places, opening: Places, number: int) -> tuple[list[DataFile], list[str]]:
        """Rewrites the files that hold rows to close or to open again; the files to add and the paths to remove."""
        table = self.store.sequences
        added, paths = [], sorted({*closing.rows, *opening.rows})
        for path in paths:
            rows = table.read_file(path)
            until = rows["until_run"]
            for places, end in ((closing, number), (opening, None)):
                until = pc.if_else(pa.array(places.mask(path, len(rows))), pa.scalar(end, pa.int64()), until)
            at = rows.schema.get_field_index("until_run")
            added.append(table.write(rows.set_column(at, rows.schema.field(at), until), stem=self.run_id))
        return added, paths

    def commit_run(self, row: dict) -> bool:
        """Writes the row that publishes the run. False: another attempt under this run id has published it already."""
        table = self.store.runs
        file = table.write(pa.Table.from_pylist([row], schema=arrow_schema("runs")), stem=self.run_id)

        def change() -> Change | None:
            return None if len(table.read(["run_id"], ds.field("run_id") == self.run_id)) else Change(added=[file])

        return table.settle(self._app, change) is not None


def _those(rows: np.ndarray, file: DataFile, names: np.ndarray) -> np.ndarray:
    return rows


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

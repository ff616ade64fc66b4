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
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds

from dnafeat import storage
from dnafeat.cluster.spread import Each, here
from dnafeat.embed import changes, opening
from dnafeat.embed.intake import Intake
from dnafeat.embed.plan import not_stored
from dnafeat.errors import ConflictError, ForgottenError, MassCloseError, UsageError
from dnafeat.spill import Spill
from dnafeat.store import Store, digests
from dnafeat.store import vector_files as vectorfiles
from dnafeat.store.cut import MEASURED
from dnafeat.store.data_file import Change, DataFile
from dnafeat.store.merge import compact
from dnafeat.store.retry import looking_again
from dnafeat.store.rewriting import forgotten
from dnafeat.store.schema import arrow_schema
from dnafeat.store.table import Table

# The application id under which `sequences` keeps the last run number it gave out.
_NUMBER = "dnafeat/run_number"


@dataclass(frozen=True)
class CommittedVectors:
    """What a run has committed to `features`, which its commit to `sequences` counts on.

    Attributes
    ----------
    version : str
        Feature version.
    files : list of DataFile
        As they were committed.
    unchanged : int
        Delta version of `features` up to which nothing but this run has changed it since the plan.
    """

    version: str
    files: list[DataFile]
    unchanged: int


class Publication:
    """One attempt to publish a run.

    It counts erasures from when it is made, so that what is read after that does not bring an erased subject back.

    Parameters
    ----------
    store : Store
    run_id, source_name : str
    attempt : str
        Tells this attempt from others under the same run id.
    """

    def __init__(self, store: Store, run_id: str, source_name: str, attempt: str | None = None) -> None:
        self.store, self.run_id, self.source_name = store, run_id, source_name
        self._app = f"dnafeat/{run_id}/{attempt or uuid.uuid4().hex}"
        self._forgotten = {table.name: forgotten(table.reload()) for table in (store.sequences, store.rejects)}
        history = store.history()
        store.sequences.reload()
        store.features.reload()
        # A run that goes on from a state with rows missing would seem to be whole.
        store.check_whole(history)
        self._highest_number = history.highest_number()

    def commit_features(self, files: Sequence[DataFile], version: str, planned: int) -> CommittedVectors:
        """Add vector files to `features`, less the rows that another run stored after Delta version `planned`."""
        table = self.store.features
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
        # A commit that was made from what was planned on: nothing came between.
        return CommittedVectors(version, committed, planned + (base == planned))

    def _check_stored(self, vectors: CommittedVectors, needed: Sequence[Spill], each: Each) -> None:
        """Raise ConflictError when vectors of `needed` digests that the plan found stored are gone: another process took them out."""
        if self.store.features.version() == vectors.unchanged:
            return
        for spill in needed:
            if gone := self._lacking(spill, vectors.version, each):
                raise ConflictError(
                    f"{gone} vectors that run {self.run_id} found in {self.store.features.uri} were taken out before it "
                    f"could publish: send the run again"
                )

    def _lacking(self, spill: Spill, version: str, each: Each) -> int:
        """How many of the digests in a spill by range have no vectors of the version."""
        self.store.features.version()  # loads the snapshot, so that all look at one
        return sum(each(functools.partial(_lacking, self.store, version), spill.each(), "looking for vectors"))

    def _check_kept(self, kept: Spill, version: str, each: Each) -> None:
        """Raise UsageError where a run in mode merge would leave entries that its version has no vectors of."""
        if lacking := self._lacking(kept, version, each):
            raise UsageError(
                f"source {self.source_name} has {lacking} sequences that this run does not read and that its version has no vectors of, so "
                f"it cannot be merged: send a run with the whole source in mode replace"
            )

    def check_forgotten(self) -> None:
        """Raises ForgottenError where something was forgotten since the run began."""
        for table in (self.store.sequences, self.store.rejects):
            self._check_forgotten(table.reload())

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
                receipt = vectorfiles.rewrite(table, [file], vectorfiles.keeping(missing), stem=self.run_id, version=version)
                assert receipt is not None
                yield receipt.file

    def commit_rejects(self, rejects: Spill) -> None:
        """Writes the refused entries to `rejects`."""
        table = self.store.rejects
        if not rejects.rows:
            return
        self._check_forgotten(table.reload())
        schema, own = arrow_schema("rejects"), {"run_id": self.run_id, "source_name": self.source_name}

        def refused(rows: pa.Table) -> pa.Table:
            columns = [
                pa.array([own[f.name]] * len(rows), f.type) if f.name in own else rows[f.name].combine_chunks() for f in schema
            ]
            return pa.Table.from_arrays(columns, schema=schema)

        tables = map(refused, opening.chunks(rejects.batches()))
        files = [table.write(rows, stem=self.run_id) for rows in opening.in_files(tables)]

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

    def check_closed(self, before: int, gone: int, intake: Intake, most: float, about: str = "") -> None:
        """Raise MassCloseError where a run would end more than the share `most` of its source's entries, or all with none read.

        Parameters
        ----------
        before, gone : int
            Entries that readers see, and those that the run would end without another in their place.
        intake : Intake
        most : float
            1 allows everything.
        about : str
            A word before the number of those that are gone, such as `at least`.
        """
        if most >= 1 or not gone or (intake.entries.rows and gone <= most * before):
            return
        accepted = f"{intake.entries.rows:,} accepted" + (f" and {intake.rejects.rows:,} refused" if intake.rejects.rows else "")
        raise MassCloseError(
            f"source {self.source_name} would lose {about}{gone:,} of its {before:,} entries, with {accepted}, and a run may take away "
            f"a share of {most:g} at the most: nothing is published; look whether the source is whole, and give --max-closed 1 if the "
            f"entries are to go"
        )

    def commit_sequences(
        self,
        intake: Intake,
        vectors: CommittedVectors,
        folder: Path | str,
        mode: str = "replace",
        each: Each = here,
        max_closed: float = 1.0,
        judge: Callable[[changes.Difference], None] = lambda difference: None,
    ) -> tuple[int, int, int]:
        """Bring the source's rows in `sequences` up to what was read, and take a run number.

        New and changed entries open a row, changed ones close theirs; unchanged ones are left alone. In mode `replace` the entries that
        are gone close theirs, too; in mode `merge` they stay. The number is taken in the same commit, so that numbers and intervals have
        one order however many runs publish at once. `judge` gets what would change, and raises an error where it may not.

        Returns
        -------
        (run_number, opened, closed)
        """
        table = self.store.sequences
        self._check_forgotten(table.reload())

        def check() -> None:
            self.store.features.reload()
            self._check_stored(vectors, [intake.sequences], each)

        looking_again(check)
        opened = closed = 0
        kept: Spill | None = None

        def change() -> Change:
            nonlocal opened, closed, kept
            self._check_forgotten(table)
            table.add_string_columns(intake.keys)
            if intake.coded is not None:
                table.measure(MEASURED)
            # Where the log has lost its end, numbers that were given out are in `runs` alone.
            number = max(table.transaction(_NUMBER) or 0, self._highest_number) + 1
            paths = table.paths([("source_name", "=", self.source_name)])
            difference = changes.compare(self.store, self.source_name, intake, paths, folder, mode, each)
            kept = difference.kept
            self.check_closed(difference.before, difference.gone, intake, max_closed)
            judge(difference)
            self.store.features.reload()
            if kept is not None:
                self._check_kept(kept, vectors.version, each)
            added, removed = changes.write(table, self.source_name, paths, difference, self.run_id, number, each)
            opened, closed = difference.fresh.rows + difference.opening.rows, difference.closing.rows
            return Change(added=added, removed=removed, transactions={_NUMBER: number}, number=number)

        number = table.settle(self._app, change)
        assert number is not None
        self._seal(vectors, [intake.sequences] if kept is None else [intake.sequences, kept], each)
        return number, opened, closed

    def _seal(self, vectors: CommittedVectors, needed: Sequence[Spill], each: Each) -> None:
        """Make sure, once `sequences` names them, that all vectors are there: what takes some out from now on sees the names."""

        def change() -> Change:
            self._check_stored(vectors, needed, each)
            return Change()

        self.store.features.settle(f"{self._app}/seal", change)

    def commit_run(self, row: dict) -> bool:
        """Writes the row that publishes the run. False: another attempt under this run id has published it already."""
        table = self.store.runs
        file = table.write(pa.Table.from_pylist([row], schema=arrow_schema("runs")), stem=self.run_id)

        def change() -> Change | None:
            # Columns that came after the store was made.
            table.add_string_columns(["profile"])
            return None if len(table.read(["run_id"], ds.field("run_id") == self.run_id)) else Change(added=[file])

        published = table.settle(self._app, change) is not None
        for grown in (table, self.store.tables()[2]):
            compact(grown)
        return published


def _lacking(store: Store, version: str, spill: Spill) -> int:
    """How many of the digests in a partition have no vectors of the version."""
    return int(not_stored(np.unique(digests.to_numpy(spill.table()["sequence_digest"])), store, version).sum())

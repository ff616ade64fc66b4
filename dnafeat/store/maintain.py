"""Keeps a store small and quick to read: `dnafeat maintain --store S`, for instance after every night.

Five things, in this order, each safe beside running jobs, readers and other maintains:

1. Vectors that no entry names any more are collected: those of a forgotten subject at once, those of a run that never published once
   their file is a week old, since the run may be alive, or be sent again and count on them. Entries of the past name theirs as well.
2. Small files are merged into larger ones in the order of their digests (in `sequences`, of sources and ids). Each merge is one commit,
   made from a snapshot that still has all of the files, and changes no row. Files with vectors that wait to be collected are left alone,
   because a merged file is a new one and its vectors would wait for ever.
3. What nobody has named for a week is deleted: files of dead runs, their work shards, probes, unfinished uploads. A run must have
   committed its files by then. Before a file below a table is deleted the table's log has it as removed, so that a run that is slower
   than that is refused (`Table.settle`) and does not add a file that is gone. After a forget, files of entries do not get that week.
4. What was replaced is deleted after a week, for readers that still have the old snapshot. Where something was forgotten since the last
   time, it is deleted at once; such a reader has to load the table again.
5. A table whose log has grown gets a checkpoint. Old log entries are left to Delta's own retention.

Refused entries of a run that is not published are not merged: when it is sent again it replaces them, and finds them by their file.
"""

from __future__ import annotations

import contextlib
import json
import math
import random
import re
import tempfile
import time
import uuid
import warnings
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from botocore.exceptions import BotoCoreError, ClientError
from deltalake.exceptions import CommitFailedError, DeltaError

from dnafeat import storage
from dnafeat.errors import DnafeatWarning, StoreError, one_line
from dnafeat.spill import Spill
from dnafeat.store import digests
from dnafeat.store import vector_files as vectorfiles
from dnafeat.store.catalog import Store
from dnafeat.store.data_file import Change, DataFile
from dnafeat.store.retention import ABANDONED_AFTER, RETENTION
from dnafeat.store.retry import again
from dnafeat.store.rewriting import NONE, Draft, forgotten, patiently, settle, take_vectors
from dnafeat.store.schema import TABLES
from dnafeat.store.table import Table

# The application id under which a table keeps the count of `forgotten` up to which its replaced files were deleted.
VACUUMED = "dnafeat/vacuumed"

_TARGET = 128 * 2**20  # bytes of a merged file; in memory it is about three times as much
# Rows of a merged file. A run that closes an entry rewrites the file that it stands in, and a refused entry has up to 10,000 characters.
_TARGET_ROWS = {"sequences": 1_000_000, "rejects": 50_000, "runs": 50_000, "versions": 50_000}
_FEWEST = 4  # small files that are worth a merge
_ORDER = {
    "sequences": ["source_name", "sequence_id", "from_run"],
    "rejects": ["source_name", "run_id", "file", "row"],
    "runs": ["run_number"],
    "versions": ["recorded_at"],
}
_RANGE = {"features": "sequence_digest", "sequences": "source_name"}
_LOG_FILES = 20  # since the last checkpoint
_ATTEMPTS = 6
_PARTITION_ROWS = 1_000_000
# Files that `storage.write_whole` and the probes of `storage` leave behind when they are killed.
_HIDDEN = re.compile(r"\.(clock|writable)-[0-9a-f]{32}|\..+\.[0-9a-f]{32}")


@dataclass(frozen=True, kw_only=True)
class Summary:
    """What was done, or in a dry run would be.

    Attributes
    ----------
    store : str
    dry_run : bool
    files_before, files_after : int
        Of all five tables.
    bytes_rewritten : int
        Size of the files that were replaced.
    rows_collected : int
        Vectors that no entry names.
    files_vacuumed : int
        Replaced files that were deleted.
    abandoned_files, abandoned_uploads : int
        What nobody had named for a week, deleted.
    checkpoints : int
        Tables whose log got one.
    """

    store: str
    dry_run: bool
    files_before: int
    files_after: int
    bytes_rewritten: int
    rows_collected: int
    files_vacuumed: int
    abandoned_files: int
    abandoned_uploads: int
    checkpoints: int


def maintain(store: Store, *, dry_run: bool = False, now: datetime | None = None) -> Summary:
    """Collects, merges and deletes.

    Memory is bounded by one merged file and by the digests of vectors that are collected; the digests of all entries and vectors are
    compared by ranges, which wait on the local disk (about 30 bytes for each).

    Parameters
    ----------
    store : Store
    dry_run : bool
        Whether to change nothing and only say what would be done.
    now : datetime | None
        The time that ages are counted to; None: now, by the clock of the storage.

    Raises
    ------
    StoreError, ConflictError
        The store cannot be read or written, or too many others were writing it. The same command continues.
    """
    try:
        with storage.reached(store.uri):
            return _Maintenance(store, dry_run, now).run()
    except DeltaError as error:
        raise StoreError(f"{store.uri} cannot be maintained: {one_line(error)}; send the same command again") from error


class _Maintenance:
    """One call. `files` is the state of each table, which a dry run carries on without touching the store."""

    def __init__(self, store: Store, dry_run: bool, now: datetime | None) -> None:
        self.store, self.dry_run = store, dry_run
        self.tables = {name: Table(store.uri, name) for name in TABLES}
        self.files = {name: table.files() for name, table in self.tables.items()}
        clock = storage.clock(store.uri)
        self.now = now or clock
        self.retention = max(0, math.ceil((RETENTION - (self.now - clock)) / timedelta(hours=1)))
        self.listed = {one.path: one for one in storage.listing(store.uri)}
        self.replaced: dict[str, set[str]] = {name: set() for name in TABLES}

    def run(self) -> Summary:
        before = {name: {file.path: file.size for file, _ in files} for name, files in self.files.items()}
        unnamed = patiently(self._unnamed)
        collected = self._collect(unnamed)
        for name, groups in self._merges(unnamed.waiting):
            self._merge(name, groups)
        abandoned = self._remove_abandoned()
        vacuumed = sum(self._vacuum(name, unnamed.forgotten and name == "features") for name in TABLES)
        checkpoints = self._checkpoint()
        uploads = self._abort_uploads()
        if not self.dry_run:
            self.files = {name: table.reload().files() for name, table in self.tables.items()}
        return Summary(
            store=self.store.uri,
            dry_run=self.dry_run,
            files_before=sum(map(len, before.values())),
            files_after=sum(map(len, self.files.values())),
            bytes_rewritten=sum(size for name in TABLES for path, size in before[name].items() if path in self.replaced[name]),
            rows_collected=collected,
            files_vacuumed=vacuumed,
            abandoned_files=abandoned,
            abandoned_uploads=uploads,
            checkpoints=checkpoints,
        )

    # -- vectors that no entry names -----------------------------------------------------------------------------------

    def _unnamed(self) -> _Unnamed:
        """Looks through all digests of `features`, and then of `sequences`, a range at a time."""
        features, sequences = self.tables["features"].reload(), self.tables["sequences"]
        files = self.files["features"] = features.files()
        entries = sum(file.rows for file, _ in self.files["sequences"])
        partitions = min(digests.MAX_PARTITIONS, 1 + (entries + sum(file.rows for file, _ in files)) // _PARTITION_ROWS)
        with tempfile.TemporaryDirectory(prefix="dnafeat-") as folder:
            stored = Spill(Path(folder), "stored", pa.schema([("digest", pa.string()), ("file", pa.int64())]), partitions)
            for number, (file, _) in enumerate(files):
                own = vectorfiles.read_digests(features, file.path)
                columns = [digests.to_arrow(own), pa.array(np.full(len(own), number))]
                batch = pa.RecordBatch.from_arrays(columns, schema=stored.schema)
                stored.add(batch, digests.partition(own, partitions))
            stored.close()
            names = Spill(Path(folder), "names", pa.schema([("digest", pa.string())]), partitions)
            for rows in sequences.reload().batches(["sequence_digest"], pc.scalar(True), [], 131_072):
                own = np.unique(digests.to_numpy(rows["sequence_digest"]))
                batch = pa.RecordBatch.from_arrays([digests.to_arrow(own)], schema=names.schema)
                names.add(batch, digests.partition(own, partitions))
            names.close()
            found: dict[int, list[np.ndarray]] = {}
            for i in range(partitions):
                one = stored.table(i)
                own, number = digests.to_numpy(one["digest"]), one["file"].to_numpy()
                gone = np.flatnonzero(~np.isin(own, np.unique(digests.to_numpy(names.table(i)["digest"]))))
                gone = gone[np.argsort(number[gone], kind="stable")]
                at, starts = np.unique(number[gone], return_index=True)
                for one_file, part in zip(at, np.split(own[gone], starts[1:]), strict=False):
                    found.setdefault(int(one_file), []).append(part)
        return self._old_enough({number: np.unique(np.concatenate(parts)) for number, parts in found.items()})

    def _old_enough(self, found: dict[int, np.ndarray]) -> _Unnamed:
        """Of the vectors that no entry names, by number of the file, those that no run can count on."""
        unnamed = _Unnamed()
        features = self.tables["features"]
        published = self.tables["runs"].reload().read(["run_id"])["run_id"] if found else None
        for number, names in found.items():
            file, added = self.files["features"][number]
            rows = vectorfiles.read_columns(features, file.path, ["sequence_digest", "run_id"])
            # All that a published run has encoded was named by it: only a forgotten subject leaves such a vector.
            of_published = pc.is_in(rows["run_id"], value_set=published).to_numpy()
            taken = np.intersect1d(names, digests.to_numpy(rows["sequence_digest"])[of_published])
            unnamed.forgotten |= len(taken) > 0
            if self.now - added > ABANDONED_AFTER:
                taken = names
            if len(taken):
                # The rest of it, if any waits, waits in a new file anyway.
                unnamed.digests[file.path] = taken
            else:
                unnamed.waiting.add(file.path)
        self._with_children(unnamed, found)
        return unnamed

    def _with_children(self, unnamed: _Unnamed, found: dict[int, np.ndarray]) -> None:
        """Rows that lose those of their parent go with them, in the same commit, however young: nobody could read them any more.

        A run that counts on such a row is told when it is to be named (`publish`).
        """
        events = self.tables["versions"].reload().read(["feature_version", "parent"]).to_pylist() if unnamed.digests else []
        parents = {event["feature_version"]: event["parent"] for event in events if event["parent"]}
        gone: dict[str, list[np.ndarray]] = {}
        for file, _ in self.files["features"]:
            if file.path in unnamed.digests:
                gone.setdefault(file.partition["feature_version"], []).append(unnamed.digests[file.path])
        for number, names in found.items():
            file, _ = self.files["features"][number]
            lost = gone.get(parents.get(file.partition["feature_version"], ""), [])
            taken = np.intersect1d(names, np.concatenate(lost)) if lost else NONE
            if len(taken):
                unnamed.digests[file.path] = np.union1d(taken, unnamed.digests.get(file.path, NONE))
                unnamed.waiting.discard(file.path)

    def _collect(self, unnamed: _Unnamed) -> int:
        if not unnamed.digests:
            return 0
        if not self.dry_run:
            rows, paths = take_vectors(self.store, lambda file: unnamed.digests.get(file.path, NONE), forgotten=unnamed.forgotten)
            self.replaced["features"] |= paths
            self.files["features"] = self.tables["features"].reload().files()
            return rows
        self.replaced["features"] |= set(unnamed.digests)
        left = []
        for file, added in self.files["features"]:
            rows = file.rows - len(unnamed.digests.get(file.path, ()))
            if rows:
                left.append((replace(file, rows=rows, size=file.size * rows // file.rows), added))
        self.files["features"] = left
        return sum(map(len, unnamed.digests.values()))

    # -- small files ---------------------------------------------------------------------------------------------------

    def _merges(self, waiting: set[str]) -> Iterator[tuple[str, list[list[DataFile]]]]:
        """For each table, and each version of `features`, the files to be merged with each other."""
        for name in TABLES:
            column = _RANGE.get(name, "")
            files = sorted(self.files[name], key=lambda one: (*(str(end.get(column, "")) for end in _ends(one[0])), one[1]))
            small = [file for file, _ in files if file.path not in waiting]
            if name == "rejects":
                small = self._of_published_runs(small)
            for version in sorted({file.partition.get("feature_version", "") for file in small}):
                own = [file for file in small if file.partition.get("feature_version", "") == version]
                if groups := _grouped(own, _TARGET_ROWS.get(name)):
                    yield name, groups

    def _of_published_runs(self, files: Sequence[DataFile]) -> list[DataFile]:
        """Files of `rejects` with the refused entries of published runs alone."""
        table = self.tables["rejects"]
        small = [file for file in files if _is_small(file.size, file.rows, _TARGET_ROWS["rejects"])]
        if len(small) < _FEWEST:
            return []
        published = set(self.tables["runs"].reload().read(["run_id"])["run_id"].to_pylist())
        found = []
        for file in small:
            # One that is gone somebody else has merged.
            with contextlib.suppress(FileNotFoundError):
                if published.issuperset(vectorfiles.read_columns(table, file.path, ["run_id"])["run_id"].unique().to_pylist()):
                    found.append(file)
        return found

    def _merge(self, name: str, groups: Iterable[list[DataFile]]) -> None:
        table = self.tables[name]
        for group in groups:
            paths = {file.path for file in group}
            if self.dry_run or _replace(table, group):
                self.replaced[name] |= paths
                kept = [one for one in self.files[name] if one[0].path not in paths]
                self.files[name] = [*kept, (group[0], self.now)]

    # -- what is not needed any more -----------------------------------------------------------------------------------

    def _vacuum(self, name: str, collected: bool) -> int:
        """Deletes replaced files of a table that are old enough; `collected`: a dry run would have forgotten vectors taken out."""
        table = self.tables[name].reload()
        count = forgotten(table)
        at_once = _lately_forgotten(table) or collected
        hours = 0 if at_once else self.retention
        found = set(again(lambda: table.snapshot.vacuum(retention_hours=hours, dry_run=True, enforce_retention_duration=False)))
        if self.dry_run and hours == 0:
            found |= self.replaced[name]
        there = {path for path in found if f"{name}/{path}" in self.listed}
        if self.dry_run:
            return len(there)
        if there:
            _delete_replaced(table, hours)
        if at_once:

            def change(_: Draft) -> Change | None:
                return Change(transactions={VACUUMED: count}) if (table.transaction(VACUUMED) or 0) < count else None

            settle(table, change)
        return len(there)

    def _remove_abandoned(self) -> int:
        """Deletes what nobody has named for a week."""
        single = {path for path, one in self.listed.items() if self._is_old(one) and _is_leftover(path)}
        single |= self._old_projectors()
        folders: dict[str, list[storage.Listed]] = {}
        for path, one in self.listed.items():
            if path.startswith("work/"):
                folders.setdefault("/".join(path.split("/")[:2]), []).append(one)
        dead = {folder: len(files) for folder, files in folders.items() if all(map(self._is_old, files))}
        for table in self.tables.values():
            single |= {f"{table.name}/{path}" for path in self._disowned(table.reload())}
        for path in single:
            self.listed.pop(path, None)
            if not self.dry_run:
                storage.remove(storage.join(self.store.uri, path))
        for folder in dead if not self.dry_run else ():
            # Another maintain may be faster.
            with contextlib.suppress(FileNotFoundError):
                storage.remove_folder(storage.join(self.store.uri, folder))
        return len(single) + sum(dead.values())

    def _is_old(self, one: storage.Listed) -> bool:
        return self.now - one.modified > ABANDONED_AFTER

    def _disowned(self, table: Table) -> list[str]:
        """Old files below a table that were never part of it, as far as its log goes back; from now on they cannot be.

        Where something was forgotten lately, young ones of entries, too: runs that were refused for it have left the subject's there.
        """
        found: list[str] = []

        def change(_: Draft) -> Change | None:
            nonlocal found
            of_any_age = table.name in ("sequences", "rejects") and _lately_forgotten(table)
            found = [one.path for one in table.uncommitted() if of_any_age or self._is_old(one)]
            return Change(removed=found, rows_change=False) if found and not self.dry_run else None

        settle(table, change)
        return found

    def _old_projectors(self) -> set[str]:
        """Weights of projectors whose version was never recorded."""
        old = {path for path, one in self.listed.items() if path.startswith("projectors/") and self._is_old(one)}
        if not old:
            return old
        lineages = self.tables["versions"].reload().read(["lineage"])["lineage"].to_pylist()
        known = {json.loads(text).get("projector_sha256") for text in lineages if text}
        return {path for path in old if storage.name(path).partition(".")[0] not in known}

    def _abort_uploads(self) -> int:
        try:
            old = [one for one in storage.unfinished_uploads(self.store.uri) if self.now - one.began > ABANDONED_AFTER]
            for upload in old if not self.dry_run else ():
                storage.abort(upload)
        except (OSError, BotoCoreError, ClientError) as error:
            # It takes other rights than all the rest, which is done.
            warnings.warn(
                f"unfinished uploads below {self.store.uri} are left alone: {one_line(error)}", DnafeatWarning, stacklevel=1
            )
            return 0
        return len(old)

    def _checkpoint(self) -> int:
        """Writes checkpoints; logs are counted as they were at the start, so that a dry run counts the same."""
        done = 0
        for name, table in self.tables.items():
            logs = [storage.name(path) for path in self.listed if path.startswith(f"{name}/_delta_log/")]
            last = max((int(log[:20]) for log in logs if re.match(r"\d{20}\.checkpoint\.", log)), default=-1)
            if sum(re.fullmatch(r"\d{20}\.json", log) is not None and int(log[:20]) > last for log in logs) >= _LOG_FILES:
                done += 1
                if not self.dry_run:
                    again(table.reload().snapshot.create_checkpoint)
        return done


@dataclass
class _Unnamed:
    """Vectors that no entry names.

    Attributes
    ----------
    digests : dict of str to np.ndarray
        For each file of `features`, the sorted digests that may go from it.
    waiting : set of str
        Files with some that a run may count on.
    forgotten : bool
        Whether some of them are of a subject that was forgotten.
    """

    digests: dict[str, np.ndarray] = field(default_factory=dict)
    waiting: set[str] = field(default_factory=set)
    forgotten: bool = False


def _lately_forgotten(table: Table) -> bool:
    """Whether something was forgotten in a table since its replaced files were deleted the last time."""
    return forgotten(table) > (table.transaction(VACUUMED) or 0)


def _ends(file: DataFile) -> tuple:
    return file.minimum, file.maximum


def _is_small(size: int, rows: int, most_rows: int | None) -> bool:
    return size < _TARGET // 2 and (most_rows is None or rows < most_rows // 2)


def _grouped(files: Sequence[DataFile], most_rows: int | None) -> list[list[DataFile]]:
    """Small files, neighbours in their order, that together make one of about the target.

    Groups are made until no more can be: where all of them have been merged, nothing is left to do.
    """
    piles = [[file] for file in files]
    while True:
        merged = _merged_once(piles, most_rows)
        if len(merged) == len(piles):
            return [pile for pile in piles if len(pile) > 1]
        piles = merged


def _merged_once(piles: list[list[DataFile]], most_rows: int | None) -> list[list[DataFile]]:
    done: list[list[DataFile]] = []
    run: list[list[DataFile]] = []
    size = rows = 0

    def end() -> None:
        nonlocal run, size, rows
        done.extend([[file for pile in run for file in pile]] if len(run) >= _FEWEST else run)
        run, size, rows = [], 0, 0

    for pile in piles:
        own_size, own_rows = sum(file.size for file in pile), sum(file.rows for file in pile)
        if not _is_small(own_size, own_rows, most_rows):
            done.append(pile)
            continue
        if size + own_size > _TARGET or (most_rows is not None and rows + own_rows > most_rows):
            end()
        run.append(pile)
        size, rows = size + own_size, rows + own_rows
    end()
    return done


def _replace(table: Table, group: Sequence[DataFile]) -> bool:
    """Puts one file in the place of several, unless somebody else has replaced some of them."""
    paths = {file.path for file in group}
    new: DataFile | None = None

    def change(draft: Draft) -> Change | None:
        nonlocal new
        if not paths.issubset(table.paths()):
            return None
        if new is None or new.path in table.removed_paths():
            new = draft(_rewritten(table, group))
        return Change(added=[new], removed=sorted(paths), rows_change=False)

    return settle(table, change) is not None


def _rewritten(table: Table, group: Sequence[DataFile]) -> DataFile:
    if table.name == "features":
        version = group[0].partition["feature_version"]
        receipt = vectorfiles.rewrite(table, group, lambda _, own: np.ones(len(own), bool), stem="sorted", version=version)
        assert receipt is not None
        return receipt.file
    rows = pa.concat_tables([table.read_file(file.path) for file in group])
    order = [(column, "ascending") for column in _ORDER[table.name]]
    # Not `sorted` alone, which a run may be called: what it finds in `rejects` under its own name it replaces.
    return table.write(rows.sort_by(order), stem=f"sorted-{uuid.uuid4().hex}")


def _delete_replaced(table: Table, hours: int) -> None:
    """Delta's own vacuum; never `full`, which takes the files of running jobs."""
    for attempt in range(_ATTEMPTS):
        try:
            again(lambda: table.reload().snapshot.vacuum(retention_hours=hours, dry_run=False, enforce_retention_duration=False))
            return
        except CommitFailedError:
            # The two commits that say what it did were overtaken.
            if attempt == _ATTEMPTS - 1:
                raise
            time.sleep(random.uniform(0, 0.1 * 2**attempt))


def _is_leftover(path: str) -> bool:
    """Whether a file of the store is one that a killed process leaves behind: a probe, or one not yet renamed. Logs are Delta's."""
    folder, _, name = path.rpartition("/")
    if not folder:
        return name.startswith((".clock-", ".writable-")) and _HIDDEN.fullmatch(name) is not None
    return folder.split("/")[0] in (*TABLES, "projectors") and "_delta_log" not in folder and bool(_HIDDEN.fullmatch(name))


def format_summary(summary: Summary) -> str:
    """What was done in a few lines."""
    s = summary
    lines = [f"{s.store}: what maintain would do (nothing was changed)" if s.dry_run else f"{s.store} is maintained", ""]
    lines.append(f"  files      {s.files_before:,} before, {s.files_after:,} after, {s.bytes_rewritten / 1e6:,.1f} MB rewritten")
    lines.append(f"  vectors    {s.rows_collected:,} collected that no entry names")
    lines.append(f"  deleted    {s.files_vacuumed:,} replaced files, {s.abandoned_files:,} abandoned ones")
    if s.abandoned_uploads:
        lines.append(f"  uploads    {s.abandoned_uploads:,} unfinished ones ended")
    if s.checkpoints:
        lines.append(f"  logs       {s.checkpoints:,} checkpoints")
    return "\n".join(lines)

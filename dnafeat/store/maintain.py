"""Keep a store small and quick to read: `dnafeat maintain --store S`, for instance after each nightly run.

Five things, in this order, each safe beside running jobs, readers and other maintains:

1. Vectors that no entry names any more are collected: those of a forgotten subject at once, those of a run that never published once
   their file is a week old, since the run may be alive, or be sent again and count on them. Entries of the past name theirs as well.
2. Small files are merged into larger ones in the order of their digests (in `sequences`, of sources and ids). Each merge is one commit,
   made from a snapshot that still has all of the files, and changes no row. Files with vectors that wait to be collected are left alone,
   because a merged file is a new one and its vectors would wait for ever.
3. What no commit has named for a week is deleted: files of dead runs, their work shards, probes, unfinished uploads. A run must have
   committed its files by then. Before a file below a table is deleted the table's log has it as removed, so that a run that is slower
   than that is refused (`Table.settle`) and does not add a file that is gone. After a forget, files of entries do not get that week.
   What dnafeat has not made (`ownership`) is counted and left alone.
4. What was replaced is deleted after a week, for readers that still have the old snapshot. Where something was forgotten since the last
   time, it is deleted at once; such a reader has to load the table again.
5. A table whose log has grown gets a checkpoint. Old log entries are left to Delta's own retention.

Refused entries of a run that is not published are not merged: when it is sent again it replaces them, and finds them by their file.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from deltalake.exceptions import DeltaError

from dnafeat import storage
from dnafeat.errors import DamagedError, StoreError, one_line
from dnafeat.store.catalog import Store
from dnafeat.store.collect import Unnamed, collect, find_unnamed
from dnafeat.store.damage import damaged_paths, way_out
from dnafeat.store.data_file import Change
from dnafeat.store.merge import merge
from dnafeat.store.ownership import claim
from dnafeat.store.retry import looking_again
from dnafeat.store.rewriting import Draft, raised, settle
from dnafeat.store.schema import DROPPABLE
from dnafeat.store.table import Table
from dnafeat.store.upkeep import Upkeep
from dnafeat.store.vacuum import abort_uploads, count_foreign, remove_abandoned, vacuum, write_checkpoints
from dnafeat.text import human_bytes


@dataclass(frozen=True, kw_only=True)
class MaintenanceSummary:
    """The result of a maintenance, or in a dry run what it would be.

    Attributes
    ----------
    store : str
    dry_run : bool
    files_before, files_after : int
        Of all tables.
    bytes_rewritten : int
        Size of the files that were replaced.
    rows_collected : int
        Vectors that no entry names.
    files_vacuumed : int
        Replaced files that were deleted.
    abandoned_files, abandoned_uploads : int
        Files and uploads that nothing had named for a week, deleted.
    foreign_files : int
        Files below the store that dnafeat has not made; they are left alone, and the log names one.
    checkpoints : int
        Tables whose log got one.
    damaged : tuple of str
        Files that cannot be read and stay as they are.
    dropped : tuple of str
        Damaged files that were taken out of their tables.
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
    foreign_files: int
    checkpoints: int
    damaged: tuple[str, ...] = ()
    dropped: tuple[str, ...] = ()

    def __repr__(self) -> str:
        return format_summary(self)


def maintain(
    store: Store, *, dry_run: bool = False, now: datetime | None = None, drop_damaged: bool = False
) -> MaintenanceSummary:
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
    drop_damaged : bool
        Whether to read all files first, and to take damaged ones out of `features`, `sequences` and `rejects`. The next run of a source
        brings back what they held of it as it is then.

    Raises
    ------
    StoreError, ConflictError
        The store cannot be read or written, or too many others were writing it. The same command continues.
    """
    try:
        with storage.reached(store.uri):
            # Vectors whose names are lost would be taken for those that no entry names. What cannot be read is told of below.
            with contextlib.suppress(DamagedError):
                history = store.history()
                store.sequences.reload()
                store.features.reload()
                store.check_whole(history)
            upkeep = Upkeep(store, dry_run, now)
            if not dry_run:
                claim(store.uri)
            return _maintained(upkeep, _drop(upkeep) if drop_damaged else [])
    except DeltaError as error:
        raise StoreError(f"{store.uri} cannot be maintained: {one_line(error)}; send the same command again") from error


def _drop(upkeep: Upkeep) -> list[str]:
    """Take damaged files out of the tables that a run fills again, and return them."""
    dropped: list[str] = []
    for table in (upkeep.tables[name] for name in DROPPABLE if name in upkeep.tables):
        paths = looking_again(functools.partial(damaged_paths, table))
        if paths and not upkeep.dry_run:

            def change(_: Draft, table: Table = table, paths: Sequence[str] = tuple(paths)) -> Change | None:
                there = sorted(set(paths) & set(table.paths()))
                # They may hold an erased subject, so that they are deleted at once.
                return Change(removed=there, transactions=raised(table)) if there else None

            settle(table, change)
            upkeep.files[table.name] = table.reload().files()
        dropped += [storage.join(table.uri, path) for path in paths]
    return dropped


def _maintained(upkeep: Upkeep, dropped: Sequence[str]) -> MaintenanceSummary:
    """Take the steps in their order; each reads the state that the ones before it have left."""
    before = {name: {file.path: file.size for file, _ in files} for name, files in upkeep.files.items()}
    foreign = count_foreign(upkeep)
    if any(path.startswith(f"{upkeep.store.uri}/sequences/") for path in dropped):
        # The next runs name again what these files did, and its vectors need not be made again.
        unnamed = Unnamed(waiting={file.path for file, _ in upkeep.files["features"]})
    else:
        unnamed = looking_again(lambda: find_unnamed(upkeep))
    collected = collect(upkeep, unnamed)
    merge(upkeep, unnamed.waiting)
    abandoned = remove_abandoned(upkeep)
    vacuumed = sum(vacuum(upkeep, name, unnamed.forgotten and name == "features") for name in upkeep.tables)
    checkpoints = write_checkpoints(upkeep)
    uploads = abort_uploads(upkeep)
    if not upkeep.dry_run:
        upkeep.files = {name: table.reload().files() for name, table in upkeep.tables.items()}
    return MaintenanceSummary(
        store=upkeep.store.uri,
        dry_run=upkeep.dry_run,
        files_before=sum(map(len, before.values())),
        files_after=sum(map(len, upkeep.files.values())),
        bytes_rewritten=sum(
            size for name in upkeep.tables for path, size in before[name].items() if path in upkeep.replaced[name]
        ),
        rows_collected=collected,
        files_vacuumed=vacuumed,
        abandoned_files=abandoned,
        abandoned_uploads=uploads,
        foreign_files=foreign,
        checkpoints=checkpoints,
        damaged=tuple(upkeep.damage.files),
        dropped=tuple(dropped),
    )


def format_summary(summary: MaintenanceSummary) -> str:
    """Describe a maintenance in a few lines."""
    s = summary
    lines = [f"{s.store}: what maintain would do (nothing was changed)" if s.dry_run else f"{s.store} is maintained", ""]
    lines.append(f"  files      {s.files_before:,} before, {s.files_after:,} after, {human_bytes(s.bytes_rewritten)} rewritten")
    lines.append(f"  vectors    {s.rows_collected:,} collected that no entry names")
    lines.append(f"  deleted    {s.files_vacuumed:,} replaced files, {s.abandoned_files:,} abandoned ones")
    if s.foreign_files:
        lines.append(f"  foreign    {s.foreign_files:,} files that dnafeat has not made, left alone")
    if s.abandoned_uploads:
        lines.append(f"  uploads    {s.abandoned_uploads:,} unfinished ones ended")
    if s.checkpoints:
        lines.append(f"  logs       {s.checkpoints:,} checkpoints")
    if s.dropped:
        lines.append(f"  dropped    {len(s.dropped):,} damaged files, which the next run of each source makes up for")
    lines += [f"  damaged    {file}" for file in s.damaged]
    if s.damaged:
        lines += ["", f"note: damaged files stay as they are; {way_out(s.store)}"]
    return "\n".join(lines)

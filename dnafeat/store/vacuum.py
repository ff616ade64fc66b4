"""Deletion of replaced files, of what killed processes have left and of unfinished uploads; checkpoints."""

from __future__ import annotations

import logging
import re
import warnings

from botocore.exceptions import BotoCoreError, ClientError

from dnafeat import buckets, storage
from dnafeat.errors import DamagedError, DnafeatWarning, one_line
from dnafeat.store import delta_log
from dnafeat.store.data_file import Change
from dnafeat.store.lineages import loaded
from dnafeat.store.ownership import foreign, is_leftover, is_projector, work_of
from dnafeat.store.retention import ABANDONED_AFTER, RETENTION
from dnafeat.store.retry import again
from dnafeat.store.rewriting import Draft, forgotten, settle
from dnafeat.store.table import Table
from dnafeat.store.upkeep import Upkeep

_log = logging.getLogger(__name__)

# The application id under which a table keeps the count of `forgotten` up to which its replaced files were deleted.
VACUUMED = "dnafeat/vacuumed"

_LOG_FILES = 20  # since the last checkpoint


def vacuum(upkeep: Upkeep, name: str, collected: bool) -> int:
    """Delete replaced files of a table that are old enough, and return how many.

    `collected` says that a dry run would have taken out the vectors of a forgotten subject.
    """
    table = upkeep.tables[name].reload()
    count = forgotten(table)
    at_once = _lately_forgotten(table) or collected
    # Not Delta's own vacuum, which counts by the clock of this machine and leaves hidden files.
    found = {path for path, when in table.removed().items() if at_once or upkeep.now - when >= RETENTION} - set(table.paths())
    if upkeep.dry_run and (at_once or not upkeep.keeps_replaced):
        found |= upkeep.replaced[name]
    there = {path for path in found if f"{name}/{path}" in upkeep.listed}
    if upkeep.dry_run:
        return len(there)
    # Also those that are younger than the listing, where something was forgotten; most of the others have long gone.
    storage.remove_files(table.uri, sorted(found if at_once else there))
    if at_once:

        def change(_: Draft) -> Change | None:
            return Change(transactions={VACUUMED: count}) if (table.transaction(VACUUMED) or 0) < count else None

        settle(table, change)
    return len(there)


def remove_abandoned(upkeep: Upkeep) -> int:
    """Delete files that no commit has named for a week, and return how many."""
    single = {path for path, one in upkeep.listed.items() if upkeep.is_old(one) and is_leftover(path)}
    single |= _old_projectors(upkeep)
    works: dict[str, list[storage.Listed]] = {}
    for path, one in upkeep.listed.items():
        if (folder := work_of(path)) is not None:
            works.setdefault(folder, []).append(one)
    # A run that is at work has young files beside old ones.
    dead = {folder: [one.path for one in files] for folder, files in works.items() if all(map(upkeep.is_old, files))}
    for table in upkeep.tables.values():
        single |= {f"{table.name}/{path}" for path in _disowned(upkeep, table.reload())}
    for path in single:
        upkeep.listed.pop(path, None)
    if not upkeep.dry_run:
        storage.remove_files(upkeep.store.uri, sorted(single))
        for folder, paths in dead.items():
            inside = [path.removeprefix(f"{folder}/") for path in paths]
            storage.remove_files(storage.join(upkeep.store.uri, folder), inside, folders=True)
    return len(single) + sum(map(len, dead.values()))


def count_foreign(upkeep: Upkeep) -> int:
    """Count, and log, the files below the store that dnafeat has not made; nothing is done with them."""
    known = [f"{name}/{path}" for name, table in upkeep.tables.items() for path in (*table.paths(), *table.removed_paths())]
    found = foreign(upkeep.listed, known)
    if found:
        _log.info("%d files below %s are not dnafeat's and are left alone, such as %s", len(found), upkeep.store.uri, found[0])
    return len(found)


def _disowned(upkeep: Upkeep, table: Table) -> list[str]:
    """Old files below a table that were never part of it, as far as its log goes back; from now on they cannot be.

    Where something was forgotten lately, young ones of entries, too: runs that were refused for it have left the subject's there.
    """
    found: list[str] = []

    def change(_: Draft) -> Change | None:
        nonlocal found
        of_any_age = table.name in ("sequences", "rejects") and _lately_forgotten(table)
        found = [one.path for one in table.uncommitted() if of_any_age or upkeep.is_old(one)]
        return Change(removed=found, rows_change=False) if found and not upkeep.dry_run else None

    settle(table, change)
    return found


def _old_projectors(upkeep: Upkeep) -> set[str]:
    """Weights of projectors whose version was never recorded."""
    old = {path for path, one in upkeep.listed.items() if is_projector(path) and upkeep.is_old(one)}
    if not old:
        return old
    try:
        lineages = upkeep.tables["versions"].reload().read(["lineage"])["lineage"].to_pylist()
    except DamagedError as error:
        upkeep.damage.note(error)
        return set()
    found = [loaded(text) for text in lineages if text is not None]
    # A lineage that cannot be read may name any of them.
    known = {lineage.get("projector_sha256") for lineage in found if lineage is not None}
    return set() if None in found else {path for path in old if storage.name(path).partition(".")[0] not in known}


def abort_uploads(upkeep: Upkeep) -> int:
    """End multipart uploads that were begun a week ago, and return how many."""
    try:
        old = [one for one in buckets.unfinished_uploads(upkeep.store.uri) if upkeep.now - one.began > ABANDONED_AFTER]
        for upload in old if not upkeep.dry_run else ():
            buckets.abort(upload)
    except (OSError, BotoCoreError, ClientError) as error:
        # It takes other rights than all the rest, which is done.
        warnings.warn(
            f"unfinished uploads below {upkeep.store.uri} are left alone: {one_line(error)}", DnafeatWarning, stacklevel=1
        )
        return 0
    return len(old)


def write_checkpoints(upkeep: Upkeep) -> int:
    """Write checkpoints of long logs, and return how many.

    Logs are counted as they were at the start, so that a dry run counts the same.
    """
    done = 0
    for name, table in upkeep.tables.items():
        logs = [storage.name(path) for path in upkeep.listed if path.startswith(f"{name}/_delta_log/")]
        last = max((int(log[:20]) for log in logs if re.match(r"\d{20}\.checkpoint\.", log)), default=-1)
        if sum(re.fullmatch(r"\d{20}\.json", log) is not None and int(log[:20]) > last for log in logs) >= _LOG_FILES:
            done += 1
            if not upkeep.dry_run:
                again(table.reload().snapshot.create_checkpoint)
                delta_log.sync(table.uri, table.version())
    return done


def _lately_forgotten(table: Table) -> bool:
    """Return whether something was forgotten in a table since its replaced files were deleted the last time."""
    return forgotten(table) > (table.transaction(VACUUMED) or 0)

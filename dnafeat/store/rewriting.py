"""Commits that put other files in the place of some, beside others that do the same: what `maintain` and `forget` have in common."""

from __future__ import annotations

import uuid
from collections.abc import Callable

import numpy as np
import pyarrow.compute as pc

from dnafeat import storage
from dnafeat.errors import DamagedError, StoreError
from dnafeat.store import digests
from dnafeat.store import vector_files as vectorfiles
from dnafeat.store.catalog import Store
from dnafeat.store.damage import Damage, Rows
from dnafeat.store.data_file import Change, DataFile
from dnafeat.store.retry import READINGS
from dnafeat.store.table import Refused, Table

# The application id under which `sequences` and `rejects` count how often something was forgotten.
FORGOTTEN = "dnafeat/forgotten"

Draft = Callable[[DataFile], DataFile]
BATCH_ROWS = 131_072
EVERY = pc.scalar(True)
NONE = np.empty(0, digests.DTYPE)
# How the names of files begin that are written to take the place of committed ones.
DRAFTS = ("kept-", "sorted-")


def settle(table: Table, change: Callable[[Draft], Change | None]) -> int | None:
    """`Table.settle` under an id of its own, for commits that may conflict with others of their kind.

    `change` gets a function to hand every file to that it writes: those that are not committed in the end are deleted. It is asked again,
    too, where files are deleted under it.
    """
    drafts: set[str] = set()
    added: set[str] = set()
    failures = 0

    def draft(file: DataFile) -> DataFile:
        drafts.add(file.path)
        return file

    def watched() -> Change | None:
        nonlocal added, failures
        added = set()
        try:
            wanted = change(draft)
        except DamagedError:
            raise
        except (OSError, StoreError) as error:
            failures += 1
            if failures == READINGS:
                raise
            raise Refused from error
        # From here on it is not known whether they were committed.
        added = {file.path for file in wanted.added} if wanted else set()
        return wanted

    try:
        return table.settle(f"dnafeat/{uuid.uuid4().hex}", watched)
    finally:
        for path in drafts - added:
            storage.remove(storage.join(table.uri, path))


def raised(table: Table) -> dict[str, int]:
    """The transaction that counts one thing more that was forgotten in a table."""
    return {FORGOTTEN: forgotten(table) + 1}


def named(sequences: Table, wanted: np.ndarray, damage: Damage) -> np.ndarray:
    """Find the sorted digests `wanted`, (n,) of dtype S35, that any row of `sequences` has at its snapshot: (n,) bool."""

    def found(rows: Rows) -> np.ndarray:
        there = np.zeros(len(wanted), bool)
        for batch in rows:
            there[digests.present(wanted, digests.to_numpy(batch["sequence_digest"]))] = True
        return there

    if not len(wanted):
        return np.zeros(0, bool)
    columns = ["sequence_digest"]
    return damage.spared(sequences, columns, lambda: sequences.batches(columns, EVERY, [], BATCH_ROWS), found)


def take_vectors(
    store: Store, candidates: Callable[[DataFile], np.ndarray], *, forgotten: bool, damage: Damage
) -> tuple[int, set[str]]:
    """Remove vectors that no entry names from `features`, by rewriting their files.

    The names are looked up after `features` was loaded, and the commit is made from that: a run that names a digest meanwhile seals its
    vectors with a commit of its own, which refuses this one. Digests mean the same in every version, and a version that reads the
    vectors of its parent has the same entries; what is named therefore keeps its vectors in the parent, too.

    Parameters
    ----------
    store : Store
    candidates : callable
        From a file of `features` to the sorted digests, (n,) of dtype S35, whose rows may go from it.
    forgotten : bool
        Whether the replaced files are to be deleted by the next `maintain`, and not after a week.
    damage : Damage
        Takes files that cannot be read; they are left as they are.

    Returns
    -------
    (rows, paths)
        Rows taken out, and the files that are not part of `features` any more.
    """
    table = store.features
    held: dict[str, np.ndarray] = {}
    rewritten: dict[tuple[str, bytes], DataFile | None] = {}
    rows, removed = 0, set[str]()

    def change(draft: Draft) -> Change | None:
        nonlocal rows, removed
        rows, removed, added = 0, set(), []
        no_more = table.removed_paths()
        hits: dict[str, tuple[DataFile, np.ndarray]] = {}
        for file, _ in table.files():
            wanted = candidates(file)
            if file.path not in held:
                held[file.path] = NONE
                with damage.noted():
                    own = vectorfiles.read_digests(table, file.path) if len(wanted) else NONE
                    held[file.path] = wanted[digests.present(wanted, own)]
            if len(held[file.path]):
                hits[file.path] = file, held[file.path]
        if not hits:
            return None
        everything = np.unique(np.concatenate([mine for _, mine in hits.values()]))
        kept = everything[named(store.sequences.reload(), everything, damage)]
        for path, (file, mine) in hits.items():
            gone = np.setdiff1d(mine, kept)
            if not len(gone):
                continue
            key = path, gone.tobytes()
            new = rewritten.get(key)
            if key not in rewritten or (new is not None and new.path in no_more):
                try:
                    new = without(table, file, gone)
                except DamagedError as error:
                    damage.note(error)
                    continue
                rewritten[key] = draft(new) if new is not None else None
            rows, removed = rows + len(gone), removed | {path}
            added += [new] if new is not None else []
        return Change(added=added, removed=sorted(removed), transactions=raised(table) if forgotten else {}) if removed else None

    settle(table, change)
    return rows, removed


def without(table: Table, file: DataFile, gone: np.ndarray, stem: str = "kept") -> DataFile | None:
    """A vector file without some digests, as a new file that is not part of the table; None where no row stays."""
    version = file.partition["feature_version"]
    receipt = vectorfiles.rewrite(table, [file], lambda _, own: ~np.isin(own, gone), stem=stem, version=version)
    return receipt.file if receipt else None


def forgotten(table: Table) -> int:
    """Count the erasures in `sequences` or `rejects`, at the table's snapshot."""
    return table.transaction(FORGOTTEN) or 0

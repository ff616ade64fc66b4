"""Erase a subject from a store: `dnafeat forget --store S --where subject_id=S17`.

Rows are taken out by rewriting the files that hold them, never by a predicate, which would stand in the log for as long as the log is
kept. The replaced files lie there until `dnafeat maintain` deletes them, which it does at once and not after a week.

What is done, in this order, and each step may be done again:

1. A count is raised in the logs of `sequences` and `rejects`. A run that began before it can commit to neither any more, so that from
   here on no run brings the subject back; a run that began later has read a source without it (the caller sees to that).
2. The subject's rows of `sequences` are looked up: their ids, and those of their digests that no other entry names.
3. `rejects`: refused entries that belong to the subject.
4. Work shards under `work/`, and vector files that no commit names yet (`salvage`): the digests of step 2. What runs that are spread over
   a cluster have spilled there while they plan goes as a whole: they are refused anyway, and it holds ids and keys.
5. `effects` and the entries of its windows (`effects`), which only `haplotypes` and `sequences` tell whose they are. Then `haplotypes`:
   carriers counted without the subject, and rows that are left without any; then `sequences`: the subject's rows, in all intervals.
6. `features`: the digests of step 2, in all versions, and those of windows.

Why in this order. Steps 3 and 4 need what only `sequences` knows, so they come before 5: a call that ended in the middle is made good
by sending it again. Step 6 comes after 5, since readers would otherwise meet entries without vectors. A call that ended between the two
leaves vectors that no entry names, and no second call can find them; `maintain` collects them.

What may run at the same time:

* A run that began before step 1. If it has committed to `sequences` already, its rows are found in step 2. If not, it is refused
  there, or at `rejects` before: ForgottenError, exit code 3. What it adds to `features` before it is refused is named by no entry:
  `maintain` collects it. Shards that step 4 has shortened fail its audit, and spills that are gone end it, which it tells as
  ForgottenError, too. The file of refused entries that it has written and
  cannot commit is deleted by the next `maintain`, or within a week where that came before.
* A run that began between step 1 and step 5 is refused as well, since 3 and 5 raise the count once more: `maintain` looks at the count
  to see which tables hold files to delete, and it may have been there in between.
* A run that shares a sequence with the subject. Before its commit to `sequences` the digest is the subject's alone and goes; the run
  notices when it looks whether its vectors are there (`publish`) and has to be sent again. After it the digest is named and stays: step 6
  loads `features`, then looks at `sequences`, then commits from the `features` it loaded.
* A run that is about to commit a file of step 4. Nothing would stop it from adding a file that is deleted. Therefore such a file is not
  deleted here but removed in the log of its table, where it never was; a commit that adds a file which the log has as removed is
  refused (`Table.settle`). The other rows of a vector file are written again for the next run to salvage.
* `maintain`: the second to commit finds the files of the first gone and retries, or does nothing. What it had written it deletes.
* A reader sees the rows of the snapshot it has loaded; `maintain` may delete the files under it, and it has to load again.
* A second erasure: the same, one after the other.

What stays: names of runs, sources and files, in `runs`, `versions` and the logs. They are searched, and it is said where a value of the
conditions stands there. Vectors of a run that died before it named a single entry cannot be told from any others; they are collected
within a week. The log of `features` has the first and the last digest of every file, so that a digest of the subject's may stand there
until the log entry expires (after 30 days, by Delta's default).
"""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from dnafeat import pseudonyms as keyhash
from dnafeat import storage
from dnafeat.errors import DamagedError, UsageError
from dnafeat.keys import forms, spelled
from dnafeat.store import digests
from dnafeat.store import vector_files as vectorfiles
from dnafeat.store.carriers import recount
from dnafeat.store.catalog import Store
from dnafeat.store.conditions import Where, parse_where
from dnafeat.store.cut import packing_of
from dnafeat.store.damage import Damage, Rows, way_out
from dnafeat.store.data_file import Change, DataFile
from dnafeat.store.effects import personal as personal_effects
from dnafeat.store.effects import recount_effects
from dnafeat.store.erasure import ErasureSummary, texts_of, words
from dnafeat.store.erasure import notes_of as _notes
from dnafeat.store.retry import looking_again
from dnafeat.store.rewriting import BATCH_ROWS, EVERY, NONE, Draft, raised, settle, take_vectors
from dnafeat.store.schema import arrow_schema
from dnafeat.store.table import Table
from dnafeat.store.unfinished import UNREADABLE, take_uncommitted, take_work
from dnafeat.text import did_you_mean

_OWN = ("source_name", "sequence_id", "sequence_digest")


def parse(conditions: Sequence[str]) -> dict[str, str]:
    """`COLUMN=VALUE` texts as a mapping, with one value a column.

    Raises UsageError for a text that is no condition, and for a column that comes twice: alternatives are erased one after the other.
    """
    where = parse_where(conditions)
    for column, values in where.items():
        if len(values) > 1:
            raise UsageError(
                f"--where names column {column!r} twice and an entry has one value of it: forget one after the other"
            )
    return {column: values[0] for column, values in where.items()}


def hidden(where: Mapping[str, str], salt_file: str, store: str) -> dict[str, list[str]]:
    """Conditions on keys that are hashed: their values as they stand in the store. Raises UsageError as `pseudonyms` does.

    Older releases hashed keys as they were written, with white space around them and as floats.
    """
    salt = keyhash.read_salt(salt_file, store)
    found = {}
    for column, value in where.items():
        name, *others = forms(value)
        written = [name, value, *others, f"{name} ", f" {name}", f" {name} ", f"{name}.0"]
        found[column] = [value] if column == "source_name" else list(dict.fromkeys(keyhash.pseudonyms(written, salt)))
    return found


def forget(store: Store, where: Where, *, dry_run: bool = False) -> ErasureSummary:
    """Erase the entries that meet all conditions, and what belongs to them alone. It may be called again whenever it ended.

    Of the refused entries those go that have the name of such an entry, and those in which the value of a condition stands as a whole
    word, that is, not between letters or digits: in their id, their text, their file's name or the reason. A condition on
    `source_name` confines this to the source, and alone takes all of them.

    In memory are the ids and digests of the entries that are taken out, and one file of vectors.

    Parameters
    ----------
    store : Store
    where : Mapping[str, str | Sequence[str]]
        Values of `source_name`, `sequence_id`, `sequence_digest` or any key; of several for a column any. Keys are compared as
        `dnafeat.keys` spells them, so that `S1` finds `S1 `.
    dry_run : bool
        Whether to change nothing, and only count what would be erased.

    Raises
    ------
    UsageError
        No condition, or a column that `sequences` does not have.
    DamagedError
        Files are damaged and could not be searched. All else is erased.
    StoreError, ConflictError
        The store cannot be read or written, or too many others were writing it. The same command continues.
    """
    columns = [
        name for name in store.sequences.reload().schema().names if name in _OWN or name not in arrow_schema("sequences").names
    ]
    if not where or not all(where.values()):
        raise UsageError(f"say what to forget: --where COLUMN=VALUE, with a column among {', '.join(columns)}")
    for name in where:
        if name not in columns:
            raise UsageError(
                f"table sequences of {store.uri} has no column {name!r} to forget by: there are {', '.join(columns)}"
                f"{did_you_mean(name, columns)}"
            )
    shown = {column: value if isinstance(value, str) else value[0] for column, value in where.items()}
    wanted = {column: [value] if isinstance(value, str) else list(value) for column, value in where.items()}
    if dry_run:
        with storage.reached(store.uri):
            return looking_again(lambda: _counted(store, wanted, shown))
    for table in (store.rejects, store.sequences):
        _count(table)
    damage = Damage()
    with storage.reached(store.uri):
        pairs, affected, alone = looking_again(lambda: _gather(store, wanted, damage))
        rejects, uncommitted = _take_rows(store.rejects, lambda rows: _refused(rows, wanted, pairs), damage)
        work = take_work(store, alone)
        uncommitted += take_uncommitted(store, alone)
        personal = personal_effects(store, lambda rows: _matches(rows, wanted), damage)
        if personal.windows:
            _take_rows(store.sequences, personal.names, damage)
        recount_effects(store.effects, personal, damage)
        recount(store.haplotypes, store.sequences, affected, lambda rows: _matches(rows, wanted), damage)
        entries, more = _take_rows(store.sequences, lambda rows: _matches(rows, wanted), damage)
        recount(store.haplotypes, store.sequences, affected, lambda rows: _matches(rows, wanted), damage)
        vectors, _ = take_vectors(store, _within(np.union1d(alone, personal.digests)), forgotten=True, damage=damage)
        notes = _notes(store, wanted, damage)
        if damage:
            raise DamagedError(
                f"{entries:,} entries, {rejects:,} refused entries and {vectors:,} vectors were erased from {store.uri}, but "
                f"{len(damage.files):,} files could not be searched: {damage.listing()}: {way_out(store.uri)}"
            )
        return ErasureSummary(
            store=store.uri,
            where=shown,
            entries=entries,
            rejects=rejects,
            vectors=vectors,
            work=work,
            uncommitted=uncommitted + more,
            notes=notes,
        )


# -- steps -----------------------------------------------------------------------------------------------------------------


def _counted(store: Store, where: Mapping[str, Sequence[str]], shown: Mapping[str, str]) -> ErasureSummary:
    """What would be erased."""
    damage = Damage()
    store.features.reload().version()
    pairs, _, alone = _gather(store, where, damage)
    columns = list(where)
    entries = damage.spared(
        store.sequences,
        columns,
        lambda: store.sequences.batches(columns, EVERY, [], BATCH_ROWS),
        lambda every: sum(int(_matches(rows, where).sum()) for rows in every),
    )
    rejects = sum(
        int(_refused(rows, where, pairs).sum()) for rows in damage.pieces(store.rejects.reload(), arrow_schema("rejects").names)
    )
    vectors, inside = 0, _within(alone)
    for file, _ in store.features.files():
        if len(wanted := inside(file)):
            with damage.noted():
                vectors += int(np.isin(vectorfiles.read_digests(store.features, file.path), wanted).sum())
    notes = [f"{len(damage.files):,} files cannot be searched: {damage.listing()}"] if damage else []
    counts = {"entries": entries, "rejects": rejects, "vectors": vectors, "work": 0, "uncommitted": 0}
    return ErasureSummary(store=store.uri, where=shown, **counts, notes=notes, dry_run=True)


def _count(table: Table) -> None:
    settle(table, lambda _: Change(transactions=raised(table)))


def _gather(
    store: Store, where: Mapping[str, Sequence[str]], damage: Damage
) -> tuple[set[tuple[str, str]], np.ndarray, np.ndarray]:
    """The entries that meet the conditions: (source_name, sequence_id) pairs, their sorted digests, and those that no other entry names."""
    columns = list(dict.fromkeys((*_OWN, *where)))
    table = store.sequences.reload()

    def mine(every: Rows) -> tuple[set[tuple[str, str]], np.ndarray]:
        pairs: set[tuple[str, str]] = set()
        names = [NONE]
        for rows in every:
            own = rows.filter(pa.array(_matches(rows, where)))
            pairs.update(zip(own["source_name"].to_pylist(), own["sequence_id"].to_pylist(), strict=True))
            names.append(np.unique(digests.to_numpy(own["sequence_digest"])))
        return pairs, np.unique(np.concatenate(names))

    def shared(every: Rows) -> np.ndarray:
        others = np.zeros(len(wanted), bool)
        for rows in every:
            rest = rows.filter(pa.array(~_matches(rows, where)))
            others[digests.present(wanted, digests.to_numpy(rest["sequence_digest"]))] = True
        return others

    def scan() -> Rows:
        return table.batches(columns, EVERY, [], BATCH_ROWS)

    pairs, wanted = damage.spared(table, columns, scan, mine)
    return pairs, wanted, wanted[~damage.spared(table, columns, scan, shared)] if len(wanted) else wanted


def _matches(rows: pa.Table | pa.RecordBatch, where: Mapping[str, Sequence[str]]) -> np.ndarray:
    """The rows that meet all conditions, (rows,) bool. What is erased must not depend on how a key was spelled when it was stored."""
    mask = np.ones(len(rows), bool)
    for column, values in where.items():
        exact = column in ("source_name", "sequence_digest")
        cells = rows[column] if exact else spelled(rows[column])
        wanted = values if exact else [form for value in values for form in forms(value)]
        mask &= pc.is_in(cells, value_set=pa.array(wanted, pa.string())).to_numpy(zero_copy_only=False)
    return mask


def _refused(rows: pa.Table, where: Mapping[str, Sequence[str]], pairs: set[tuple[str, str]]) -> np.ndarray:
    """The refused entries that belong to the subject, (rows,) bool."""
    both = zip(rows["source_name"].to_pylist(), rows["sequence_id"].to_pylist(), strict=True)
    by_name = np.fromiter((pair in pairs for pair in both), bool, len(rows))
    source = {column: value for column, value in where.items() if column == "source_name"}
    values = texts_of({column: value for column, value in where.items() if column != "source_name"})
    by_value = np.zeros(len(rows), bool) if values else np.ones(len(rows), bool)
    for column in ("file", "sequence_id", "reason", "text"):
        for value in values:
            by_value |= words(rows[column], value)
    return by_name | (_matches(rows, source) & by_value)


def _take_rows(table: Table, goes: Callable[[pa.Table], np.ndarray], damage: Damage) -> tuple[int, int]:
    """Erase rows of an unpartitioned table, and of the files that a run is about to add to it. Damaged files stay as they are.

    Returns
    -------
    (rows, files)
        Rows of the table, and files that were not part of it.
    """
    rows = files = 0

    def change(draft: Draft) -> Change | None:
        nonlocal rows, files
        rows, added = 0, []
        removed: list[str] = []
        for path in table.paths():
            gone, kept, runs = 0, 0, set()
            try:
                for piece in table.pieces(path):
                    stays = pa.array(~goes(piece))
                    gone, kept = gone + len(stays) - stays.true_count, kept + stays.true_count
                    if table.name == "rejects":
                        runs |= set(piece["run_id"].unique().to_pylist())
            except DamagedError as error:
                damage.note(error)
                continue
            if not gone:
                continue
            rows, removed = rows + gone, [*removed, path]
            if kept:
                packing = packing_of(table, path)
                added.append(draft(table.write(_kept(table, path, goes), stem=_stem(runs), packing=packing)))
        # Whole files: their runs began before this erasure and are refused.
        others = [listed.path for listed in table.uncommitted() if _holds(table, listed.path, goes)]
        files = len(others)
        return Change(added=added, removed=removed + others, transactions=raised(table)) if removed or others else None

    settle(table, change)
    return rows, files


def _stem(runs: set[str]) -> str:
    """How the name of a rewritten file begins: with the run's id where all rows are of one, since a run that is sent again looks for
    its refused entries by that, and otherwise with what is no run's."""
    return runs.pop() if len(runs) == 1 else f"kept-{uuid.uuid4().hex}"


def _kept(table: Table, path: str, goes: Callable[[pa.Table], np.ndarray]) -> Iterator[pa.Table]:
    for piece in table.pieces(path):
        if len(kept := piece.filter(pa.array(~goes(piece)))):
            yield kept


def _holds(table: Table, path: str, goes: Callable[[pa.Table], np.ndarray]) -> bool:
    try:
        return any(goes(piece).any() for piece in table.pieces(path, committed=False))
    except UNREADABLE:
        return False


def _within(sorted_digests: np.ndarray) -> Callable[[DataFile], np.ndarray]:
    """For a vector file, those digests that fall into its range."""

    def inside(file: DataFile) -> np.ndarray:
        # Files that another tool has rewritten may be without them.
        first, last = file.minimum.get("sequence_digest", ""), file.maximum.get("sequence_digest", "~")
        return sorted_digests[digests.between(sorted_digests, first.encode(), last.encode())]

    return inside

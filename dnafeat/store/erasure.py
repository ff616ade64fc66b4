"""What an erasure tells: its summary, names that it leaves, and what is left to do."""

from __future__ import annotations

import functools
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from dnafeat import buckets
from dnafeat.keys import forms
from dnafeat.store.catalog import Store
from dnafeat.store.damage import Damage, Rows
from dnafeat.store.rewriting import BATCH_ROWS, EVERY
from dnafeat.store.table import Table


@dataclass(frozen=True, kw_only=True)
class ErasureSummary:
    """The result of an erasure.

    Attributes
    ----------
    store : str
    where : Mapping[str, str]
    entries : int
        Rows of `sequences`, past ones counted.
    rejects : int
    vectors : int
        Rows of `features`, over all versions.
    work : int
        Sequences in work shards.
    uncommitted : int
        Files that no commit had named.
    notes : list of str
        What is left to do, a sentence each.
    dry_run : bool
        Whether nothing was changed, and the counts are of what would be erased; unfinished runs are not looked at.
    """

    store: str
    where: Mapping[str, str]
    entries: int
    rejects: int
    vectors: int
    work: int
    uncommitted: int
    notes: list[str]
    dry_run: bool = False

    def __repr__(self) -> str:
        return format_summary(self)


def texts_of(where: Mapping[str, Sequence[str]]) -> list[str]:
    """The values of some conditions, as they were given and as they are spelled."""
    return list(dict.fromkeys(text for values in where.values() for value in values for text in (value, *forms(value))))


def words(column: pa.ChunkedArray, value: str) -> np.ndarray:
    """Find texts that hold a value as a whole word, that is, not between letters or digits: (rows,) bool."""
    found = pc.fill_null(pc.match_substring(column, value), False).to_numpy().copy()
    word = re.compile(rf"(?<![^\W_]){re.escape(value)}(?![^\W_])")
    for at in np.flatnonzero(found):
        found[at] = word.search(column[int(at)].as_py()) is not None
    return found


def notes_of(store: Store, where: Mapping[str, Sequence[str]], damage: Damage) -> list[str]:
    notes = [
        f"the replaced files are deleted by the next `dnafeat maintain --store {store.uri}`",
        "the sources themselves must no longer hold it: the next run would bring it back",
    ]
    searched = {"runs": ["run_id", "source_name", "config"], "versions": ["name", "lineage", "run_id"]}
    for name, columns in searched.items():
        count, table = 0, Table(store.uri, name)

        def holding(every: Rows, columns: Sequence[str] = columns) -> int:
            count = 0
            for rows in every:
                told = pa.table({column: rows[column] for column in columns})
                hits = [words(told[column], value) for column in columns for value in texts_of(where)]
                count += int(np.any(hits, axis=0).sum())
            return count

        count = damage.spared(table, columns, functools.partial(table.batches, columns, EVERY, [], BATCH_ROWS), holding)
        if count:
            notes.append(f"{count} rows of table {name} name it as part of a source, file or run; such names are kept")
    keeps = buckets.keeps_old_versions(store.uri)
    if keeps:
        notes.append(
            "the bucket keeps old versions of objects: the bytes stay until a lifecycle rule of the bucket deletes those"
        )
    elif keeps is None:
        notes.append("the bucket does not tell whether it keeps old versions of objects; if it does, the bytes stay in those")
    return notes


def format_summary(summary: ErasureSummary) -> str:
    """Describe an erasure and what is left to do, in a few lines."""
    s = summary
    conditions = " and ".join(f"{column}={value}" for column, value in s.where.items())
    lines = [
        f"{'would be forgotten' if s.dry_run else 'forgotten'}: {s.entries:,} entries with {conditions}"
        if s.entries
        else f"no entry with {conditions} in {s.store}",
        "",
    ]
    lines.append(f"  rejects   {s.rejects:,} refused entries")
    lines.append(f"  features  {s.vectors:,} vectors that no other entry names")
    if s.work or s.uncommitted:
        lines.append(f"  unfinished runs  {s.work:,} sequences of their work, {s.uncommitted:,} of their files")
    if s.dry_run:
        lines.append("  (nothing was changed)")
    return "\n".join([*lines, *([""] if s.notes else []), *(f"note: {note}" for note in s.notes)])

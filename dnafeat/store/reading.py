"""One read of a store: resolved once, after which entries and their vectors are brought together batch by batch."""

from __future__ import annotations

import functools
import operator
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds

from dnafeat.errors import MissingFileError, StoreError
from dnafeat.store import digests
from dnafeat.store.conditions import Where, conditions, stood, warn_of_unknown
from dnafeat.store.lookup import Lookup
from dnafeat.store.matrices import copy_rows, end_to_end, fixed, one_array, widths
from dnafeat.store.retry import READINGS
from dnafeat.store.schema import arrow_schema
from dnafeat.store.table import Table
from dnafeat.text import did_you_mean
from dnafeat.vectors import VECTORS, VIEWS

OWN = ("sequence_digest", "bases", "tokens", "windows", "run_id")
"""Columns of `features` that can be read beside vectors."""
_ID = "sequence_id"
_BATCH_ROWS = 16_384
# Arrow looks so many digests up in the rows it reads, and of a few dozen also skips files and row groups in which none can stand.
_MOST_SOUGHT = 1_000_000


class Entries:
    """Entries in the order of their digests, found by them.

    Attributes
    ----------
    table : pyarrow.Table
        sequence_id, source_name, keys, sequence_digest.
    distinct : np.ndarray
        (sequences,) of dtype S35, sorted.
    """

    def __init__(self, table: pa.Table) -> None:
        names = digests.to_numpy(table["sequence_digest"])
        order = np.argsort(names, kind="stable")
        self.table = table.take(pa.array(order))
        self.distinct, self._first, self._count = np.unique(names[order], return_index=True, return_counts=True)

    def __len__(self) -> int:
        return len(self.table)

    def matching(self, names: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Entries of some sequences: places in `table`, and in `names` (of dtype S35), one pair for each entry; both int64."""
        if not len(self.distinct) or not len(names):
            return np.empty(0, np.int64), np.empty(0, np.int64)
        hit, place = digests.located(self.distinct, names)
        count = self._count[place]
        # One row for each entry that names a sequence: `_first` is where its run of equal digests begins.
        rows = np.repeat(hit, count)
        run = np.arange(len(rows)) - np.repeat(np.cumsum(count) - count, count)
        return np.repeat(self._first[place], count) + run, rows

    def sequences(self, some: np.ndarray) -> int:
        """How many sequences those entries have that `some`, (entries,) bool, says."""
        return len(self.of(some))

    def of(self, some: np.ndarray) -> np.ndarray:
        """The sequences of those entries that `some`, (entries,) bool, says: (sequences,) of dtype S35, sorted."""
        return self.distinct[np.logical_or.reduceat(some, self._first)] if len(self.distinct) else self.distinct

    def take(self, at: np.ndarray) -> pa.Table:
        """Some of them: sequence_id, then the rest without the digest."""
        names = [name for name in self.table.column_names if name != "sequence_digest"]
        return self.table.select([_ID, *(name for name in names if name != _ID)]).take(pa.array(at))


@dataclass(frozen=True)
class Reading:
    """A version's entries as of some run of each source, and where their vectors are.

    Attributes
    ----------
    features : Table
        At the snapshot that is read.
    version : str
    state : Mapping[str, int]
        Of each source, the number of the run as of which its entries are.
    columns : tuple of str
        Columns of vectors and of `OWN`, as `Store.read` has them.
    entries : Entries
    piece_rows : int | None
        Rows of a piece, of which one at a time is in memory; None where speed counts for more.
    parent : str | None
        The version that has the vectors which rows of this one lack.
    sequences : Table | None
        Where entries are looked for again whose vectors are not there: those of an erased subject are left out. None: they are damage.
    """

    features: Table
    version: str
    state: Mapping[str, int]
    columns: tuple[str, ...]
    entries: Entries
    piece_rows: int | None = None
    parent: str | None = None
    sequences: Table | None = None

    def batches(self) -> Iterator[pa.RecordBatch]:
        """`Store.scan`."""
        nothing = True
        for at, batch, rows in self._found():
            left = self.entries.take(at)
            arrays = [one_array(column) for column in left.columns] + self._right(batch, rows)
            yield pa.RecordBatch.from_arrays(arrays, names=[*left.column_names, *self.columns])
            nothing = False
        if nothing:
            yield self._none()

    def table(self) -> pa.Table:
        """`Store.read`: each vector column is one array, into which rows are copied as they come."""
        whole: dict[str, np.ndarray] = {}
        lefts, plain, filled = [], [], 0
        vectors = [name for name in self.columns if is_vector(name)]
        for at, batch, rows in self._found():
            lefts.append(self.entries.take(at))
            end = filled + len(rows)
            for name in vectors:
                parts = [fixed(batch[part]) for part in name.split("+")]
                ends = np.cumsum([0, *widths(parts)])
                if name not in whole:
                    whole[name] = np.empty((len(self.entries), ends[-1]), np.float32)
                for part, first, last in zip(parts, ends[:-1], ends[1:], strict=True):
                    copy_rows(part, rows, whole[name][filled:end, first:last])
            plain.append({name: batch[name].take(pa.array(rows)) for name in self.columns if name not in vectors})
            filled = end
        if not lefts:
            return pa.Table.from_batches([self._none()])
        left = pa.concat_tables(lefts)
        columns = {name: left[name] for name in left.column_names}
        for name in self.columns:
            if name in whole:
                # Fewer than there were entries, where a subject was erased meanwhile.
                rows_read = whole[name][:filled]
                columns[name] = pa.FixedSizeListArray.from_arrays(pa.array(rows_read.reshape(-1)), rows_read.shape[1])
            else:
                columns[name] = pa.chunked_array([piece[name] for piece in plain])
        return pa.table(columns)

    def stored(self) -> list[str]:
        """Columns of `features` that are read."""
        return stored(self.columns)

    def where(self) -> pc.Expression:
        """The filter for rows of `features`: those of the version, and where few sequences are wanted, of these alone."""
        where = ds.field("feature_version") == self.version
        sought = self.entries.distinct
        if len(sought) <= _MOST_SOUGHT and 2 * len(sought) < self.features.count_rows({"feature_version": self.version}):
            where &= ds.field("sequence_digest").isin(digests.to_arrow(sought))
        return where

    def _found(self) -> Iterator[tuple[np.ndarray, pa.RecordBatch, np.ndarray]]:
        """Places of entries, a batch of `features`, and the row in it of each. Raises StoreError unless each sequence is met once.

        Where files are deleted meanwhile, the newest snapshot has the same rows in others, and what was not met yet is read from there.
        """
        seen = np.zeros(len(self.entries), bool)
        for reading in range(READINGS):
            before = seen.copy()
            try:
                for batch in self._rows(~before):
                    at, rows = self.entries.matching(digests.to_numpy(batch["sequence_digest"]))
                    new = ~before[at]
                    at, rows = at[new], rows[new]
                    if not len(at):
                        continue
                    self.note(seen, at)
                    # Many entries may share a sequence.
                    size = self.piece_rows or _BATCH_ROWS
                    for i in range(0, len(at), size):
                        yield at[i : i + size], batch, rows[i : i + size]
                break
            except MissingFileError:
                if reading == READINGS - 1:
                    raise
                self.features.reload().version()
                seen |= self.erased(~seen)
        self.check_all(seen)

    def note(self, seen: np.ndarray, at: np.ndarray) -> None:
        """Mark entries, by their places, as seen: (entries,) bool. Raises StoreError for those that were seen before."""
        # In a file they ascend, and are told apart at a glance.
        if seen[at].any() or not ((np.diff(at) > 0).all() or len(np.unique(at)) == len(at)):
            raise self._damaged("has vectors more than once among the")
        seen[at] = True

    def check_all(self, seen: np.ndarray) -> None:
        """Raise StoreError unless all entries were seen, but for those that were erased meanwhile."""
        if not seen.all() and (lacking := self.entries.sequences(~seen & ~self.erased(~seen))):
            raise self._damaged(f"lacks the vectors of {lacking}")

    def erased(self, some: np.ndarray) -> np.ndarray:
        """Those of some entries, (entries,) bool, that do not stand in the newest snapshot of `sequences`."""
        gone = np.zeros(len(some), bool)
        if self.sequences is None or not some.any():
            return gone
        at = np.flatnonzero(some)
        names = ["source_name", _ID, "sequence_digest"]
        mine = self.entries.table.select(names).take(pa.array(at))
        here = ds.field("sequence_digest").isin(mine["sequence_digest"].unique())
        found = self.sequences.reload()
        standing = {
            tuple(row.values())
            for source, number in self.state.items()
            for row in found.read(names, stood(source, number) & here, [("source_name", "=", source)]).to_pylist()
        }
        gone[at] = [tuple(row.values()) not in standing for row in mine.to_pylist()]
        return gone

    def _rows(self, wanted: np.ndarray) -> Iterator[pa.RecordBatch]:
        """Rows of `features`, among them all of the entries `wanted`, (entries,) bool."""
        if (lookup := self.lookup()) is not None:
            return self._looked_up(lookup, wanted)
        if self.piece_rows is None:
            return self.features.batches(self.stored(), self.where(), self._pruned_by(), _BATCH_ROWS)
        ends = [
            ("sequence_digest", how, name.decode())
            for how, name in zip((">=", "<="), self.entries.distinct[[0, -1]], strict=True)
        ]
        return self.features.pages(self.stored(), [*self._pruned_by(), *ends], self.piece_rows)

    def lookup(self) -> Lookup | None:
        """The lookup of rows together with the parent's; None where the parent's are not needed."""
        needed = self.parent is not None and any(name in VIEWS for name in self.stored())
        return Lookup(self.features, self.version, self.parent) if needed else None

    def _looked_up(self, lookup: Lookup, wanted: np.ndarray) -> Iterator[pa.RecordBatch]:
        # In the order of digests: rows of two versions meet where both are in memory.
        names = self.entries.distinct if wanted.all() else self.entries.of(wanted)
        for _, batch in lookup.in_chunks(names, self.stored()):
            yield batch

    def _damaged(self, fault: str) -> StoreError:
        store = self.features.uri.rpartition("/")[0]
        return StoreError(f"{store} is damaged: it {fault} published sequences of version {self.version}")

    def _right(self, batch: pa.RecordBatch, rows: np.ndarray) -> list[pa.Array]:
        whole = len(rows) == len(batch) and bool((rows == np.arange(len(rows))).all())
        columns = [
            end_to_end([fixed(batch[part]) for part in name.split("+")]) if is_vector(name) else batch[name]
            for name in self.columns
        ]
        return columns if whole else [column.take(pa.array(rows)) for column in columns]

    def _none(self) -> pa.RecordBatch:
        """No rows, of the types that rows would have: the width of vectors is that of any others of the version."""
        columns, nothing = self.stored(), np.empty(0, np.int64)
        lookup = self.lookup()
        one = None if lookup is None else lookup.first(columns)
        others = self.features.batches(columns, ds.field("feature_version") == self.version, self._pruned_by(), 1)
        schema = pa.schema([field for field in self.features.schema() if field.name in columns])
        one = one if one is not None else next(others, pa.RecordBatch.from_pylist([], schema=schema))
        left = self.entries.take(nothing)
        arrays = [one_array(column) for column in left.columns] + self._right(one, nothing)
        return pa.RecordBatch.from_arrays(arrays, names=[*left.column_names, *self.columns])

    def _pruned_by(self) -> list[tuple[str, str, str]]:
        return [("feature_version", "=", self.version)]


def is_vector(column: str) -> bool:
    """Return whether a column that is read holds vectors, or several end to end."""
    return column.split("+")[0] in VECTORS


def stored(columns: Sequence[str]) -> list[str]:
    """The columns of `features` that these are made of, `sequence_digest` first."""
    return list(dict.fromkeys(["sequence_digest", *(part for name in columns for part in name.split("+"))]))


def check_selection(version: Any, source: Any, where: Any) -> None:
    """Raise StoreError for arguments of a read that are of another type."""
    for name, value in (("version", version), ("source", source)):
        if value is not None and not isinstance(value, str):
            raise StoreError(f"{name} is {value!r} and should be a text: ask for {str(value)!r}")
    if where is not None and not (isinstance(where, Mapping) and all(isinstance(name, str) for name in where)):
        raise StoreError(f"where is {where!r}: give a mapping of columns to values, such as where={{'subject_id': 'S17'}}")


def chosen(columns: Sequence[str] | None, version: str, held: Sequence[str]) -> tuple[str, ...]:
    """The columns to read of a version that stores these vectors. Raises StoreError for one that is not there."""
    if columns is None:
        return tuple(name for name in VECTORS if name in held)
    if isinstance(columns, str | bytes) or not isinstance(columns, Iterable):
        raise StoreError(f"columns is {columns!r}: give a list of names, such as ['mean'], among {', '.join(VECTORS + OWN)}")
    columns = list(columns)
    if strange := [name for name in columns if not isinstance(name, str)]:
        raise StoreError(f"columns holds {strange[0]!r}, which is no name of a column: choose among {', '.join(VECTORS + OWN)}")
    for name in columns:
        parts = name.split("+")
        if any(part not in VECTORS for part in parts) and name not in OWN:
            hint = did_you_mean(name, VECTORS + OWN)
            raise StoreError(
                f"no column {name!r} to read: choose among {', '.join(VECTORS + OWN)} (keys always come along){hint}"
            )
        if absent := [part for part in parts if part in VECTORS and part not in held]:
            raise StoreError(f"version {version} does not store {absent[0]!r} but {', '.join(held)}: read one of those")
    return tuple(dict.fromkeys(columns))


def load_entries(
    sequences: Table,
    state: Mapping[str, int],
    whole: Mapping[str, int],
    where: Where | None,
    here: pc.Expression | None = None,
) -> Entries:
    """The entries of a state that meet all conditions.

    Parameters
    ----------
    sequences : Table
    state : Mapping[str, int]
        Of each source to read, the run number as of which.
    whole : Mapping[str, int]
        The same of every source of the version: keys of which no entry has a value there are left out. They were brought by a run that
        came later, or of another version, and what a run gave once it gives for ever.
    where : Where | None
    here : pyarrow.compute.Expression | None
        A further condition on rows of `sequences`.

    Raises
    ------
    StoreError
        A condition names no key, or a value that is no text.
    """
    keys = [name for name in sequences.schema().names if name not in arrow_schema("sequences").names]
    chosen_by = conditions(where or {}, keys, sequences.uri.rpartition("/")[0])
    if here is not None:
        chosen_by = here if chosen_by is None else chosen_by & here
    columns = ["source_name", _ID, "sequence_digest", *keys]
    parts = []
    for source, number in state.items():
        rows = stood(source, number) if chosen_by is None else stood(source, number) & chosen_by
        parts.append(sequences.read(columns, rows, [("source_name", "=", source)]))
    table = pa.concat_tables(parts)
    for column, values in (where or {}).items() if here is None else ():
        warn_of_unknown(sequences, state, column, [values] if isinstance(values, str) else values, table[column])
    unseen = {key for key in keys if table[key].null_count == len(table)}
    unseen -= keys_with_values(sequences, whole, sorted(unseen))
    return Entries(table.drop_columns(sorted(unseen)))


def _with_values(sequences: Table, keys: set[str], source: str, number: int) -> set[str]:
    """Those of some keys of which an entry of a source has a value."""
    found: set[str] = set()
    any_value = functools.reduce(operator.or_, (ds.field(key).is_valid() for key in keys))
    for batch in sequences.batches(sorted(keys), stood(source, number) & any_value, [("source_name", "=", source)], 131_072):
        found |= {key for key in keys if batch[key].null_count < len(batch)}
        if found == keys:
            break
    return found


def keys_with_values(sequences: Table, state: Mapping[str, int], keys: Sequence[str]) -> set[str]:
    """Those keys of which some entry of a state has a value."""
    unseen = set(keys)
    for source, number in state.items():
        if unseen:
            unseen -= _with_values(sequences, unseen, source, number)
    return set(keys) - unseen

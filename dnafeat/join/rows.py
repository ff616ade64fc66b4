"""The rows of a joined table that have a partition's keys."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from deltalake import Schema

from dnafeat.join import levels
from dnafeat.join.config import DNA, GENE, LEVELS, JoinInputs
from dnafeat.join.levels import Groups
from dnafeat.store import Store
from dnafeat.store.matrices import as_nullable_lists, one_array
from dnafeat.store.schema import joined_schema, without_metadata

# Bytes of the result that are made at a time.
_PIECE_BYTES = 32 * 2**20


@dataclass(frozen=True, kw_only=True)
class DnaSide:
    """The store's side of a join.

    Attributes
    ----------
    store : Store
        `features` and `sequences` at the snapshots that are read.
    version : str
    state : Mapping[str, int]
        Of each source, the run number as of which.
    run_ids : Mapping[str, str]
        Of each source, that run's id.
    width : int
        Of the vectors.
    keys : tuple of str
        Columns that a row of the result has beside the one it is joined on.
    genes : tuple of str | None
    salt : bytes | None
    parent : str | None
        Of the version.
    """

    store: Store
    version: str
    state: Mapping[str, int]
    run_ids: Mapping[str, str]
    inputs: JoinInputs
    how: str
    width: int
    keys: tuple[str, ...]
    genes: tuple[str, ...] | None
    salt: bytes | None
    parent: str | None = None

    @property
    def by(self) -> tuple[str, ...]:
        """Columns whose values a row of the result has in common, before genes are put end to end."""
        further = LEVELS[self.inputs.level]
        if self.inputs.level == "sequence":
            return (self.inputs.on, *self.keys)
        return (self.inputs.on, *further, *((GENE,) if self.inputs.aggregate == "concat" else ()))

    def entry_columns(self) -> list[str]:
        """Columns of entries that are read: those of the groups, what orders their sums, and genes where some alone count."""
        wanted = (*self.by, "source_name", "sequence_id", *((GENE,) if self.genes is not None else ()))
        return list(dict.fromkeys(wanted))

    def entry_schema(self) -> pa.Schema:
        return pa.schema([*((name, pa.string()) for name in self.entry_columns()), ("sequence_digest", pa.string())])

    def row_schema(self) -> pa.Schema:
        kept = [(name, pa.string()) for name in self.entry_columns()]
        return pa.schema([*kept, ("bases", pa.int64()), ("vector", pa.list_(pa.float32(), self.width))])

    def contract(self, partners: Sequence[str]) -> Schema:
        """The schema of the result."""
        masked = [DNA] if self.inputs.aggregate == "concat" else []
        return joined_schema(self.inputs.on, self.keys, [DNA, *partners], masked)


class JoinedRows:
    """The rows of the result that have a partition's keys, made a piece at a time."""

    def __init__(
        self, side: DnaSide, names: Sequence[str], dna: Groups, partners: Sequence[Groups], counts: Counter[str]
    ) -> None:
        self.side, self.names, self.dna, self.partners = side, names, dna, partners
        on = side.inputs.on
        # A row is one group of DNA, or under concat the run of a key's genes: where it begins, and how many there are.
        by = side.by[:-1] if side.inputs.aggregate == "concat" else side.by
        whole = side.inputs.level != "sequence"
        self.first = levels.starts(dna.names, by) if whole else np.arange(len(dna.names))
        self.length = np.diff([*self.first, len(dna.names)]).astype(np.int64)
        keys = one_array(dna.names[on]).take(pa.array(self.first))
        found = [pc.index_in(keys, value_set=one_array(one.names["key"])) for one in partners]
        self.unmatched: dict[str, str] = {}
        for name, partner, at in zip(names, partners, found, strict=True):
            matched, alone = pc.unique(keys.filter(at.is_valid())), pc.unique(keys.filter(at.is_null()))
            theirs = one_array(partner.names["key"])
            strangers = theirs.filter(pc.invert(pc.is_in(theirs, value_set=matched)))
            counts[f"{name} matched"], counts[f"{name} dna alone"] = len(matched), len(alone)
            for where, some in ((f"{name} {DNA}", alone), (name, strangers)):
                if len(some):
                    self.unmatched[where] = pc.min(some).as_py()
        if side.how == "inner":
            stays = np.ones(len(keys), bool)
            for at in found:
                stays &= at.is_valid().to_numpy(zero_copy_only=False)
            self.first, self.length = self.first[stays], self.length[stays]
            keys, found = keys.filter(pa.array(stays)), [at.filter(pa.array(stays)) for at in found]
        self.with_dna = len(keys)
        if side.how == "outer" and partners:
            known = one_array(dna.names[on])
            every = pa.concat_arrays([one_array(one.names["key"]) for one in partners]).unique()
            more = every.filter(pc.invert(pc.is_in(every, value_set=known)))
            more = more.take(pc.sort_indices(more))
            keys = pa.concat_arrays([keys, more])
            found = [pc.index_in(keys, value_set=one_array(one.names["key"])) for one in partners]
        self.keys, self.found, self.rows = keys, found, len(keys)
        self.schema = without_metadata(side.contract(names))

    def complete(self) -> int:
        """Rows that have all modalities."""
        has = np.arange(self.rows) < self.with_dna
        for at in self.found:
            has &= at.is_valid().to_numpy(zero_copy_only=False)
        return int(has.sum())

    def pieces(self) -> Iterator[pa.Table]:
        """The rows in pieces of about 32 MB; one that has some with and some without DNA counts as both."""
        genes = len(self.side.genes or ()) if self.side.inputs.aggregate == "concat" else 1
        width = self.side.width * genes + sum(one.vectors.shape[1] for one in self.partners)
        step = max(1, _PIECE_BYTES // (4 * width))
        ends = sorted({*range(0, self.with_dna, step), self.with_dna, *range(self.with_dna, self.rows, step), self.rows})
        for a, b in itertools.pairwise(ends):
            yield self._piece(a, b)

    def _piece(self, a: int, b: int) -> pa.Table:
        columns = {self.side.inputs.on: self.keys.slice(a, b - a), **self._dna(a, b)}
        for name, partner, found in zip(self.names, self.partners, self.found, strict=True):
            at = found.slice(a, b - a)
            has = at.is_valid()
            rows = at.drop_null().to_numpy()
            count = np.zeros(b - a, np.int64)
            count[has.to_numpy(zero_copy_only=False)] = partner.rows[rows]
            columns |= {name: as_nullable_lists(partner.vectors[rows], has), f"has_{name}": has, f"{name}_rows": pa.array(count)}
        return pa.table({one.name: columns[one.name] for one in self.schema}).cast(self.schema)

    def _dna(self, a: int, b: int) -> dict[str, pa.Array]:
        """The DNA's columns; all null from `with_dna` on."""
        if a >= self.with_dna:
            nothing = {one.name: pa.nulls(b - a, one.type) for one in self.schema}
            zero = {"has_dna": pa.array(np.zeros(b - a, bool)), "dna_rows": pa.array(np.zeros(b - a, np.int64))}
            return {name: nothing[name] for name in (*self.side.keys, DNA, "dna_mask") if name in nothing} | zero
        first, length = self.first[a:b], self.length[a:b]
        columns = {name: one_array(self.dna.names[name].take(pa.array(first))) for name in self.side.keys}
        if self.side.inputs.aggregate == "concat":
            vectors, mask = levels.concatenate(self.dna, first, length, self.side.genes or ())
            columns["dna_mask"] = as_nullable_lists(mask, None)
        else:
            vectors = self.dna.vectors[first]
        columns[DNA] = as_nullable_lists(vectors, None)
        columns["has_dna"] = pa.array(np.ones(b - a, bool))
        rows = np.cumsum([0, *self.dna.rows])
        columns["dna_rows"] = pa.array(rows[first + length] - rows[first])
        return columns

"""The steps of a join, each over parts that can be worked on anywhere: both sides are dealt out by key, then put together.

1. `deal_entries`: files of `sequences` into partitions of digests, so that vectors are looked up a range at a time.
2. `deal_vectors`: entries of a range with their vectors into partitions of keys.
3. `deal_partner`: files of a partner's table into the same partitions.
4. `put_together`: all rows of a partition of keys into one file of the result.

What is in memory is one part at a time; what parts hand on lies in spills. Knows neither Ray nor torch.
"""

from __future__ import annotations

import uuid
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from dnafeat import pseudonyms as keyhash
from dnafeat import storage
from dnafeat.errors import UsageError
from dnafeat.join import levels
from dnafeat.join.config import GENE, JoinInputs
from dnafeat.join.levels import Groups
from dnafeat.join.modalities import PartnerTable, check_lossless
from dnafeat.join.rows import DnaSide, JoinedRows
from dnafeat.keys import named, ranks
from dnafeat.parquet import write_parquet
from dnafeat.spill import Spill
from dnafeat.store import digests
from dnafeat.store.conditions import stood
from dnafeat.store.data_file import DataFile, plain
from dnafeat.store.digests import id_partition
from dnafeat.store.matrices import one_array
from dnafeat.store.reading import Entries, Reading

# Bytes of vectors that are read at a time.
_READ_BYTES = 8 * 2**20
# Keys shown as examples, and genes listed as missing or not asked for.
_TOLD = 3


@dataclass
class Dealt:
    """Rows of one side by partition, and what was left out of it.

    Attributes
    ----------
    rows : Spill
    counts : Counter
        Rows read, and reasons for leaving rows out.
    salts : set
        As `pseudonyms.checks`.
    examples : list of str
        Some keys.
    """

    rows: Spill
    counts: Counter[str] = field(default_factory=Counter)
    salts: set[str | None] = field(default_factory=set)
    examples: list[str] = field(default_factory=list)

    def saw(self, keys: pa.Array) -> None:
        self.salts |= keyhash.checks(keys)
        if len(self.examples) < _TOLD:
            self.examples += keys[: _TOLD - len(self.examples)].to_pylist()

    @classmethod
    def together(cls, parts: Sequence[Dealt], empty: Spill) -> Dealt:
        """Parts with the same partitions as one; `empty` stands in for none."""
        whole = cls(Spill.together([part.rows for part in parts]) if parts else empty)
        for part in parts:
            whole.counts += part.counts
            whole.salts |= part.salts
            whole.examples = (whole.examples + part.examples)[:_TOLD]
        return whole


def own_spill(folder: str, schema: pa.Schema, partitions: int) -> Spill:
    """A spill of a name of its own: a task may be done twice, even at the same time."""
    return Spill(storage.join(folder, uuid.uuid4().hex), "rows", schema, partitions)


def deal_entries(side: DnaSide, partitions: int, folder: str, path: str) -> Dealt:
    """The entries that stand in a file of `sequences`, by range of digest."""
    dealt = Dealt(own_spill(folder, side.entry_schema(), partitions))
    for rows in side.store.sequences.pieces(path):
        rows = rows.filter(_standing(rows, side.state))
        dealt.counts["read"] += len(rows)
        columns = [*side.entry_columns(), "sequence_digest"]
        kept = rows.select(list(dict.fromkeys([*columns, *side.by])))
        for name in (side.inputs.on, *(key for key in side.by[1:] if side.inputs.level != "sequence")):
            # Stores that older releases have filled hold keys that are not spelled by the rule.
            kept = kept.set_column(kept.column_names.index(name), name, named(kept[name]))
            there = kept[name].is_valid()
            dealt.counts[f"without {name}"] += len(kept) - (pc.sum(there).as_py() or 0)
            kept = kept.filter(there)
        check_lossless(kept[side.inputs.on], f"column {side.inputs.on!r} of {side.store.uri}")
        if side.genes is not None:
            kept = kept.set_column(kept.column_names.index(GENE), GENE, named(kept[GENE]))
            asked = pc.is_in(kept[GENE], value_set=pa.array(side.genes, pa.string()))
            dealt.counts["of genes that the manifest does not name"] += len(kept) - (pc.sum(asked).as_py() or 0)
            kept = kept.filter(asked)
            for one in pc.value_counts(one_array(kept[GENE])).to_pylist():
                dealt.counts[f"gene {one['values']}"] += one["counts"]
        keys = one_array(kept[side.inputs.on])
        if side.salt is not None:
            keys = keyhash.hashed(keys, side.salt)
            kept = kept.set_column(kept.column_names.index(side.inputs.on), side.inputs.on, keys)
        dealt.saw(keys)
        for batch in kept.select(columns).cast(side.entry_schema()).combine_chunks().to_batches():
            dealt.rows.add(batch, digests.partition(digests.to_numpy(batch["sequence_digest"]), partitions))
    dealt.rows.close()
    return dealt


def _standing(rows: pa.Table, state: Mapping[str, int]) -> pa.ChunkedArray:
    """The filter for the rows of `sequences` that stood as of the given run of each source."""
    marked = rows.append_column("_row", pa.array(np.arange(len(rows))))
    mask = np.zeros(len(rows), bool)
    for source, number in state.items():
        mask[marked.filter(stood(source, number))["_row"].to_numpy()] = True
    return pa.chunked_array([mask])


def deal_vectors(side: DnaSide, partitions: int, folder: str, dealt: Spill, number: int) -> Spill:
    """Entries of a range of digests with their vectors, by key. `dealt` are those of all ranges."""
    entries = dealt.part(number, number + 1)
    spill = own_spill(folder, side.row_schema(), partitions)
    columns = (side.inputs.vector, "bases")
    if entries.rows:
        rows = max(256, _READ_BYTES // (4 * side.width))
        found, at = Entries(entries.table()), (side.store.features, side.version, side.state)
        reading = Reading(*at, columns, found, piece_rows=rows, parent=side.parent)
        for batch in reading.batches():
            arrays = [batch[name] for name in (*side.entry_columns(), "bases", side.inputs.vector)]
            spill.add(pa.RecordBatch.from_arrays(arrays, schema=spill.schema), id_partition(batch[side.inputs.on], partitions))
    spill.close()
    return spill


def partner_schema(partner: PartnerTable) -> pa.Schema:
    order = [("order", kind)] if (kind := partner.order_type()) is not None else []
    place = [("file", pa.int32()), ("row", pa.int64())]
    return pa.schema([("key", pa.string()), *order, *place, ("vector", pa.list_(pa.float32(), partner.width))])


def deal_partner(
    partner: PartnerTable, mapping: pa.Table | None, salt: bytes | None, partitions: int, folder: str, file: int
) -> Dealt:
    """The rows of a partner's file that have a key and a vector, by key in the store's own key space."""
    dealt = Dealt(own_spill(folder, partner_schema(partner), partitions))
    for first, keys, has, vectors, order in partner.batches(file):
        dealt.counts["read"] += len(has)
        row = pa.array(first + np.arange(len(has)))
        if mapping is not None:
            leads = pc.index_in(keys, value_set=mapping["key"].combine_chunks())
            dealt.counts["whose key the mapping does not have"] += leads.null_count - keys.null_count
            keys = one_array(mapping["on"].take(leads))
        named = pc.fill_null(pc.not_equal(keys, ""), False).to_numpy(zero_copy_only=False)
        dealt.counts["without a key"] += int((~named).sum()) if mapping is None else keys.null_count - leads.null_count
        dealt.counts["without a vector"] += int((named & ~has).sum())
        keep = pa.array(named & has)
        keys = keys.filter(keep)
        if salt is not None:
            keys = keyhash.hashed(keys, salt)
        dealt.saw(keys)
        ordered = [order.filter(keep)] if order is not None else []
        arrays = [
            keys,
            *ordered,
            pa.array(np.full(len(keys), file, np.int32)),
            row.filter(keep),
            vectors.filter(pa.array(named[has])),
        ]
        dealt.rows.add(pa.RecordBatch.from_arrays(arrays, schema=dealt.rows.schema), id_partition(keys, partitions))
    dealt.rows.close()
    return dealt


@dataclass(frozen=True)
class Written:
    """The result of a partition of keys: its file, if it has rows, its counts, and examples of keys that met nothing."""

    file: DataFile | None
    counts: Counter[str]
    unmatched: Mapping[str, str] = field(default_factory=dict)


def examples_of(written: Sequence[Written]) -> dict[str, str]:
    """The first key by name of each side, however keys were dealt out."""
    found: dict[str, str] = {}
    for part in written:
        for side, key in part.unmatched.items():
            found[side] = min(key, found.get(side, key))
    return found


def put_together(
    side: DnaSide,
    partners: Sequence[PartnerTable],
    output: str,
    stem: str,
    footer: Mapping[str, str],
    vectors: Spill,
    others: Sequence[Spill],
    number: int,
) -> Written:
    """One partition of keys as a file of the result. `vectors` and `others` have all partitions, of the store and of the partners."""
    dna = vectors.part(number, number + 1)
    counts: Counter[str] = Counter()
    rows = dna.table()
    order = [name for name in ("source_name", "sequence_id") if name not in side.by]
    one_by_one = side.inputs.level == "sequence"
    groups = _each(rows, side.by) if one_by_one else levels.pool(rows, side.by, side.inputs.pooling, order)
    counts["sequences"], counts["dna keys"] = len(rows), len(levels.starts(groups.names, side.by[:1]))
    del rows
    reduced = [
        _reduced(partner, spill.part(number, number + 1), side.inputs, counts)
        for partner, spill in zip(partners, others, strict=True)
    ]
    result = JoinedRows(side, [partner.name for partner in partners], groups, reduced, counts)
    if not result.rows:
        return Written(None, counts, result.unmatched)
    path = f"{plain(stem)}/{number:05d}-{uuid.uuid4().hex}.parquet"
    size = write_parquet(storage.join(output, path), result.pieces(), lambda: footer)
    counts["rows"] += result.rows
    counts["complete"] += result.complete()
    return Written(DataFile(path, size, result.rows, {}, {}, {}, {}), counts, result.unmatched)


def _each(rows: pa.Table, by: Sequence[str]) -> Groups:
    """Every row as a group of its own, in the order of its names."""
    rows = rows.sort_by([(name, "ascending") for name in (by[0], "source_name", "sequence_id")])
    vectors = np.asarray(one_array(rows["vector"]).flatten()).reshape(len(rows), -1 if len(rows) else 0)
    return Groups(rows.select(list(by)), vectors, np.ones(len(rows), np.int64))


def _placed(column: pa.Array, *, last: bool) -> pa.Array:
    """The values of a column in the order that people mean: session 10 after session 9. What is missing is neither first nor last."""
    if pa.types.is_dictionary(column.type):
        column = column.dictionary_decode()
    if pa.types.is_string(column.type) or pa.types.is_large_string(column.type) or pa.types.is_string_view(column.type):
        names = named(column.cast(pa.string())).dictionary_encode()
        place = ranks(names.dictionary.to_pylist())
        column = pa.array([place[name] for name in names.dictionary.to_pylist()], pa.int64()).take(names.indices)
    elif not pa.types.is_floating(column.type):
        # Dates, times and whole numbers, by the order of their values.
        values = column.dictionary_encode()
        order = pc.rank(values.dictionary, tiebreaker="dense") if len(values.dictionary) else pa.array([], pa.uint64())
        column = order.cast(pa.int64()).take(values.indices)
    else:
        column = pc.if_else(pc.is_nan(column), None, column)
        order = pc.rank(column, tiebreaker="dense", null_placement="at_end")
        column = pc.if_else(column.is_valid(), order.cast(pa.int64()), None)
    return pc.fill_null(column, -1 if last else 2**62)


def _reduced(partner: PartnerTable, spill: Spill, inputs: JoinInputs, counts: Counter[str]) -> Groups:
    """One row for each key of a partner."""
    rows = spill.table()
    rule, _ = inputs.rule(partner.name)
    order = [name for name in ("order", "file", "row") if name in rows.column_names]
    if "order" in order:
        at = rows.column_names.index("order")
        rows = rows.set_column(at, "order", _placed(one_array(rows["order"]), last=rule == "last"))
    if rule == "refuse":
        groups = levels.pool(rows, ["key"], "first", order)
        if (double := np.flatnonzero(groups.rows > 1)).size:
            key = groups.names["key"][int(double[0])].as_py()
            raise UsageError(
                f"partner {partner.name} has {groups.rows[double[0]]} rows for {inputs.on} {key!r}, and {len(double)} such keys or more: "
                f"say what becomes of them, as in --reduce {partner.name}=mean"
            )
    else:
        groups = levels.pool(rows, ["key"], rule, order)
    counts[f"{partner.name} keys"] = len(groups.rows)
    counts[f"{partner.name} several"] = int((groups.rows > 1).sum())
    return groups

"""Entries of a cohort as one row for each region: codes that name its distinct haplotypes, made rows of `sequences` when they are read.

A region's codes are 4 bytes for each haplotype of each subject, and its rows some hundred.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from dnafeat.sources.cohort.layout import HAPLOTYPE, SUBJECT
from dnafeat.spill import Spill

_STRINGS = pa.list_(pa.string())
# Rows that are made at a time.
_ROWS = 131_072


def coded_schema(keys: Sequence[str]) -> pa.Schema:
    """The columns of coded entries; `keys` are those of regions.

    `digests` are those of the distinct haplotypes, null for refused ones, `codes` int32 numbers of them, -1 for none, `width` for each
    subject. `variants`, `skipped` and `is_reference` describe the distinct haplotypes.
    """
    named = [(name, pa.string()) for name in keys]
    own = [("file", pa.string()), ("row", pa.int64()), ("digests", _STRINGS), ("codes", pa.large_binary()), ("width", pa.int32())]
    about = [("variants", pa.list_(_STRINGS)), ("skipped", pa.list_(pa.int32())), ("is_reference", pa.list_(pa.bool_()))]
    return pa.schema([*named, *own, *about])


def accepted(row: pa.RecordBatch) -> tuple[np.ndarray, np.ndarray]:
    """The codes of a region, and the places of those whose haplotype is there and was not refused."""
    codes = np.frombuffer(row["codes"][0].as_buffer(), np.int32)
    good = np.append(row["digests"].flatten().is_valid().to_numpy(zero_copy_only=False), False)
    return codes, np.flatnonzero(good[codes])


def with_digests(row: pa.RecordBatch, names: pa.Array) -> pa.RecordBatch:
    """A region with other digests of its distinct haplotypes."""
    place = row.schema.get_field_index("digests")
    return row.set_column(place, row.schema.field(place), pa.ListArray.from_arrays(pa.array([0, len(names)], pa.int32()), names))


def with_codes(row: pa.RecordBatch, codes: np.ndarray) -> pa.RecordBatch:
    """A region with other codes, int32."""
    place = row.schema.get_field_index("codes")
    return row.set_column(place, row.schema.field(place), pa.array([codes.astype("<i4").tobytes()], pa.large_binary()))


@dataclass(frozen=True)
class CodedEntries:
    """Accepted entries, read like a `Spill` of them.

    Attributes
    ----------
    spill : Spill
        Of `coded_schema`, by ranges of region names.
    schema : pa.Schema
        Of the entries.
    samples : pa.Array or None
        Names of the subjects; None where there are none.
    counts : np.ndarray, shape=(partitions,), int64
        Entries of each partition.
    regions : pa.Table
        The keys that the entries of a region share, in the order of `region_id`: of all regions, also those without entries.
    """

    spill: Spill
    schema: pa.Schema
    samples: pa.Array | None
    counts: np.ndarray
    regions: pa.Table

    @property
    def rows(self) -> int:
        return int(self.counts.sum())

    @property
    def partitions(self) -> int:
        return self.spill.partitions

    def part(self, first: int, end: int) -> CodedEntries:
        """The partitions from `first` to before `end`."""
        return replace(self, spill=self.spill.part(first, end), counts=self.counts[first:end])

    def each(self) -> list[CodedEntries]:
        """The partitions one by one."""
        return [self.part(i, i + 1) for i in range(self.partitions)]

    def batches(self, partition: int = 0) -> Iterator[pa.RecordBatch]:
        """The entries of a partition, region by region in the order they came."""
        for row in self.rows_of_regions(partition):
            yield from self._expanded(row)

    def every_batch(self) -> Iterator[pa.RecordBatch]:
        """The entries of all partitions, one partition after the other."""
        for i in range(self.partitions):
            yield from self.batches(i)

    def table(self, partition: int = 0) -> pa.Table:
        """One partition as a whole."""
        return pa.Table.from_batches(self.batches(partition), self.schema)

    def without(self, out: pa.Array, folder: str) -> tuple[CodedEntries, Iterator[pa.RecordBatch]]:
        """The entries of the first partition but those of some sequences, by digest, and those in batches."""
        left = Spill(folder, "left", self.spill.schema)
        taken = Spill(folder, "taken", self.spill.schema)
        gone = 0
        for row in self.rows_of_regions(0):
            names = row["digests"].flatten()
            named = pc.is_in(names, value_set=out)
            codes = np.frombuffer(row["codes"][0].as_buffer(), np.int32)
            gone += int(np.append(named.to_numpy(zero_copy_only=False), False)[codes].sum())
            for spill, mask in ((left, named), (taken, pc.invert(named))):
                spill.add(with_digests(row, pc.if_else(mask, pa.scalar(None, pa.string()), names)))
        left.close()
        taken.close()
        return self.with_spill(left, self.rows - gone), self.with_spill(taken, gone).batches()

    def chosen(self, mask: np.ndarray, folder: str) -> CodedEntries:
        """Some of the entries of the first partition, given by (rows,) bool in the order of `table`."""
        spill = Spill(folder, "chosen", self.spill.schema)
        before = 0
        for row in self.rows_of_regions(0):
            codes, places = accepted(row)
            own = mask[before : before + len(places)]
            before += len(places)
            if own.any():
                left = np.full(len(codes), -1, np.int32)
                left[places[own]] = codes[places[own]]
                spill.add(with_codes(row, left))
        spill.close()
        return self.with_spill(spill, int(mask.sum()))

    def with_spill(self, spill: Spill, rows: int) -> CodedEntries:
        """Other entries of the same people and regions, of one partition."""
        return replace(self, spill=spill, counts=np.array([rows]))

    def rows_of_regions(self, partition: int) -> Iterator[pa.RecordBatch]:
        """The coded entries of a partition, a region at a time."""
        for batch in self.spill.batches(partition):
            for at in range(len(batch)):
                yield batch.slice(at, 1)

    def _expanded(self, row: pa.RecordBatch) -> Iterator[pa.RecordBatch]:
        """The entries of a region: subject by subject, haplotype by haplotype."""
        names, width = row["digests"].flatten(), row["width"][0].as_py()
        codes, places = accepted(row)
        for at in range(0, len(places), _ROWS):
            some = places[at : at + _ROWS]
            yield self._batch(row, names.take(pa.array(codes[some])), some // width, some % width)

    def _batch(self, row: pa.RecordBatch, names: pa.Array, subject: np.ndarray, number: np.ndarray) -> pa.RecordBatch:
        count = len(names)
        known: dict[str, pa.Array] = {"sequence_digest": names}
        region = row["region_id"][0].as_py()
        if self.samples is None:
            known["sequence_id"] = pa.repeat(pa.scalar(region), count)
        else:
            numbers = pa.array([str(i + 1) for i in range(int(number.max(initial=0)) + 1)])
            known[SUBJECT] = self.samples.take(pa.array(subject))
            known[HAPLOTYPE] = numbers.take(pa.array(number))
            known["sequence_id"] = pc.binary_join_element_wise(known[SUBJECT], region, known[HAPLOTYPE], "/")
        for name in self.schema.names:
            if name not in known:
                value = row[name][0]
                known[name] = pa.repeat(value, count) if value.is_valid else pa.nulls(count, row.schema.field(name).type)
        return pa.RecordBatch.from_arrays([known[name] for name in self.schema.names], schema=self.schema)

    def in_a_row(self, parts: Sequence[CodedEntries]) -> CodedEntries:
        """The partitions of some parts of these entries, those of the first part first."""
        spill = Spill.in_a_row([part.spill for part in parts])
        return replace(self, spill=spill, counts=np.concatenate([part.counts for part in parts]))

    @classmethod
    def together(cls, parts: Sequence[CodedEntries]) -> CodedEntries:
        """Entries with the same partitions as one."""
        spill = Spill.together([part.spill for part in parts])
        return replace(parts[0], spill=spill, counts=np.sum([part.counts for part in parts], axis=0))

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
    """

    spill: Spill
    schema: pa.Schema
    samples: pa.Array | None
    counts: np.ndarray

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
        for batch in self.spill.batches(partition):
            for at in range(len(batch)):
                yield from self._expanded(batch.slice(at, 1))

    def every_batch(self) -> Iterator[pa.RecordBatch]:
        """The entries of all partitions, one partition after the other."""
        for i in range(self.partitions):
            yield from self.batches(i)

    def table(self, partition: int = 0) -> pa.Table:
        """One partition as a whole."""
        return pa.Table.from_batches(self.batches(partition), self.schema)

    def _expanded(self, row: pa.RecordBatch) -> Iterator[pa.RecordBatch]:
        """The entries of a region: subject by subject, haplotype by haplotype."""
        names = row["digests"].flatten()
        codes = np.frombuffer(row["codes"][0].as_py(), np.int32)
        width = row["width"][0].as_py()
        accepted = np.append(names.is_valid().to_numpy(zero_copy_only=False), False)[codes]
        places = np.flatnonzero(accepted)
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

    @classmethod
    def together(cls, parts: Sequence[CodedEntries]) -> CodedEntries:
        """Entries with the same partitions as one."""
        spill = Spill.together([part.spill for part in parts])
        return replace(parts[0], spill=spill, counts=np.sum([part.counts for part in parts], axis=0))

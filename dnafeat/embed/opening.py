"""Entries that a run opens, as files of `sequences`; those of a cohort are made of codes, in the layout of `store.cut`."""

from __future__ import annotations

import functools
import itertools
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from dnafeat import storage
from dnafeat.cluster.spread import Each
from dnafeat.embed.coded import CodedEntries
from dnafeat.sources.cohort.layout import HAPLOTYPE, SUBJECT
from dnafeat.spill import Spill
from dnafeat.store import cut
from dnafeat.store.cut import GROUP_ROWS, Cut
from dnafeat.store.data_file import DataFile
from dnafeat.store.table import Table

ROWS_PER_FILE = 1_000_000
# Held in memory and written as one or several row groups.
_ROWS_AT_A_TIME, _BYTES_AT_A_TIME = 65_536, 32 * 2**20
# Of entries, packed as they are spilled, that are written at a time: about as many.
_OPENED_BYTES = 64 * 2**20
# Digests that are in memory while a run of regions is written, and runs that there are at least where their files are large enough.
_DIGEST_BYTES, _RUNS = 64 * 2**20, 16

_CODES = pa.schema([("region", pa.int32()), ("codes", pa.large_binary())])


class Opening(NamedTuple):
    """Entries to open, in parts."""

    parts: Sequence[Spill | CodedEntries]

    @property
    def rows(self) -> int:
        return sum(part.rows for part in self.parts)

    def spilled(self) -> list[Spill | CodedEntries]:
        """The parts with entries that no cohort has brought, put together to what is written at a time."""
        found = [part for part in self.parts if isinstance(part, Spill) and part.rows]
        regions: list[Spill | CodedEntries] = [
            part for part in self.parts if isinstance(part, CodedEntries) and part.samples is None and part.rows
        ]
        return [*(Spill.in_a_row(found).groups(_OPENED_BYTES) if found else []), *regions]

    def people(self) -> list[CodedEntries]:
        """The partitions with entries of a cohort, in the order of regions."""
        parts = [part for part in self.parts if isinstance(part, CodedEntries) and part.samples is not None]
        return [one for part in parts for one in part.each() if one.rows]


class _Run(NamedTuple):
    """Neighbouring partitions of a cohort's entries, which become a file for each bucket of subjects."""

    parts: Sequence[CodedEntries]
    buckets: int


class _Regions(NamedTuple):
    """Some regions in order: names, further keys, digests of their haplotypes end to end, where those of each begin, and codes per
    subject of each."""

    keys: dict[str, pa.Array]
    digests: pa.Array
    first: np.ndarray
    widths: np.ndarray


def write_opened(table: Table, stem: str, source_name: str, number: int, opening: Opening, each: Each) -> list[DataFile]:
    """Write entries as rows that begin at a run's number.

    Parameters
    ----------
    stem : str
        How the names of files begin.
    """
    ordinary = functools.partial(_write_rows, table, stem, source_name, number)
    written = each(ordinary, opening.spilled(), "opening entries")
    people = opening.people()
    if people:
        stored = sum(file.rows for file, _ in table.files() if cut.is_cut(file))
        count = cut.buckets(len(people[0].samples or ()), sum(part.rows for part in people), stored)
        of_people = functools.partial(_write_run, table, stem, source_name, number)
        written = [*written, *each(of_people, _runs(people, count), "opening entries")]
    return [file for files in written for file in files]


# -- entries that are rows already -------------------------------------------------------------------------------------------


def _write_rows(table: Table, stem: str, source_name: str, number: int, fresh: Spill | CodedEntries) -> list[DataFile]:
    """Entries as files of `sequences`."""
    schema = table.schema()
    opened = (_opened(rows, source_name, number, schema) for rows in chunks(fresh.every_batch()))
    return [table.write(rows, stem=stem) for rows in in_files(opened)]


def _opened(rows: pa.Table, source_name: str, number: int, schema: pa.Schema) -> pa.Table:
    """Entries as rows of `sequences` that begin at a run number."""
    columns = []
    # By number: a table of thousands of columns looks for each name among all.
    there = {name: rows.column(i) for i, name in enumerate(rows.column_names)}
    for column in schema:
        if column.name == "source_name":
            columns.append(pa.array([source_name] * len(rows), column.type))
        elif column.name == "from_run":
            columns.append(pa.array(np.full(len(rows), number), column.type))
        elif column.name in there:
            columns.append(there[column.name].combine_chunks())
        else:
            columns.append(pa.nulls(len(rows), column.type))
    return pa.Table.from_arrays(columns, schema=schema)


def chunks(batches: Iterable[pa.RecordBatch]) -> Iterator[pa.Table]:
    """Batches gathered into tables of about 65,536 rows, or of long ones fewer."""
    held: list[pa.RecordBatch] = []
    rows = size = 0
    for batch in batches:
        for at in range(0, len(batch), _ROWS_AT_A_TIME):
            held.append(batch.slice(at, _ROWS_AT_A_TIME))
            rows, size = rows + len(held[-1]), size + held[-1].nbytes
            if rows >= _ROWS_AT_A_TIME or size >= _BYTES_AT_A_TIME:
                yield pa.Table.from_batches(held)
                held, rows, size = [], 0, 0
    if rows:
        yield pa.Table.from_batches(held)


def in_files(tables: Iterable[pa.Table]) -> Iterator[Iterator[pa.Table]]:
    """Tables dealt out, in their order, to files of about a million rows; those of a file are to be taken before the next file is."""
    rows = 0

    def file(table: pa.Table) -> int:
        nonlocal rows
        rows += len(table)
        return (rows - 1) // ROWS_PER_FILE

    return (some for _, some in itertools.groupby(tables, file))


# -- entries of a cohort -----------------------------------------------------------------------------------------------------


def _runs(people: Sequence[CodedEntries], count: int) -> list[_Run]:
    """Runs of partitions whose files, one a bucket, are large enough, and which are many enough to be written side by side."""
    whole = sum(part.rows for part in people)
    most = min(max(whole // _RUNS, count * GROUP_ROWS), count * ROWS_PER_FILE)
    found: list[list[CodedEntries]] = []
    rows = 0
    for part in people:
        if not found or rows + part.rows > most:
            found.append([])
            rows = 0
        found[-1].append(part)
        rows += part.rows
    return [_Run(parts, count) for parts in found]


def _write_run(table: Table, stem: str, source_name: str, number: int, run: _Run) -> list[DataFile]:
    """A file for each bucket; more where a run's digests are too many to be held.

    A region's codes are taken apart once, and wait on the local disk for the file of their bucket.
    """
    samples = run.parts[0].samples
    assert samples is not None
    names = samples.to_pylist()
    bucket = cut.bucket_of(names, run.buckets)
    rank = np.empty(len(names), np.int64)
    rank[np.argsort(np.array(names, object), kind="stable")] = np.arange(len(names))
    order = np.lexsort((rank, bucket))
    ends = np.searchsorted(bucket[order], np.arange(run.buckets + 1))
    schema, files, left = table.schema(), list[DataFile](), list(run.parts)
    with tempfile.TemporaryDirectory(prefix="dnafeat-") as folder:
        while left:
            spill = Spill(folder, f"codes-{len(left)}", _CODES, run.buckets)
            regions = _take_apart(left, spill, order, ends)
            for at in range(run.buckets):
                if spill.counts[at]:
                    own = samples.take(pa.array(order[ends[at] : ends[at + 1]]))
                    rows = _rows(spill.batches(at), regions, own, source_name, number, schema)
                    files.append(table.write(rows, stem=stem, packing=Cut(at, run.buckets).packing))
            if spill.rows:
                storage.remove(spill.uri)
    return files


def _take_apart(left: list[CodedEntries], spill: Spill, order: np.ndarray, ends: np.ndarray) -> _Regions:
    """Take partitions from the front of `left` until their digests are many, and spill the codes of their regions by bucket."""
    keys: dict[str, list[str | None]] = {}
    names: list[pa.Array] = []
    first, widths, size = [0], list[int](), 0
    while left and size < _DIGEST_BYTES:
        part = left.pop(0)
        for row in sorted(part.rows_of_regions(0), key=lambda one: one["region_id"][0].as_py()):
            own = row["digests"].flatten()
            accepted = np.append(own.is_valid().to_numpy(zero_copy_only=False), False)
            width = row["width"][0].as_py()
            codes = np.frombuffer(row["codes"][0].as_buffer(), np.int32).reshape(-1, width)[order].reshape(-1)
            codes = np.where(accepted[codes], codes, -1).astype(np.int32)
            before = np.concatenate([[0], np.cumsum(codes >= 0)])[ends * width]
            some = np.flatnonzero(np.diff(before))
            if not len(some):
                continue
            whole = pa.LargeBinaryArray.from_buffers(
                pa.large_binary(), len(ends) - 1, [None, pa.py_buffer(ends * width * codes.itemsize), pa.py_buffer(codes)]
            )
            numbers = pa.array(np.full(len(some), len(widths), np.int32))
            spill.add(pa.RecordBatch.from_arrays([numbers, whole.take(pa.array(some))], schema=_CODES), some)
            for field in part.spill.schema:
                if field.name in part.schema.names and field.name not in ("file", "row"):
                    keys.setdefault(field.name, []).append(row[field.name][0].as_py())
            # Those that are refused have no code.
            names.append(pc.fill_null(own, ""))
            first.append(first[-1] + len(own))
            widths.append(width)
            size += own.nbytes
    spill.close()
    arrays = {name: pa.array(values, pa.string()) for name, values in keys.items()}
    return _Regions(arrays, pa.concat_arrays(names or [pa.array([], pa.string())]), np.array(first), np.array(widths))


def _rows(
    batches: Iterable[pa.RecordBatch], regions: _Regions, subjects: pa.Array, source_name: str, number: int, schema: pa.Schema
) -> Iterator[pa.Table]:
    """The entries of a bucket by region, subject and haplotype, as tables of `GROUP_ROWS` rows."""
    held: list[np.ndarray] = []
    count = 0
    prefixes = pc.binary_join_element_wise(subjects, "", "/")
    for batch in batches:
        for region, codes in zip(batch["region"].to_numpy(), batch["codes"], strict=True):
            flat = np.frombuffer(codes.as_buffer(), np.int32)
            places = np.flatnonzero(flat >= 0)
            subject, haplotype = np.divmod(places, regions.widths[region])
            held.append(np.stack([np.full(len(places), region), subject, haplotype, flat[places] + regions.first[region]]))
            count += len(places)
            while count >= GROUP_ROWS:
                whole = np.concatenate(held, axis=1)
                yield _table(whole[:, :GROUP_ROWS], regions, subjects, prefixes, source_name, number, schema)
                held, count = [whole[:, GROUP_ROWS:]], count - GROUP_ROWS
    if count:
        yield _table(np.concatenate(held, axis=1), regions, subjects, prefixes, source_name, number, schema)


def _table(
    rows: np.ndarray,
    regions: _Regions,
    subjects: pa.Array,
    prefixes: pa.Array,
    source_name: str,
    number: int,
    schema: pa.Schema,
) -> pa.Table:
    """Rows of `sequences` of region, subject, haplotype and digest by number, (4, rows) int64; texts that repeat as dictionaries."""
    region, subject, haplotype, digest = rows
    count = len(region)
    width = int(haplotype.max()) + 1
    numbers = pa.array([str(at + 1) for at in range(width)])
    names = regions.keys["region_id"]
    low, high = int(region[0]), int(region[-1]) + 1
    both = np.arange((high - low) * width)
    suffixes = pc.binary_join_element_wise(
        names.slice(low, high - low).take(pa.array(both // width)), numbers.take(pa.array(both % width)), "/"
    )
    ids = pc.binary_join_element_wise(
        prefixes.take(pa.array(subject)), suffixes.take(pa.array((region - low) * width + haplotype)), ""
    )
    made: dict[str, pa.Array] = {
        "sequence_id": ids,
        "sequence_digest": _coded(digest, regions.digests),
        "source_name": _coded(np.zeros(count, np.int64), pa.array([source_name])),
        "from_run": pa.array(np.full(count, number)),
        SUBJECT: _coded(subject, subjects),
        HAPLOTYPE: _coded(haplotype, numbers),
        **{name: _coded(region, values) for name, values in regions.keys.items()},
    }
    arrays = [made[field.name] if field.name in made else pa.nulls(count, field.type) for field in schema]
    return pa.Table.from_arrays(arrays, names=schema.names)


def _coded(places: np.ndarray, values: pa.Array) -> pa.Array:
    """Texts by place as a dictionary array with each that occurs once, which Parquet takes as it is."""
    used = np.zeros(len(values), bool)
    used[places] = True
    found = values.filter(pa.array(used)).dictionary_encode()
    codes = found.indices.take(pa.array((np.cumsum(used) - 1)[places]))
    return pa.DictionaryArray.from_arrays(codes, found.dictionary)

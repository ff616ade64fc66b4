"""Spill files by partitions: what a plan cannot hold in memory it writes down once and takes up a partition at a time.

They lie on the local disk, or on storage that all workers reach: a spill that has been closed can be sent to another process, whole or
in part, and several can be read as one.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO, Any, NamedTuple

import numpy as np
import pyarrow as pa

from dnafeat import storage

_BUFFER_BYTES = 8 * 2**20
# What a partition's piece of a full buffer has at least, on average, so that many partitions do not mean many small reads.
_PIECE_BYTES = 16 * 2**10
_CODEC = "zstd"
SUFFIX = ".spill"


class _Written(NamedTuple):
    """Rows of neighbouring partitions in a file: those of partition `first + i` lie from byte `ends[i]` to before `ends[i + 1]`."""

    uri: str
    first: int
    ends: np.ndarray

    def range(self, partition: int) -> tuple[int, int]:
        i = partition - self.first
        return (int(self.ends[i]), int(self.ends[i + 1])) if 0 <= i < len(self.ends) - 1 else (0, 0)

    def part(self, first: int, end: int) -> _Written | None:
        """What there is of the partitions from `first` to before `end`, which are counted from `first`; None where that is nothing."""
        low, high = max(first, self.first), min(end, self.first + len(self.ends) - 1)
        ends = self.ends[low - self.first : high - self.first + 1] if low < high else self.ends[:1]
        return _Written(self.uri, low - first, ends) if ends[-1] > ends[0] else None


class Spill:
    """Rows of one schema, found again by partition, in the order they came. Write with `add`, then `close`, then read.

    Rows wait in memory until there are 8 MiB of them (64 MiB with 4,096 partitions), so that a partition's pieces are no smaller than
    need be, and memory and open files do not grow with the rows.

    Parameters
    ----------
    folder : Path or str
        Local, or a URI.
    name : str
        No two spills of a folder may have the same.
    schema : pa.Schema
    partitions : int

    Attributes
    ----------
    uri : str
        The file; empty where it is made of others.
    counts : np.ndarray, shape=(partitions,), int64
        Rows of each.
    """

    def __init__(self, folder: Path | str, name: str, schema: pa.Schema, partitions: int = 1) -> None:
        self.schema, self.partitions = schema, partitions
        self.counts = np.zeros(partitions, np.int64)
        self.uri = storage.join(str(folder), f"{name}{SUFFIX}")
        self._file: IO[bytes] | None = None
        # One for every time that the buffer was written.
        self._written: list[_Written] = []
        self._waiting: list[tuple[pa.RecordBatch, np.ndarray | None]] = []
        self._waiting_bytes = 0
        self._buffer = max(_BUFFER_BYTES, partitions * _PIECE_BYTES)

    def __getstate__(self) -> dict[str, Any]:
        if self._file is not None or self._waiting:
            raise ValueError("a spill that is being written cannot be sent to another process")
        return self.__dict__

    @property
    def rows(self) -> int:
        return int(self.counts.sum())

    def add(self, batch: pa.RecordBatch, partition: np.ndarray | None = None) -> None:
        """Append a batch; `partition`, (rows,) int, sends each row to its partition; without it all go to the first."""
        if not len(batch):
            return
        self._waiting.append((batch, partition))
        self._waiting_bytes += batch.nbytes
        if self._waiting_bytes >= self._buffer:
            self._flush()

    def _flush(self) -> None:
        if not self._waiting:
            return
        whole = pa.Table.from_batches([batch for batch, _ in self._waiting], self.schema).combine_chunks()
        if self.partitions > 1:
            first = [np.zeros(len(batch), np.int64) if place is None else place for batch, place in self._waiting]
            place = np.concatenate(first)
            order = np.argsort(place, kind="stable")
            whole = whole.take(pa.array(order)).combine_chunks()
            starts = np.searchsorted(place[order], np.arange(self.partitions + 1))
        else:
            starts = np.array([0, len(whole)])
        if self._file is None:
            self._file = storage.create(self.uri)
        ends = [self._file.tell()]
        for first_row, end in itertools.pairwise(starts):
            for batch in whole.slice(first_row, end - first_row).to_batches():
                self._file.write(_packed(batch))
            ends.append(self._file.tell())
        self._written.append(_Written(self.uri, 0, np.array(ends)))
        self.counts += np.diff(starts)
        self._waiting, self._waiting_bytes = [], 0

    def close(self) -> None:
        self._flush()
        if self._file is not None:
            self._file.close()
            self._file = None

    def batches(self, partition: int = 0) -> Iterator[pa.RecordBatch]:
        """The batches of one partition, in the order they came."""
        wanted: list[tuple[str, int, int]] = []
        size = 0
        for written in self._written:
            start, end = written.range(partition)
            if end > start:
                wanted.append((written.uri, start, end))
                size += end - start
            if size >= _BUFFER_BYTES or (wanted and written is self._written[-1]):
                for data in storage.read_ranges(wanted):
                    yield from _unpacked(data, self.schema)
                wanted, size = [], 0

    def every_batch(self) -> Iterator[pa.RecordBatch]:
        """The batches of all partitions, one partition after the other."""
        for i in range(self.partitions):
            yield from self.batches(i)

    def table(self, partition: int = 0) -> pa.Table:
        """One partition as a whole."""
        return pa.Table.from_batches(self.batches(partition), self.schema)

    # -- parts of spills, and spills of parts --------------------------------------------------------------------------

    def part(self, first: int, end: int) -> Spill:
        """The partitions from `first` to before `end`, as a spill of their own over the same files."""
        found = Spill("", "", self.schema, end - first)
        found.counts = self.counts[first:end]
        found._written = [part for written in self._written if (part := written.part(first, end)) is not None]
        return found

    def each(self) -> list[Spill]:
        """The partitions one by one."""
        return [self.part(i, i + 1) for i in range(self.partitions)]

    def groups(self, size: int) -> list[Spill]:
        """Neighbouring partitions together until they have about `size` bytes as they lie; at least one group."""
        sizes = np.zeros(self.partitions, np.int64)
        for one in self._written:
            sizes[one.first : one.first + len(one.ends) - 1] += np.diff(one.ends)
        number = np.cumsum(sizes) // size
        first = np.flatnonzero(np.diff(number, prepend=-1))
        return [self.part(int(a), int(b)) for a, b in zip(first, [*first[1:], self.partitions], strict=True)]

    @classmethod
    def together(cls, spills: Sequence[Spill]) -> Spill:
        """Spills with the same partitions as one: each partition has the rows of all, those of the first one first."""
        found = Spill("", "", spills[0].schema, spills[0].partitions)
        found.counts = sum((spill.counts for spill in spills), found.counts)
        found._written = [one for spill in spills for one in spill._written]
        return found

    @classmethod
    def in_a_row(cls, spills: Sequence[Spill]) -> Spill:
        """Spills one after the other: the partitions of the second follow those of the first."""
        found = Spill("", "", spills[0].schema, sum(spill.partitions for spill in spills))
        found.counts = np.concatenate([spill.counts for spill in spills])
        before = 0
        for spill in spills:
            found._written += [one._replace(first=one.first + before) for one in spill._written]
            before += spill.partitions
        return found


def _packed(batch: pa.RecordBatch) -> bytes:
    """A batch as its packed length, its length, both 8 bytes, and an IPC message."""
    message = batch.serialize()
    packed = pa.Codec(_CODEC).compress(message)
    return np.array([packed.size, message.size], "<i8").tobytes() + packed.to_pybytes()


def _unpacked(data: bytes, schema: pa.Schema) -> Iterator[pa.RecordBatch]:
    at = 0
    while at < len(data):
        packed, size = (int(n) for n in np.frombuffer(data, "<i8", 2, at))
        at += 16
        message = pa.Codec(_CODEC).decompress(data[at : at + packed], decompressed_size=size)
        at += packed
        yield pa.ipc.read_record_batch(message, schema)

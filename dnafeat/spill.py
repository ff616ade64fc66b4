"""Spill to the local disk by partitions: what a plan cannot hold in memory it writes down once and takes up a partition at a time."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa

_BUFFER_BYTES = 8 * 2**20
_CODEC = "zstd"


class Spill:
    """Rows of one schema in one file, found again by partition, in the order they came. Write with `add`, then `close`, then read.

    Rows wait in memory until there are 8 MiB of them, so that a partition's pieces on the disk are no smaller than need be, and
    memory and open files do not grow with the number of partitions.
    """

    def __init__(self, folder: Path, name: str, schema: pa.Schema, partitions: int = 1) -> None:
        self.schema, self.partitions = schema, partitions
        self.rows = 0
        self._path = folder / f"{name}.spill"
        self._file = self._path.open("wb")
        # Where the pieces of each partition lie: offset, packed and unpacked length, all in bytes.
        self._pieces: list[list[tuple[int, int, int]]] = [[] for _ in range(partitions)]
        self._waiting: list[tuple[pa.RecordBatch, np.ndarray | None]] = []
        self._waiting_bytes = 0

    def add(self, batch: pa.RecordBatch, partition: np.ndarray | None = None) -> None:
        """Appends a batch; `partition`, (rows,) int, sends each row to its partition; without it all go to the first."""
        self.rows += len(batch)
        self._waiting.append((batch, partition))
        self._waiting_bytes += batch.nbytes
        if self._waiting_bytes >= _BUFFER_BYTES:
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
        for i in np.flatnonzero(np.diff(starts)):
            for batch in whole.slice(starts[i], starts[i + 1] - starts[i]).to_batches():
                self._write(int(i), batch)
        self._waiting, self._waiting_bytes = [], 0

    def _write(self, partition: int, batch: pa.RecordBatch) -> None:
        message = batch.serialize()
        packed = pa.Codec(_CODEC).compress(message)
        self._pieces[partition].append((self._file.tell(), packed.size, message.size))
        self._file.write(packed)

    def close(self) -> None:
        self._flush()
        self._file.close()

    def batches(self, partition: int = 0) -> Iterator[pa.RecordBatch]:
        """The batches of one partition, in the order they came."""
        with self._path.open("rb") as file:
            for offset, packed, size in self._pieces[partition]:
                file.seek(offset)
                message = pa.Codec(_CODEC).decompress(file.read(packed), decompressed_size=size)
                yield pa.ipc.read_record_batch(message, self.schema)

    def table(self, partition: int = 0) -> pa.Table:
        """One partition as a whole."""
        return pa.Table.from_batches(self.batches(partition), self.schema)

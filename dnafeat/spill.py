"""Partitioned spill files on the local disk: what a plan cannot hold in memory it writes down once and takes up a partition at a time."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa


class Spill:
    """Rows of one schema in `partitions` Arrow stream files below `folder`. Write with `add`, then `close`, then read."""

    def __init__(self, folder: Path, name: str, schema: pa.Schema, partitions: int = 1) -> None:
        self.schema, self.partitions = schema, partitions
        self._files = [folder / f"{name}-{i:04d}.arrows" for i in range(partitions)]
        self._writers: dict[int, pa.ipc.RecordBatchStreamWriter] = {}
        self.rows = 0

    def add(self, batch: pa.RecordBatch, partition: np.ndarray | None = None) -> None:
        """Appends a batch; `partition`, (rows,) int, sends each row to its file."""
        self.rows += len(batch)
        if partition is None or self.partitions == 1:
            self._write(0, batch)
            return
        order = np.argsort(partition, kind="stable")
        starts = np.searchsorted(partition[order], np.arange(self.partitions + 1))
        ordered = batch.take(pa.array(order))
        for i in np.flatnonzero(np.diff(starts)):
            self._write(int(i), ordered.slice(starts[i], starts[i + 1] - starts[i]))

    def _write(self, i: int, batch: pa.RecordBatch) -> None:
        if i not in self._writers:
            options = pa.ipc.IpcWriteOptions(compression="zstd")
            self._writers[i] = pa.ipc.new_stream(str(self._files[i]), self.schema, options=options)
        self._writers[i].write_batch(batch)

    def close(self) -> None:
        for writer in self._writers.values():
            writer.close()
        self._writers.clear()

    def batches(self, partition: int = 0) -> Iterator[pa.RecordBatch]:
        """The batches of one partition, in the order they came."""
        if self._files[partition].exists():
            with pa.OSFile(str(self._files[partition])) as file, pa.ipc.open_stream(file) as reader:
                yield from reader

    def table(self, partition: int = 0) -> pa.Table:
        """One partition as a whole."""
        return pa.Table.from_batches(self.batches(partition), self.schema)

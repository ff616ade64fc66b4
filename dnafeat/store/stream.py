"""A version's vectors for training with PyTorch: streamed in batches, shuffled, and dealt out over ranks and workers.

stream = dnafeat.VectorStream("s3://bucket/store", ["mean"], version="production", batch_size=512, even="drop")
for epoch in range(10):
    stream.set_epoch(epoch)
    for batch in DataLoader(stream, batch_size=None, num_workers=4):
        batch["mean"], batch["subject_id"]      # (512, width) float32, 512 texts
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from torch import distributed
from torch.utils.data import IterableDataset, get_worker_info

from dnafeat.errors import UsageError
from dnafeat.store.catalog import Store
from dnafeat.store.conditions import Where
from dnafeat.store.history import AsOf
from dnafeat.store.matrices import matrix
from dnafeat.store.pieces import pieces, read_piece
from dnafeat.store.reading import is_vector


class VectorStream(IterableDataset):
    """Batches of a version's entries with their vectors, each entry once an epoch over all ranks and workers.

    What is read is settled when this is made; what is published later is not seen. Ids and keys are held in memory, by each worker;
    vectors are read a row group at a time. It can be pickled, so that workers may be spawned, and so that a driver can make one and
    send it to all ranks. Ranks that each make their own must find the same files: compare `fingerprint` where a job may be
    publishing or maintaining meanwhile.

    Parameters
    ----------
    store : str | Store
    columns, version, source, as_of, where, run
        As `Store.read` takes them.
    batch_size : int
        Entries of a batch. The last batch of a rank may have fewer, unless `even` is given.
    shuffle : bool
        Whether the order is drawn from seed and epoch: row groups in a random order, and their entries through a buffer. Otherwise
        it is that of files, which is the same in each epoch and random in itself, since they are sorted by a digest.
    seed : int
    buffer_rows : int
        Entries that a worker mixes at a time; it holds these and a row group, twice while it mixes. 16,384 of 768 numbers are 50 MB.
    even : str | None
        None: ranks get numbers of batches that may differ by one. `drop`: as many whole batches each; fewer than a batch for each rank
        is left out, the last of the epoch's order. `repeat`: as many whole batches each, for which entries at the beginning of the
        epoch's order come again at its end.
    rank, world_size : int | None
        Which share this process reads, of how many. None: those of `torch.distributed` where it is initialised when iteration begins,
        else all.

    Attributes
    ----------
    version : str
        The feature version that is read.
    rows : int
        Entries of all ranks together.
    fingerprint : str
        Of what is read, in which pieces; the same for all ranks that read the same.

    Raises
    ------
    StoreError
        As `Store.read` does.
    UsageError
        A setting makes no sense, or `drop` would leave nothing.
    """

    def __init__(
        self,
        store: str | Store,
        columns: Sequence[str] | None = None,
        *,
        version: str | None = None,
        source: str | None = None,
        as_of: AsOf | None = None,
        where: Where | None = None,
        run: str | int | None = None,
        batch_size: int = 256,
        shuffle: bool = True,
        seed: int = 0,
        buffer_rows: int = 16_384,
        even: str | None = None,
        rank: int | None = None,
        world_size: int | None = None,
    ) -> None:
        for name, value in (("batch_size", batch_size), ("buffer_rows", buffer_rows)):
            if value < 1:
                raise UsageError(f"{name} {value} is too few: give 1 or more")
        if even not in (None, "drop", "repeat"):
            raise UsageError(f"even {even!r} is neither drop nor repeat: leave it out, or give one of them")
        if (rank is None) != (world_size is None) or (rank is not None and world_size is not None and not 0 <= rank < world_size):
            raise UsageError(f"rank {rank} of world_size {world_size} is none: give both, rank from 0 and below world_size")
        store = Store(store) if isinstance(store, str) else store
        reading = store.reading(version, columns, source, as_of, where, run)
        self.batch_size, self.shuffle, self.seed, self.buffer_rows, self.even = batch_size, shuffle, seed, buffer_rows, even
        self._share = (rank, world_size)
        self._uri, self.version = store.uri, reading.version
        self._entries, self._columns, self._pieces = reading.entries, reading.columns, pieces(reading)
        self.rows = sum(piece.rows for piece in self._pieces)
        identity = [
            reading.version,
            self.rows,
            *((piece.uri.rpartition("/")[2], piece.group, piece.rows) for piece in self._pieces),
        ]
        self.fingerprint = hashlib.sha256(repr(identity).encode()).hexdigest()[:16]
        # In shared memory, so that workers that live on from epoch to epoch see it, too.
        self._epoch = torch.zeros((), dtype=torch.int64).share_memory_()

    def __repr__(self) -> str:
        return (
            f"VectorStream({self._uri!r}, {list(self._columns)}, version={self.version!r}, rows={self.rows}, "
            f"batch_size={self.batch_size}, shuffle={self.shuffle}, fingerprint={self.fingerprint!r})"
        )

    def __getstate__(self) -> dict[str, Any]:
        """A spawned worker has no `torch.distributed`: its rank is sent along."""
        share = self._share if distributed_place() is None or self._share[0] is not None else distributed_place()
        return {**self.__dict__, "_share": share}

    def set_epoch(self, epoch: int) -> None:
        """Set the epoch that the next iteration draws its order from: call it before each."""
        self._epoch.fill_(epoch)

    def __len__(self) -> int:
        """Batches of this rank in an epoch, however many workers there are."""
        start, end = self._range()
        return -(-(end - start) // self.batch_size)

    def __iter__(self) -> Iterator[dict[str, Any]]:
        """Dicts by column: vectors (batch, width) float32 tensors, numbers (batch,) tensors, ids and keys lists of str or None."""
        info = get_worker_info()
        worker, workers = (info.id, info.num_workers) if info else (0, 1)
        start, end = self._range()
        # Workers take whole batches, so that their number does not change how many there are.
        first, last = (number * len(self) // workers * self.batch_size for number in (worker, worker + 1))
        own = self._tables(start + first, min(start + last, end), threads=info is None)
        if self.shuffle:
            own = _mixed(own, self.buffer_rows, np.random.default_rng([self.seed, int(self._epoch), start + first]))
        for table in _cut(own, self.batch_size):
            yield {name: _as_tensor(name, table[name]) for name in table.column_names}

    def _range(self) -> tuple[int, int]:
        """Places in the epoch's order, which begins anew at its end, that this rank reads: from, to before."""
        rank, world = self._share if self._share[0] is not None else distributed_place() or (0, 1)
        assert rank is not None
        assert world is not None
        if self.even is None:
            return rank * self.rows // world, (rank + 1) * self.rows // world
        batches = self.rows / (world * self.batch_size)
        own = (int(batches) if self.even == "drop" else -int(-batches // 1)) * self.batch_size
        if self.rows and not own:
            raise UsageError(
                f"{self.rows} entries are less than a batch of {self.batch_size} for each of {world} ranks: take smaller batches, or "
                f"even='repeat'"
            )
        return rank * own, (rank + 1) * own

    def _tables(self, start: int, end: int, *, threads: bool) -> Iterator[pa.Table]:
        """The entries at these places of the epoch's order, a piece at a time."""
        order = np.arange(len(self._pieces))
        if self.shuffle:
            np.random.default_rng([self.seed, int(self._epoch)]).shuffle(order)
        at = 0
        while at < end:
            for number in order:
                piece = self._pieces[number]
                first, last = max(start - at, 0), min(end - at, piece.rows)
                if first < last:
                    yield read_piece(piece, self._entries, self._columns, threads=threads).slice(first, last - first)
                at += piece.rows


def distributed_place() -> tuple[int, int] | None:
    """Rank and world size of `torch.distributed`, or None where it is not initialised."""
    if distributed.is_available() and distributed.is_initialized():
        return distributed.get_rank(), distributed.get_world_size()
    return None


def _mixed(tables: Iterator[pa.Table], buffer_rows: int, dice: np.random.Generator) -> Iterator[pa.Table]:
    """Rows through a buffer: whenever it is full it is shuffled, and half of it goes on."""
    held: list[pa.Table] = []
    for table in tables:
        held.append(table)
        rows = sum(map(len, held))
        if rows >= buffer_rows:
            mixed, stays = _shuffled(held, dice), buffer_rows // 2
            yield mixed.slice(stays)
            held = [mixed.slice(0, stays)]
    if held:
        yield _shuffled(held, dice)


def _shuffled(tables: Sequence[pa.Table], dice: np.random.Generator) -> pa.Table:
    whole = pa.concat_tables(tables)
    return whole.take(pa.array(dice.permutation(len(whole))))


def _cut(tables: Iterator[pa.Table], rows: int) -> Iterator[pa.Table]:
    """Tables of so many rows each, the last of fewer."""
    held: list[pa.Table] = []
    for table in tables:
        held.append(table)
        whole = pa.concat_tables(held)
        ends = len(whole) - len(whole) % rows
        for start in range(0, ends, rows):
            yield whole.slice(start, rows)
        held = [whole.slice(ends)]
    if held and len(held[0]):
        yield held[0]


def _as_tensor(name: str, column: pa.ChunkedArray) -> torch.Tensor | list[str | None]:
    if is_vector(name):
        # A copy of its own, which keeps nothing of the buffer alive.
        return torch.from_numpy(matrix(column).copy())
    return torch.from_numpy(column.to_numpy().copy()) if pa.types.is_integer(column.type) else column.to_pylist()

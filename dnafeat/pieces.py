"""Where the vectors of a reading lie: row groups and how many entries each serves, read one at a time and in any order."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from dnafeat import digests, storage
from dnafeat.matrices import end_to_end, fixed
from dnafeat.reading import Entries, Reading, is_vector, stored
from dnafeat.tables import DataFile

_AT_ONCE = 8  # files whose digests are read at a time


@dataclass(frozen=True)
class Piece:
    """A row group of a file of `features`, and the number of entries whose vectors stand in it."""

    uri: str
    group: int
    rows: int


def pieces(reading: Reading) -> list[Piece]:
    """All that hold something, in the order of paths; reads the digests of files in whose range an entry lies, and no vectors.

    Raises StoreError unless each entry has its vectors once.
    """
    files = sorted((file for file, _ in reading.features.files() if _may_hold(file, reading)), key=lambda file: file.path)
    seen = np.zeros(len(reading.entries), bool)
    found = []
    with ThreadPoolExecutor(_AT_ONCE) as pool:
        uris = [storage.join(reading.features.uri, file.path) for file in files]
        for uri, groups in zip(uris, pool.map(_digests, uris), strict=True):
            for number, names in enumerate(groups):
                at, _ = reading.entries.matching(names)
                reading.note(seen, at)
                if len(at):
                    found.append(Piece(uri, number, len(at)))
    reading.check_all(seen)
    return found


def _may_hold(file: DataFile, reading: Reading) -> bool:
    if file.partition["feature_version"] != reading.version:
        return False
    low, high = (str(ends["sequence_digest"]).encode() for ends in (file.minimum, file.maximum))
    sought = reading.entries.distinct
    return bool(np.searchsorted(sought, low) < np.searchsorted(sought, high, side="right"))


def _digests(uri: str) -> list[np.ndarray]:
    fs, path = storage.filesystem(uri)
    with storage.reached(uri), fs.open(path, "rb") as opened:
        file = pq.ParquetFile(opened)
        groups = range(file.num_row_groups)
        return [digests.to_numpy(file.read_row_group(i, columns=["sequence_digest"])["sequence_digest"]) for i in groups]


def read_piece(piece: Piece, entries: Entries, columns: Sequence[str], *, threads: bool = True) -> pa.Table:
    """The entries that a piece serves with their columns, as `Store.read` has them, always in one order."""
    fs, path = storage.filesystem(piece.uri)
    with storage.reached(piece.uri), fs.open(path, "rb") as opened:
        file = pq.ParquetFile(opened, pre_buffer=True)
        group = file.read_row_group(piece.group, columns=stored(columns), use_threads=threads).combine_chunks()
    batch = group.to_batches()[0]
    at, rows = entries.matching(digests.to_numpy(batch["sequence_digest"]))
    left, taken = entries.take(at), pa.array(rows)
    arrays = [
        end_to_end([fixed(batch[part]) for part in name.split("+")]).take(taken) if is_vector(name) else batch[name].take(taken)
        for name in columns
    ]
    return pa.Table.from_arrays([*left.columns, *arrays], names=[*left.column_names, *columns])

"""Row groups that hold the vectors of a reading, with the number of entries each serves; read one at a time, in any order."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from dnafeat import parquet, storage
from dnafeat.errors import MissingFileError
from dnafeat.store import digests
from dnafeat.store.data_file import DataFile
from dnafeat.store.lookup import Assembly
from dnafeat.store.matrices import end_to_end, fixed
from dnafeat.store.reading import Entries, Reading, is_vector, stored
from dnafeat.store.retry import looking_again

_AT_ONCE = 8  # files whose digests are read at a time


@dataclass(frozen=True)
class VectorPiece:
    """A row group of a file of `features`, and the number of entries whose vectors stand in it.

    `parents` are row groups, by file and number, with those vectors of its sequences that it may lack itself.
    """

    uri: str
    group: int
    rows: int
    parents: tuple[tuple[str, int], ...] = ()


def pieces(reading: Reading) -> list[VectorPiece]:
    """List the pieces with entries, in the order of paths. Reads the digests of files in whose range an entry lies, and no vectors.

    Raises StoreError unless each entry has its vectors once.
    """

    def newest() -> list[VectorPiece]:
        reading.features.reload().version()
        return _found(reading)

    try:
        return _found(reading)
    except MissingFileError:
        return looking_again(newest)


def _found(reading: Reading) -> list[VectorPiece]:
    lookup, distinct = reading.lookup(), reading.entries.distinct
    # Of each sequence the number of the parent's row group that has it, where vectors of the parent are wanted.
    of_parent = np.full(len(distinct), -1)
    parents: list[tuple[str, int]] = []
    for uri, number, names in _groups(reading, lookup.parent) if lookup is not None and lookup.parent is not None else ():
        of_parent[digests.present(distinct, names)] = len(parents)
        parents.append((uri, number))
    seen = np.zeros(len(reading.entries), bool)
    found = []
    for uri, number, names in _groups(reading, reading.version):
        at, _ = reading.entries.matching(names)
        reading.note(seen, at)
        if len(at):
            beside = np.unique(of_parent[digests.present(distinct, names)])
            found.append(VectorPiece(uri, number, len(at), tuple(parents[i] for i in beside if i >= 0)))
    reading.check_all(seen)
    return found


def _groups(reading: Reading, version: str) -> Iterator[tuple[str, int, np.ndarray]]:
    """File, number and digests of each row group of a version's files in whose range an entry lies, in the order of paths."""
    files = sorted(
        (file for file, _ in reading.features.files() if _may_hold(file, reading, version)), key=lambda file: file.path
    )
    with ThreadPoolExecutor(_AT_ONCE) as pool:
        uris = [storage.join(reading.features.uri, file.path) for file in files]
        for uri, groups in zip(uris, pool.map(_digests, uris), strict=True):
            for number, names in enumerate(groups):
                yield uri, number, names


def _may_hold(file: DataFile, reading: Reading, version: str) -> bool:
    if file.partition["feature_version"] != version:
        return False
    low, high = (str(ends["sequence_digest"]).encode() for ends in (file.minimum, file.maximum))
    return digests.any_between(reading.entries.distinct, low, high)


def _digests(uri: str) -> list[np.ndarray]:
    with storage.reached(uri), parquet.opened(uri) as file:
        groups = range(file.num_row_groups)
        return [digests.to_numpy(file.read_row_group(i, columns=["sequence_digest"])["sequence_digest"]) for i in groups]


def read_piece(piece: VectorPiece, entries: Entries, columns: Sequence[str], *, threads: bool = True) -> pa.Table:
    """The entries that a piece serves with their columns, as `Store.read` has them, always in one order."""
    batch = _group(piece.uri, piece.group, stored(columns), threads)
    if piece.parents:
        own = digests.to_numpy(batch["sequence_digest"])
        names = entries.distinct[digests.present(entries.distinct, own)]
        made = Assembly(names, stored(columns), piece.uri.rpartition("/features/")[0], "the version")
        made.add(batch, own=True)
        for uri, number in piece.parents if made.wanted() else ():
            made.add(_group(uri, number, ["sequence_digest", *made.wanted()], threads), own=False)
        batch = made.batch()
    at, rows = entries.matching(digests.to_numpy(batch["sequence_digest"]))
    left, taken = entries.take(at), pa.array(rows)
    arrays = [
        end_to_end([fixed(batch[part]) for part in name.split("+")]).take(taken) if is_vector(name) else batch[name].take(taken)
        for name in columns
    ]
    return pa.Table.from_arrays([*left.columns, *arrays], names=[*left.column_names, *columns])


def _group(uri: str, number: int, columns: Sequence[str], threads: bool) -> pa.RecordBatch:
    """A row group's columns, without those that its file does not have."""
    try:
        with storage.reached(uri), parquet.opened(uri, pre_buffer=True) as file:
            return file.read_row_group(number, columns=list(columns), use_threads=threads).combine_chunks().to_batches()[0]
    except MissingFileError as error:
        raise MissingFileError(f"{uri} was replaced and deleted, as after an erasure: make the stream again") from error

"""Sequence digests by the million: Arrow strings as fixed-width NumPy bytes, and the partitions of their value range."""

from __future__ import annotations

import zlib

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from dnafeat.keys import spelled

WIDTH = 35
DTYPE = np.dtype(f"S{WIDTH}")
MAX_PARTITIONS = 4096

# Place of each base64url letter in ASCII order, so that partitions are ranges of the sorted digests.
_RANK = np.zeros(256, np.int64)
for _i, _letter in enumerate(sorted(b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_")):
    _RANK[_letter] = _i


def to_numpy(column: pa.Array | pa.ChunkedArray) -> np.ndarray:
    """(n,) of dtype S35 from an Arrow string column of digests, without a Python object for each. Raises ValueError for others."""
    if isinstance(column, pa.ChunkedArray):
        return np.concatenate([to_numpy(chunk) for chunk in column.chunks]) if column.num_chunks else np.empty(0, DTYPE)
    if len(column) == 0:
        return np.empty(0, DTYPE)
    if pa.types.is_dictionary(column.type):
        column = column.dictionary_decode()
    column = column.cast(pa.string())
    offsets = np.frombuffer(column.buffers()[1], np.int32)[column.offset : column.offset + len(column) + 1]
    if column.null_count or not (np.diff(offsets) == WIDTH).all():
        raise ValueError("not a column of sequence digests")
    return np.frombuffer(column.buffers()[2], DTYPE, count=len(column), offset=int(offsets[0]))


def to_arrow(digests: np.ndarray) -> pa.Array:
    """An Arrow string array from (n,) of dtype S35."""
    offsets = np.arange(0, (len(digests) + 1) * WIDTH, WIDTH, dtype=np.int32)
    return pa.StringArray.from_buffers(len(digests), pa.py_buffer(offsets), pa.py_buffer(np.ascontiguousarray(digests)))


def partition(digests: np.ndarray, partitions: int) -> np.ndarray:
    """Number of the range each digest falls into, (n,) int64: ranges are about equally full and in the digests' own order."""
    letters = np.ascontiguousarray(digests).view(np.uint8).reshape(len(digests), WIDTH)
    return (_RANK[letters[:, 3]] * 64 + _RANK[letters[:, 4]]) * partitions // MAX_PARTITIONS


def located(wanted: np.ndarray, other: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Find which of `other` digests are in the sorted `wanted`: their rows in `other`, and for each its place in `wanted`; both int64."""
    if not len(wanted):
        return np.empty(0, np.int64), np.empty(0, np.int64)
    place = np.searchsorted(wanted, other)
    place[place == len(wanted)] = 0
    rows = np.flatnonzero(wanted[place] == other)
    return rows, place[rows]


def present(wanted: np.ndarray, other: np.ndarray) -> np.ndarray:
    """Places in the sorted `wanted` of those `other` digests that are in it, as an int64 array."""
    return located(wanted, other)[1]


def between(wanted: np.ndarray, low: bytes, high: bytes) -> slice:
    """Where the sorted `wanted` has the digests from `low` to `high`, both included."""
    return slice(int(np.searchsorted(wanted, low)), int(np.searchsorted(wanted, high, side="right")))


def any_between(wanted: np.ndarray, low: bytes, high: bytes) -> bool:
    """Whether one of the sorted `wanted` is from `low` to `high`, both included."""
    found = between(wanted, low, high)
    return found.start < found.stop


def netstring(column: pa.Array | pa.ChunkedArray) -> pa.Array | pa.ChunkedArray:
    """Each text with its length in bytes before it, `-` for a null: no text can then pass for the end of one and the start of another."""
    length = pc.cast(pc.binary_length(column), pa.string())
    return pc.fill_null(pc.binary_join_element_wise(length, column, ":"), "-")


def id_partition(ids: pa.Array, partitions: int) -> np.ndarray:
    """The partition of each `sequence_id`, (n,) int64. What is compared by id must be dealt by this and by nothing else.

    Ids that `dnafeat.keys` spells alike share one: older stores hold some that are not spelled by the rule.
    """
    ids = spelled(ids)
    return np.fromiter((zlib.crc32(one.encode()) % partitions for one in ids.to_pylist()), np.int64, len(ids))

"""The layout of a cohort's rows in `sequences`: files by bucket of subjects and run of regions, sorted by region and subject.

An erasure rewrites the files of one bucket, and a read of some genes opens the files and row groups of their regions. A file says in its
footer which bucket it has, and has statistics of regions in the log; whoever rewrites one keeps its layout (`packing_of`).
"""

from __future__ import annotations

import zlib
from collections.abc import Iterable
from typing import NamedTuple

import numpy as np

from dnafeat import parquet, storage
from dnafeat.parquet import DISTINCT, Packing
from dnafeat.store.data_file import DataFile
from dnafeat.store.snapshot import TableSnapshot

MEASURED = ("region_id", "gene_id")
"""Keys with statistics, neither of which is personal."""

ORDER = ("source_name", "region_id", "subject_id", "sequence_id", "from_run")
"""Of the rows of a file."""

# Rows of a table from which on it is cut.
_CUT_ROWS = 10_000_000
_FEWEST_BUCKETS = 64
# Subjects that a bucket has at least.
_SUBJECTS = 512
# Rows that a bucket of one run has at least, on average: a share of those.
_SHARE = 640
_NOTE = "dnafeat.bucket"
# Rows of a row group.
GROUP_ROWS = 131_072


class Cut(NamedTuple):
    """A bucket of subjects, and how many there are."""

    bucket: int
    of: int

    @property
    def packing(self) -> Packing:
        """How the rows of a file of it are packed: their ids differ, and few digests are near each other."""
        return Packing(("sequence_id",), ("from_run",), GROUP_ROWS, MEASURED, {_NOTE: f"{self.bucket}/{self.of}"})


def buckets(subjects: int, new: int, stored: int = 0) -> int:
    """Into how many buckets the rows of a run are cut, beside those that are stored: a power of two.

    1 where all are fewer than ten million; 64, and from each tenfold on twice as many, up to 256. Fewer where a bucket would have under
    512 subjects: each file has the digests of its regions, and with few people a region they would be most of it. A run of few rows is
    not cut: each bucket of it would be a file of its own.
    """
    rows = new + stored
    if rows < _CUT_ROWS:
        return 1
    count = _FEWEST_BUCKETS * 2 ** sum(rows >= more * _CUT_ROWS for more in (10, 100))
    count = min(count, 1 << max(0, (subjects // _SUBJECTS).bit_length() - 1))
    return count if new >= count * _CUT_ROWS // _SHARE else 1


def bucket_of(subjects: Iterable[str], count: int) -> np.ndarray:
    """The bucket of each subject, (n,) int64: CRC-32 of the name's UTF-8, modulo `count`."""
    return np.fromiter((zlib.crc32(name.encode()) % count for name in subjects), np.int64)


def is_cut(file: DataFile) -> bool:
    """Return whether the log has a file of `sequences` as one of this layout."""
    return MEASURED[0] in file.minimum


def cut_of(table: TableSnapshot, path: str) -> Cut | None:
    """Read from the footer of a file which bucket it has; None where it has another layout."""
    uri = storage.join(table.uri, path)
    with storage.reached(uri), parquet.opened(uri) as file:
        note = (file.metadata.metadata or {}).get(_NOTE.encode())
    bucket, slash, count = (note or b"").decode("utf-8", "replace").partition("/")
    return Cut(int(bucket), int(count)) if slash and bucket.isdecimal() and count.isdecimal() else None


def packing_of(table: TableSnapshot, path: str) -> Packing:
    """How a file that takes the place of another is packed."""
    cut = cut_of(table, path) if table.name == "sequences" else None
    return cut.packing if cut else DISTINCT

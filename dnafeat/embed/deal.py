"""How entries, and the rows that they are compared with, are dealt out to the partitions of a plan."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from dnafeat.store.digests import id_partition


@dataclass(frozen=True)
class Deal:
    """By hash of `sequence_id`, or where there are bounds by ranges of `region_id`.

    Attributes
    ----------
    bounds : tuple of str or None
        The first region of each partition but the first, sorted. An entry's id tells its region, so that what is compared by id meets.
    """

    bounds: tuple[str, ...] | None = None

    def __call__(self, rows: pa.Table | pa.RecordBatch, partitions: int) -> np.ndarray:
        """The partition of each row, (rows,) int64."""
        if self.bounds is None:
            ids = rows["sequence_id"]
            return id_partition(ids.combine_chunks() if isinstance(ids, pa.ChunkedArray) else ids, partitions)
        if "region_id" not in rows.schema.names:
            return np.zeros(len(rows), np.int64)
        coded = pc.fill_null(rows["region_id"], "")
        coded = (coded.combine_chunks() if isinstance(coded, pa.ChunkedArray) else coded).dictionary_encode()
        return self.of(coded.dictionary.to_pylist())[coded.indices.to_numpy()]

    def of(self, regions: list[str]) -> np.ndarray:
        """The partition of each of some regions, (regions,) int64."""
        return np.searchsorted(np.array(self.bounds or (), object), np.array(regions, object), side="right").astype(np.int64)

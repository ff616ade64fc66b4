"""Row groups of a version's files with one vector column, read ahead by as many threads as there are cores."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from dnafeat import parquet, storage
from dnafeat.errors import StoreError
from dnafeat.store import digests
from dnafeat.store.matrices import fixed, matrix
from dnafeat.store.snapshot import TableSnapshot

_NAME = "sequence_digest"
_MOST_THREADS = 8  # each holds a row group, 50 MB of 768 numbers
_ROWS = 4_096


def vector_groups(
    features: TableSnapshot, version: str, column: str, parts: Iterable[str] | None = None
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Digests, (n,) of dtype S35, and vectors, (n, width) float32, of the rows of a version that have one, in the order of files.

    Parameters
    ----------
    parts : iterable of str | None
        Some of the version's files; None: all.

    Raises
    ------
    StoreError
        A file is gone, damaged or cannot be read, or vectors are not all as wide.
    """
    paths = list(parts) if parts is not None else files_of(features, version)
    threads = min(_MOST_THREADS, len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1)
    width = 0
    with ThreadPoolExecutor(threads) as pool:
        for names, vectors in _ahead(pool, threads, _tasks(features, paths, column)):
            width = width or vectors.shape[1]
            if vectors.shape[1] != width:
                store = features.uri.rpartition("/")[0]
                raise StoreError(
                    f"{store} is damaged: {column} vectors of version {version} are {width} and {vectors.shape[1]} wide"
                )
            yield names, vectors


def files_of(features: TableSnapshot, version: str) -> list[str]:
    """Paths of a version's files at the snapshot, sorted."""
    return sorted(file.path for file, _ in features.files() if file.partition.get("feature_version") == version)


Part = tuple[np.ndarray, np.ndarray]
Task = Callable[[], list[Part]]


def _tasks(features: TableSnapshot, paths: Iterable[str], column: str) -> Iterator[Task]:
    for path in paths:
        uri = storage.join(features.uri, path)
        with storage.reached(uri), parquet.opened(uri) as file:
            features.check_columns(file.schema_arrow.names, path)
            count = file.num_row_groups if column in file.schema_arrow.names else 0
        for number in range(count):
            yield lambda uri=uri, number=number: _read(uri, number, column)  # type: ignore[misc]


def _read(uri: str, number: int, column: str) -> list[Part]:
    with storage.reached(uri), parquet.opened(uri, **parquet.PAGED) as file:
        batches = file.iter_batches(_ROWS, row_groups=[number], columns=[_NAME, column], use_threads=False)
        return [part for batch in batches if len((part := _part(batch, column))[0])]


def _part(batch: pa.RecordBatch, column: str) -> Part:
    there = batch.filter(pc.is_valid(batch[column])) if batch[column].null_count else batch
    if not len(there):
        return np.empty(0, digests.DTYPE), np.empty((0, 0), np.float32)
    return digests.to_numpy(there[_NAME]), matrix(fixed(there[column]))


def _ahead(pool: ThreadPoolExecutor, count: int, tasks: Iterator[Task]) -> Iterator[Part]:
    """Results of tasks in their order, some of which are at work while one is used."""
    waiting: deque[Future[list[Part]]] = deque()
    for task in tasks:
        waiting.append(pool.submit(task))
        if len(waiting) >= count:
            yield from waiting.popleft().result()
    while waiting:
        yield from waiting.popleft().result()

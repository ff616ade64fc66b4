"""Erasure from unfinished runs: work shards, and vector files that no commit names yet."""

from __future__ import annotations

import re

import numpy as np
import pyarrow as pa

from dnafeat import parquet, storage
from dnafeat.errors import DamagedError, StoreError
from dnafeat.parquet import write_parquet
from dnafeat.spill import SUFFIX
from dnafeat.store import digests
from dnafeat.store import vector_files as vectorfiles
from dnafeat.store.catalog import Store
from dnafeat.store.data_file import Change, DataFile
from dnafeat.store.ownership import work_of
from dnafeat.store.rewriting import DRAFTS, Draft, raised, settle, without

# Names of work shards (`plan`).
_SHARD = re.compile(r"shard-[0-9]+\.parquet|check\.parquet")
# What reading a file raises that is gone, or that dnafeat has not written.
UNREADABLE = (*storage.STORAGE_ERRORS, pa.ArrowException, KeyError, StoreError)


def take_uncommitted(store: Store, gone: np.ndarray) -> int:
    """Remove the vector files that no commit names and that hold some of the digests; their other rows are written anew.

    Not those of a draft: they stand in the table too, whose owner makes another. A copy would have no owner, and might hold what
    another erasure, which has looked before it was there, is erasing.
    """
    table = store.features
    rewritten: dict[str, DataFile | None] = {}
    removed: list[str] = []

    def change(_: Draft) -> Change | None:
        nonlocal removed
        removed = []
        for listed in table.uncommitted():
            version = listed.path.partition("/")[0].partition("=")[2]
            receipt = vectorfiles.read_receipt(table, listed.path, listed.size, version)
            try:
                if receipt is None or not np.isin(vectorfiles.read_digests(table, listed.path), gone).any():
                    continue
                if listed.path not in rewritten:
                    draft = storage.name(listed.path).startswith(DRAFTS)
                    rewritten[listed.path] = None if draft else without(table, receipt.file, gone, "left")
            except UNREADABLE:
                continue
            removed.append(listed.path)
        return Change(removed=removed, transactions=raised(table), rows_change=False) if removed else None

    if len(gone):
        settle(table, change)
    for path, new in rewritten.items():
        if path not in removed and new is not None:
            # Another erasure has done it, and this file might hold what it has erased.
            storage.remove(storage.join(table.uri, new.path))
    return len(removed)


def take_work(store: Store, gone: np.ndarray) -> int:
    """Erase sequences from the work shards of live and dead runs, and remove what these have spilled."""
    rows = 0
    folder = storage.join(store.uri, "work")
    for listed in storage.listing(folder):
        uri = storage.join(folder, listed.path)
        if work_of(f"work/{listed.path}") is None:
            # Whoever has put it there.
            continue
        if listed.path.endswith(SUFFIX):
            storage.remove(uri)
        if not listed.path.endswith(".parquet") or not len(gone):
            continue
        try:
            shard = parquet.read(uri)
            stays = ~np.isin(digests.to_numpy(shard["sequence_digest"]), gone)
        except DamagedError:
            # Nobody can say whose it holds, and its run can cut it anew.
            if _SHARD.fullmatch(storage.name(listed.path)):
                storage.remove(uri)
            continue
        except UNREADABLE:
            # Its run has ended meanwhile, or it is none of ours.
            continue
        if stays.all():
            continue
        rows += int((~stays).sum())
        if stays.any():
            write_parquet(uri, [shard.filter(pa.array(stays))])
        else:
            storage.remove(uri)
    return rows

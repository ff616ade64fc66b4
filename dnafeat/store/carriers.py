"""How many entries have each haplotype of a region: counted in `sequences`, and kept in `haplotypes`."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds

from dnafeat.store import digests
from dnafeat.store.data_file import Change, DataFile
from dnafeat.store.rewriting import BATCH_ROWS, Draft, raised, settle
from dnafeat.store.table import Table

REGION = "region_id"
COUNTED = pa.schema([(REGION, pa.string()), ("sequence_digest", pa.string()), ("carriers", pa.int64())])


def stood_at(number: int) -> pc.Expression:
    """The rows that are current as of a run's number."""
    return (ds.field("from_run") <= number) & (ds.field("until_run").is_null() | (ds.field("until_run") > number))


def counted(sequences: Table, source_name: str, number: int) -> Iterator[pa.Table]:
    """Count entries by region and digest as of a run, at the table's snapshot; a pair may come several times. Columns: `COUNTED`."""
    if REGION not in sequences.schema().names:
        return
    where = (ds.field("source_name") == source_name) & ds.field(REGION).is_valid() & stood_at(number)
    pruned = [("source_name", "=", source_name)]
    for batch in sequences.batches([REGION, "sequence_digest"], where, pruned, BATCH_ROWS):
        found = pa.Table.from_batches([batch]).group_by([REGION, "sequence_digest"]).aggregate([([], "count_all")])
        yield found.rename_columns(COUNTED.names).cast(COUNTED)


def recount(
    haplotypes: Table, sequences: Table, affected: np.ndarray, goes: Callable[[pa.Table | pa.RecordBatch], np.ndarray]
) -> int:
    """Count the carriers of some haplotypes anew without the entries that are erased, and drop those that nobody has.

    A row is counted as of its first run. It is called before the entries are erased, when it is known whose they are, and after that
    once more: a run that has counted them meanwhile is refused by the commit, and counts again.

    Parameters
    ----------
    affected : np.ndarray, shape=(n,), S35
        Sorted digests of the erased entries.
    goes : callable
        Which of some rows of `sequences` are erased, (rows,) bool.

    Returns
    -------
    int
        Rows that were dropped.
    """
    if not len(affected) or not haplotypes.exists():
        return 0
    dropped = 0

    def change(draft: Draft) -> Change | None:
        nonlocal dropped
        dropped = 0
        added: list[DataFile] = []
        removed: list[str] = []
        numbers = _numbers(haplotypes, affected)
        counts = _carriers(sequences.reload(), numbers, affected, goes)
        for path in haplotypes.paths():
            rows = haplotypes.read_file(path)
            own = _is_affected(rows, affected)
            if not own.any():
                continue
            kept, gone = _recounted(rows, own, counts)
            if kept is None:
                continue
            dropped, removed = dropped + gone, [*removed, path]
            if len(kept):
                added.append(draft(haplotypes.write(kept, stem=f"kept-{uuid.uuid4().hex}")))
        return Change(added=added, removed=removed, transactions=raised(haplotypes))

    settle(haplotypes, change)
    return dropped


def _is_affected(rows: pa.Table | pa.RecordBatch, affected: np.ndarray) -> np.ndarray:
    names = digests.to_numpy(rows["sequence_digest"])
    place = np.searchsorted(affected, names)
    place[place == len(affected)] = 0
    return affected[place] == names


def _numbers(haplotypes: Table, affected: np.ndarray) -> list[int]:
    """The first runs of the affected rows."""
    found: set[int] = set()
    for batch in haplotypes.batches(["sequence_digest", "from_run"], pc.scalar(True), [], BATCH_ROWS):
        found.update(np.unique(batch["from_run"].to_numpy()[_is_affected(batch, affected)]).tolist())
    return sorted(found)


def _carriers(
    sequences: Table, numbers: list[int], affected: np.ndarray, goes: Callable[[pa.Table | pa.RecordBatch], np.ndarray]
) -> Mapping[tuple[str, str, str, int], int]:
    """Entries that stay, by source, region, digest and the run as of which they are counted."""
    counts: dict[tuple[str, str, str, int], int] = {}
    names = sequences.schema().names
    if REGION not in names:
        return counts
    for batch in sequences.batches(names, ds.field(REGION).is_valid(), [], BATCH_ROWS):
        left = batch.filter(pa.array(_is_affected(batch, affected) & ~goes(batch)))
        first, until = left["from_run"].to_numpy(), pc.fill_null(left["until_run"], np.iinfo(np.int64).max).to_numpy()
        table = pa.Table.from_batches([left]).select(["source_name", REGION, "sequence_digest"])
        for number in numbers:
            some = table.filter(pa.array((first <= number) & (until > number)))
            for row in some.group_by(some.column_names).aggregate([([], "count_all")]).to_pylist():
                key = row["source_name"], row[REGION], row["sequence_digest"], number
                counts[key] = counts.get(key, 0) + row["count_all"]
    return counts


def _recounted(rows: pa.Table, own: np.ndarray, counts: Mapping[tuple[str, str, str, int], int]) -> tuple[pa.Table | None, int]:
    """Rows with their carriers as counted, and how many are left out; None where nothing changes."""
    carriers = rows["carriers"].to_numpy().copy()
    some: list[dict[str, Any]] = (
        rows.filter(pa.array(own)).select(["source_name", REGION, "sequence_digest", "from_run"]).to_pylist()
    )
    carriers[own] = [counts.get(tuple(row.values()), 0) for row in some]
    if (carriers == rows["carriers"].to_numpy()).all():
        return None, 0
    place = rows.schema.get_field_index("carriers")
    changed = rows.set_column(place, rows.schema.field(place), pa.array(carriers))
    return changed.filter(pc.greater(changed["carriers"], 0)), int((carriers == 0).sum())

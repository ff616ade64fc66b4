"""How many entries have each haplotype of a region: counted in `sequences`, and kept in `haplotypes`."""

from __future__ import annotations

import functools
import uuid
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds

from dnafeat.store import digests
from dnafeat.store.damage import Damage, Rows
from dnafeat.store.data_file import Change, DataFile
from dnafeat.store.rewriting import BATCH_ROWS, EVERY, Draft, raised, settle
from dnafeat.store.table import Table
from dnafeat.store.unfinished import UNREADABLE

REGION = "region_id"
_COUNTED_BY = ["source_name", REGION, "sequence_digest"]
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
    haplotypes: Table,
    sequences: Table,
    affected: np.ndarray,
    goes: Callable[[pa.Table | pa.RecordBatch], np.ndarray],
    damage: Damage,
) -> int:
    """Count the carriers of some haplotypes anew without the entries that are erased, and drop those that nobody has.

    A row is counted as of its first run. It is called before the entries are erased, when it is known whose they are, and after that
    once more: a run that has counted them meanwhile is refused by the commit, and counts again. Entries in damaged files are not counted,
    which the source's next run does. Files of the table that a run is about to add go as a whole where they name one of them: the run
    began before this erasure and is refused.

    Parameters
    ----------
    affected : np.ndarray, shape=(n,), S35
        Sorted digests of the erased entries.
    goes : callable
        Which of some rows of `sequences` are erased, (rows,) bool.
    damage : Damage
        Gets the damaged files, which stay as they are.

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
        # Before this commit's own files are written.
        removed = [listed.path for listed in haplotypes.uncommitted() if _names_some(haplotypes, listed.path, affected)]
        numbers = _numbers(haplotypes, affected, damage)
        counts = _carriers(sequences.reload(), numbers, affected, goes, damage)
        for path in haplotypes.paths():
            with damage.noted():
                rows = haplotypes.read_file(path)
                kept, gone = _recounted(rows, _is_affected(rows, affected), counts)
                if kept is None:
                    continue
                dropped, removed = dropped + gone, [*removed, path]
                if len(kept):
                    added.append(draft(haplotypes.write(kept, stem=f"kept-{uuid.uuid4().hex}")))
        return Change(added=added, removed=removed, transactions=raised(haplotypes))

    settle(haplotypes, change)
    return dropped


def _is_affected(rows: pa.Table | pa.RecordBatch, affected: np.ndarray) -> np.ndarray:
    mask = np.zeros(len(rows), bool)
    mask[digests.located(affected, digests.to_numpy(rows["sequence_digest"]))[0]] = True
    return mask


def _names_some(haplotypes: Table, path: str, affected: np.ndarray) -> bool:
    """Whether a file that no commit has named names an affected haplotype; of one that cannot be read nothing is known."""
    try:
        return any(_is_affected(piece, affected).any() for piece in haplotypes.pieces(path, committed=False))
    except UNREADABLE:
        return False


def _numbers(haplotypes: Table, affected: np.ndarray, damage: Damage) -> list[int]:
    """The first runs of the affected rows."""
    columns = ["sequence_digest", "from_run"]

    def numbers(every: Rows) -> list[int]:
        found: set[int] = set()
        for rows in every:
            found.update(np.unique(rows["from_run"].to_numpy()[_is_affected(rows, affected)]).tolist())
        return sorted(found)

    return damage.spared(haplotypes, columns, lambda: haplotypes.batches(columns, EVERY, [], BATCH_ROWS), numbers)


def _carriers(
    sequences: Table,
    numbers: list[int],
    affected: np.ndarray,
    goes: Callable[[pa.Table | pa.RecordBatch], np.ndarray],
    damage: Damage,
) -> Mapping[tuple[str, str, str, int], int]:
    """Entries that stay, by source, region, digest and the run as of which they are counted."""
    names = sequences.schema().names
    if REGION not in names:
        return {}

    def counted(every: Rows) -> Mapping[tuple[str, str, str, int], int]:
        counts: dict[tuple[str, str, str, int], int] = {}
        for rows in every:
            left = rows.filter(pa.array(_is_affected(rows, affected) & ~goes(rows)))
            first, until = left["from_run"].to_numpy(), pc.fill_null(left["until_run"], np.iinfo(np.int64).max).to_numpy()
            table = (left if isinstance(left, pa.Table) else pa.Table.from_batches([left])).select(_COUNTED_BY)
            for number in numbers:
                some = table.filter(pa.array((first <= number) & (until > number)))
                for row in some.group_by(_COUNTED_BY).aggregate([([], "count_all")]).to_pylist():
                    key = row["source_name"], row[REGION], row["sequence_digest"], number
                    counts[key] = counts.get(key, 0) + row["count_all"]
        return counts

    scan = functools.partial(sequences.batches, names, ds.field(REGION).is_valid(), [], BATCH_ROWS)
    return damage.spared(sequences, names, scan, counted)


def _recounted(rows: pa.Table, own: np.ndarray, counts: Mapping[tuple[str, str, str, int], int]) -> tuple[pa.Table | None, int]:
    """Rows with their carriers as counted, and how many are left out; None where nothing changes."""
    if not own.any():
        return None, 0
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

"""The commit that brings a source's rows in `haplotypes` up to its entries."""

from __future__ import annotations

import uuid
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from dnafeat import storage
from dnafeat.embed.intake import Intake
from dnafeat.spill import Spill
from dnafeat.store import Store
from dnafeat.store.carriers import COUNTED, counted
from dnafeat.store.data_file import Change, DataFile
from dnafeat.store.rewriting import Draft, settle
from dnafeat.store.schema import arrow_schema
from dnafeat.store.table import Table

_KEY = ("region_id", "sequence_digest")


@dataclass
class _Update:
    """What a commit changes: places of rows to close by file, and rows to open."""

    closing: dict[str, list[int]] = field(default_factory=dict)
    opening: list[pa.Table] = field(default_factory=list)


def commit_haplotypes(store: Store, source_name: str, intake: Intake, number: int, stem: str, folder: Path | str) -> None:
    """Close the rows of haplotypes whose carriers have changed since the last run, and open others.

    Carriers are counted in `sequences` as of the run, so that entries of an earlier run in mode merge count, too. In memory are the
    haplotypes of a partition of regions. Does nothing where the source is no cohort and none was there before.

    Parameters
    ----------
    number : int
        The run's.
    stem : str
        How the names of files begin.
    """
    if intake.coded is None and not store.haplotypes.exists():
        return
    store.haplotypes.create()
    partitions = intake.entries.partitions if intake.coded is not None else 1

    def change(draft: Draft) -> Change | None:
        table, update = store.haplotypes, _Update()
        # After the snapshot is loaded: an erasure that comes between refuses the commit.
        counts = _counts(store, source_name, intake, number, partitions, folder)
        before = _before(table, source_name, intake, partitions, folder)
        for at in range(partitions):
            rows = intake.coded.rows_of_regions(at) if intake.coded is not None else ()
            _compare(counts.table(at), before.table(at), rows, source_name, number, update)
        added = [draft(_closed(table, path, rows, number, stem)) for path, rows in update.closing.items()]
        if update.opening:
            added.append(draft(table.write(update.opening, stem=stem)))
        return Change(added=added, removed=list(update.closing)) if added else None

    settle(store.haplotypes, change)


def _places(intake: Intake, batch: pa.RecordBatch, partitions: int) -> np.ndarray | None:
    """The partition of each row; of a source that is no cohort all are in one, and are not dealt out by region."""
    return intake.deal(batch, partitions) if partitions > 1 else None


def _counts(store: Store, source_name: str, intake: Intake, number: int, partitions: int, folder: Path | str) -> Spill:
    """The carriers in `sequences` as of a run, by partition of regions."""
    spill = Spill(storage.join(str(folder), uuid.uuid4().hex), "carriers", COUNTED, partitions)
    for table in counted(store.sequences.reload(), source_name, number):
        for batch in table.combine_chunks().to_batches():
            spill.add(batch, _places(intake, batch, partitions))
    spill.close()
    return spill


def _before(table: Table, source_name: str, intake: Intake, partitions: int, folder: Path | str) -> Spill:
    """The open rows of a source with their places, by partition of regions."""
    schema = arrow_schema("haplotypes")
    schema = pa.schema([*schema, ("path", pa.string()), ("place", pa.int64())])
    spill = Spill(storage.join(str(folder), uuid.uuid4().hex), "haplotypes", schema, partitions)
    for path in table.paths([("source_name", "=", source_name)]):
        first = 0
        for rows in table.pieces(path):
            places = pa.array(range(first, first + len(rows)), pa.int64())
            first += len(rows)
            rows = rows.append_column("path", pa.repeat(pa.scalar(path), len(rows))).append_column("place", places)
            mine = rows.filter((pc.field("source_name") == source_name) & pc.field("until_run").is_null())
            for batch in mine.combine_chunks().cast(schema).to_batches():
                spill.add(batch, _places(intake, batch, partitions))
    spill.close()
    return spill


def _compare(
    counts: pa.Table, before: pa.Table, rows: Iterable[pa.RecordBatch], source_name: str, number: int, update: _Update
) -> None:
    """Compare the carriers of a partition of regions; `rows` are its coded entries, which describe haplotypes that are new."""
    counted = counts.group_by(list(_KEY)).aggregate([("carriers", "sum")])
    wanted, stored = _names(counted), _names(before)
    carriers = pc.fill_null(counted["carriers_sum"].take(pc.index_in(stored, value_set=wanted)), 0)
    place = before.schema.get_field_index("carriers")
    changed = before.set_column(place, before.schema.field(place), carriers).filter(pc.not_equal(carriers, before["carriers"]))
    for path, at in zip(changed["path"].to_pylist(), changed["place"].to_pylist(), strict=True):
        update.closing.setdefault(path, []).append(at)
    schema = arrow_schema("haplotypes")
    if len(again := changed.filter(pc.greater(changed["carriers"], 0)).select(schema.names)):
        begin = again.schema.get_field_index("from_run")
        update.opening.append(again.set_column(begin, schema.field(begin), pa.array(np.full(len(again), number))).cast(schema))
    new: dict[str, dict[str, int]] = {}
    for row in counted.filter(pc.invert(pc.is_in(wanted, value_set=stored))).to_pylist():
        new.setdefault(row["region_id"], {})[row["sequence_digest"]] = row["carriers_sum"]
    # Entries that no cohort has brought are no haplotypes, even where they name a region.
    for row in sorted(rows, key=lambda one: one["region_id"][0].as_py()) if new else ():
        region = row["region_id"][0].as_py()
        if region in new:
            own = {"source_name": source_name, "region_id": region, "from_run": number, "until_run": None}
            own["gene_id"] = row["gene_id"][0].as_py() if "gene_id" in row.schema.names else None
            opened = [{**own, **one} for one in _described(row, new[region])]
            update.opening.append(pa.Table.from_pylist(opened, schema=schema))


def _names(rows: pa.Table) -> pa.ChunkedArray:
    """Digest and region of rows as one text."""
    return pc.binary_join_element_wise(rows["sequence_digest"], rows["region_id"], "")


def _described(row: pa.RecordBatch, carriers: dict[str, int]) -> list[dict[str, Any]]:
    """What the intake says of some haplotypes of a region, given by digest, in their order."""
    columns = [row[name].flatten() for name in ("digests", "variants", "skipped", "is_reference")]
    at = pa.array([i for i, name in enumerate(columns[0].to_pylist()) if name in carriers], pa.int64())
    names, variants, skipped, reference = (column.take(at).to_pylist() for column in columns)
    found = [
        {"sequence_digest": name, "carriers": carriers[name], "variants": own, "skipped": count, "is_reference": is_reference}
        for name, own, count, is_reference in zip(names, variants, skipped, reference, strict=True)
    ]
    return sorted(found, key=lambda one: one["sequence_digest"])


def _closed(table: Table, path: str, places: list[int], number: int, stem: str) -> DataFile:
    """A file anew with some of its rows closed at a run's number."""

    def pieces() -> Iterator[pa.Table]:
        first = 0
        for rows in table.pieces(path):
            own = [place - first for place in places if first <= place < first + len(rows)]
            first += len(rows)
            until = rows["until_run"].to_pylist()
            for place in own:
                until[place] = number
            at = rows.schema.get_field_index("until_run")
            yield rows.set_column(at, rows.schema.field(at), pa.array(until, pa.int64()))

    return table.write(pieces(), stem=stem)

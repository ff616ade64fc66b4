"""The commit that brings a source's rows in `haplotypes` up to its entries."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

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
    about = intake.coded.spill if intake.coded is not None else None
    if about is None and not store.haplotypes.exists():
        return
    store.haplotypes.create()
    partitions = intake.entries.partitions if about is not None else 1

    def change(draft: Draft) -> Change | None:
        table, update = store.haplotypes, _Update()
        # After the snapshot is loaded: an erasure that comes between refuses the commit.
        counts = _counts(store, source_name, intake, number, partitions, folder)
        before = _before(table, source_name, intake, partitions, folder)
        for at in range(partitions):
            _compare(counts.table(at), before.table(at), _described(about, at), source_name, number, update)
        added = [draft(_closed(table, path, rows, number, stem)) for path, rows in update.closing.items()]
        if update.opening:
            added.append(draft(table.write(update.opening, stem=stem)))
        return Change(added=added, removed=list(update.closing)) if added else None

    settle(store.haplotypes, change)


def _counts(store: Store, source_name: str, intake: Intake, number: int, partitions: int, folder: Path | str) -> Spill:
    """The carriers in `sequences` as of a run, by partition of regions."""
    spill = Spill(storage.join(str(folder), uuid.uuid4().hex), "carriers", COUNTED, partitions)
    for table in counted(store.sequences.reload(), source_name, number):
        for batch in table.combine_chunks().to_batches():
            spill.add(batch, intake.deal(batch, partitions))
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
                spill.add(batch, intake.deal(batch, partitions))
    spill.close()
    return spill


def _described(about: Spill | None, partition: int) -> dict[tuple[str, str], dict]:
    """What the intake says of the haplotypes of a partition, by region and digest."""
    found = {}
    for batch in about.batches(partition) if about is not None else ():
        for row in batch.drop_columns(["codes"]).to_pylist():
            for name, variants, skipped, reference in zip(
                row["digests"], row["variants"], row["skipped"], row["is_reference"], strict=True
            ):
                about_it = {"gene_id": row.get("gene_id"), "is_reference": reference, "variants": variants, "skipped": skipped}
                found[row["region_id"], name] = about_it
    return found


def _compare(
    counts: pa.Table, before: pa.Table, described: dict[tuple[str, str], dict], source_name: str, number: int, update: _Update
) -> None:
    wanted: dict[tuple[str, str], int] = {}
    for row in counts.to_pylist():
        key = row["region_id"], row["sequence_digest"]
        wanted[key] = wanted.get(key, 0) + row["carriers"]
    opening = []
    for row in before.to_pylist():
        key = row["region_id"], row["sequence_digest"]
        carriers = wanted.pop(key, 0)
        if carriers == row["carriers"]:
            continue
        update.closing.setdefault(row["path"], []).append(row["place"])
        if carriers:
            opening.append({**row, "carriers": carriers, "from_run": number, "until_run": None})
    # Entries that no cohort has brought are no haplotypes, even where they name a region.
    for region, name in sorted(wanted.keys() & described.keys()):
        own = {"source_name": source_name, "region_id": region, "sequence_digest": name, "carriers": wanted[region, name]}
        opening.append({**described[region, name], **own, "from_run": number, "until_run": None})
    if opening:
        update.opening.append(pa.Table.from_pylist(opening, schema=arrow_schema("haplotypes")))


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

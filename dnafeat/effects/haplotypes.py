"""Haplotypes that a store has, beside the genome's letters of their regions."""

from __future__ import annotations

import uuid
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.dataset as ds

from dnafeat import sequence as dna
from dnafeat import storage
from dnafeat.effects.intake import REFUSED, Described, described_schema, named_by_digest, spilled
from dnafeat.embed.intake import SEQUENCE_SCHEMA, Checks
from dnafeat.errors import UsageError
from dnafeat.sources.cohort.haplotypes import joined, letters_of
from dnafeat.sources.regions.genome import Genome, GenomeIndex
from dnafeat.sources.regions.region import Region
from dnafeat.spill import Spill
from dnafeat.store import Store, digests
from dnafeat.store.carriers import stood_at
from dnafeat.store.schema import arrow_schema

_COLUMNS = ("region_id", "sequence_digest", "carriers", "variants")
# Regions whose haplotypes are sorted together, and letters of references in a partition.
_REGIONS, _PARTITION_BYTES = 200, 64 * 2**20
_ROWS = 8192


def take_in_haplotypes(
    store: Store,
    source: str,
    number: int,
    genome: GenomeIndex,
    regions: Sequence[Region],
    checks: Checks,
    folder: Path | str,
    soft_masked: str = "keep",
) -> Described:
    """Describe the haplotypes of a source in some regions, as of a run's number; the references need vectors.

    In memory are the regions. A region whose reference is refused has no rows, and its haplotypes are counted.

    Raises UsageError where the source has no haplotypes in these regions.
    """
    counts = Counter(dict.fromkeys(("regions", "haplotypes", "elsewhere", REFUSED), 0))
    ranges = min(digests.MAX_PARTITIONS, 1 + sum(region.bases for region in regions) // _PARTITION_BYTES)
    sequences = Spill(storage.join(str(folder), uuid.uuid4().hex), "references", SEQUENCE_SCHEMA, ranges)
    names = _references(genome, regions, checks, soft_masked, sequences)
    place = {region.name: at for at, region in enumerate(regions)}
    found = _dealt(store, source, number, place, str(folder), counts)
    if not found.rows:
        raise UsageError(
            f"source {source!r} of {store.uri} has no haplotypes in these regions: give the regions, and --tile, with which its cohort was "
            f"embedded, and its --source-name"
        )
    rows = Spill(storage.join(str(folder), uuid.uuid4().hex), "haplotypes", described_schema())
    for partition in range(found.partitions):
        for batch in _rows(found.table(partition), regions, place, names, counts):
            rows.add(batch)
    rows.close()
    return Described(named_by_digest(sequences, genome.uri, folder), rows, counts)


def _references(
    genome: GenomeIndex, regions: Sequence[Region], checks: Checks, soft_masked: str, sequences: Spill
) -> list[str | None]:
    """Digests of the regions' own letters, None for refused ones."""
    names: list[str | None] = []
    limits = asdict(checks)
    with Genome(genome) as letters:
        for region in regions:
            own = joined(region.parts, letters_of(letters, region, soft_masked))
            refused = dna.problem(own, **limits) is not None
            names.append(None if refused else dna.digest(own))
            if not refused:
                spilled({dna.digest(own): own}, sequences)
    sequences.close()
    return names


def _dealt(store: Store, source: str, number: int, place: dict[str, int], folder: str, counts: Counter[str]) -> Spill:
    """The source's haplotypes, by runs of regions."""
    schema = pa.schema([field for field in arrow_schema("haplotypes") if field.name in _COLUMNS])
    spill = Spill(storage.join(folder, uuid.uuid4().hex), "found", schema, max(1, -(-len(place) // _REGIONS)))
    if store.haplotypes.exists():
        where = (ds.field("source_name") == source) & stood_at(number)
        pruned = [("source_name", "=", source)]
        for batch in store.haplotypes.reload().batches(schema.names, where, pruned, _ROWS):
            at = np.array([place.get(name, -1) for name in batch["region_id"].to_pylist()], np.int64)
            counts["elsewhere"] += int((at < 0).sum())
            kept = batch.filter(pa.array(at >= 0)).cast(schema)
            spill.add(kept, at[at >= 0] // _REGIONS)
    spill.close()
    return spill


def _rows(
    table: pa.Table, regions: Sequence[Region], place: dict[str, int], names: Sequence[str | None], counts: Counter[str]
) -> Iterator[pa.RecordBatch]:
    """What is compared of some haplotypes, by region and digest."""
    every = sorted(table.to_pylist(), key=lambda row: (place[row["region_id"]], row["sequence_digest"]))
    totals = Counter[str]()
    for row in every:
        totals[row["region_id"]] += row["carriers"]
    counts["regions"] += len(totals)
    found = []
    for row in every:
        at = place[row["region_id"]]
        counts["haplotypes"] += 1
        if names[at] is None:
            counts[REFUSED] += 1
            continue
        region = regions[at]
        own = {"contig": region.contig, "region_id": region.name, "gene_id": region.gene_id, "strand": region.strand}
        own |= {"reference_digest": names[at], "alternate_digest": row["sequence_digest"], "carriers": row["carriers"]}
        found.append({**own, "alleles": totals[row["region_id"]], "variants": row["variants"]})
    yield from pa.Table.from_pylist(found, schema=described_schema()).to_batches(max_chunksize=_ROWS)

"""Windows of variants, read once: both sequences of each, digested and spilled, and the row that will be told of it."""

from __future__ import annotations

import functools
import uuid
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from dnafeat import sequence as dna
from dnafeat import storage
from dnafeat.cluster.spread import Each, here
from dnafeat.effects.windows import windows
from dnafeat.embed.intake import SEQUENCE_SCHEMA, Checks, Intake, entry_schema, entry_sums, fingerprint_of, reject_schema
from dnafeat.sources.cohort.variants import SKIPPED, GenomeLetters, Stretch, Variant, VariantLayout, read
from dnafeat.sources.regions.genome import Genome
from dnafeat.sources.regions.region import Region
from dnafeat.spill import Spill
from dnafeat.store import digests
from dnafeat.store.schema import arrow_schema

REFUSED = "refused"
_ROWS = 4096
_PARTITION_BYTES = 64 * 2**20
_OF_RUNS = ("source_name", "feature_version", "run_id", "scope", "window", "vector", "cosine_distance", "l2")
_OF_VECTORS = ("reference_bases", "alternate_bases")


def described_schema() -> pa.Schema:
    """The columns of `effects` that are known before anything is compared."""
    return pa.schema([field for field in arrow_schema("effects") if field.name not in (*_OF_RUNS, *_OF_VECTORS)])


@dataclass(frozen=True)
class Described:
    """What is to be compared.

    Attributes
    ----------
    intake : Intake
        The sequences that need vectors, one entry for each, named by its digest.
    rows : Spill
        What is compared, of `described_schema`, in order.
    counts : Counter
        `records`, `variants`, `windows`, and what was skipped by reason.
    """

    intake: Intake
    rows: Spill
    counts: Counter[str]


@dataclass(frozen=True)
class _Taking:
    layout: VariantLayout
    window: int
    soft_masked: str
    checks: Checks
    folder: str
    ranges: int


def take_in_variants(
    layout: VariantLayout, window: int, checks: Checks, folder: Path | str, *, soft_masked: str = "keep", each: Each = here
) -> Described:
    """Read variants and make their windows. A variant with a window that is refused has no row, and is counted.

    Raises UsageError as `variants.read`.
    """
    ranges = min(digests.MAX_PARTITIONS, -(-layout.unpacked // _PARTITION_BYTES)) or 1
    taking = _Taking(layout, window, soft_masked, checks, str(folder), ranges)
    found = each(functools.partial(_take_portion, taking), layout.portions(), "reading variants")
    rows, sequences, counted = zip(*found, strict=True)
    counts = Counter(dict.fromkeys(("records", "variants", "windows", *SKIPPED, REFUSED), 0))
    for one in counted:
        counts.update(one)
    return Described(named_by_digest(Spill.together(sequences), layout.genome.uri, folder, each), Spill.in_a_row(rows), counts)


def _take_portion(taking: _Taking, portion: Sequence[Stretch]) -> tuple[Spill, Spill, Counter[str]]:
    folder, counts = storage.join(taking.folder, uuid.uuid4().hex), Counter[str]()
    rows, sequences = Spill(folder, "variants", described_schema()), Spill(folder, "windows", SEQUENCE_SCHEMA, taking.ranges)
    limits = asdict(taking.checks)
    held: list[dict[str, Any]] = []
    letters: dict[str, bytes] = {}

    def flush() -> None:
        rows.add(pa.RecordBatch.from_pylist(held, schema=rows.schema))
        spilled(letters, sequences)
        held.clear()
        letters.clear()

    with Genome(taking.layout.genome) as genome:
        source = GenomeLetters(genome, margin=taking.window)
        for variant in read(taking.layout, portion, source, counts):
            both = windows(source, variant, taking.window, taking.soft_masked)
            if any(dna.problem(one, **limits) for one in both):
                counts[REFUSED] += 1
                continue
            names = [dna.digest(one) for one in both]
            counts["windows"] += 2
            letters.update(zip(names, both, strict=True))
            held += [_row(variant, region, names) for region in variant.regions or (None,)]
            if len(held) >= _ROWS:
                flush()
    flush()
    for spill in (rows, sequences):
        spill.close()
    return rows, sequences, counts


def _row(variant: Variant, region: Region | None, names: Sequence[str]) -> dict[str, Any]:
    about = {} if region is None else {"region_id": region.name, "gene_id": region.gene_id, "strand": region.strand}
    return about | {
        "variant_id": variant.name,
        "contig": variant.contig,
        "position": variant.start + 1,
        "ref": variant.ref,
        "alt": variant.alt,
        "kind": variant.kind,
        "reference_digest": names[0],
        "alternate_digest": names[1],
        "carriers": variant.carriers,
        "alleles": variant.alleles,
    }


def spilled(letters: dict[str, bytes], sequences: Spill) -> None:
    """Add sequences by digest to a spill by ranges of digests."""
    columns = [pa.array(letters.keys(), pa.string()), pa.array(letters.values(), pa.large_binary())]
    batch = pa.RecordBatch.from_arrays(columns, schema=SEQUENCE_SCHEMA)
    sequences.add(batch, digests.partition(digests.to_numpy(batch["sequence_digest"]), sequences.partitions))


def named_by_digest(sequences: Spill, file: str, folder: Path | str, each: Each = here) -> Intake:
    """An intake with one entry for each distinct sequence, whose id is its digest."""
    found = each(functools.partial(_entries, str(folder), file), sequences.each(), "naming windows")
    entries, sums = zip(*found, strict=True)
    rejects = Spill(storage.join(str(folder), uuid.uuid4().hex), "rejects", reject_schema())
    rejects.close()
    return Intake(Spill.together(entries), sequences, rejects, [], fingerprint_of([], sums))


def _entries(folder: str, file: str, sequences: Spill) -> tuple[Spill, np.ndarray]:
    names = np.unique(np.concatenate([digests.to_numpy(one["sequence_digest"]) for one in sequences.batches()] or [_NONE]))
    partitions = _PARTITIONS
    entries = Spill(storage.join(folder, uuid.uuid4().hex), "entries", entry_schema([]), partitions)
    total = np.zeros(4, np.uint64)
    for at in range(0, len(names), _ROWS):
        column = digests.to_arrow(names[at : at + _ROWS])
        count = len(column)
        columns = [column, column, pa.repeat(pa.scalar(file), count), pa.repeat(pa.scalar(0, pa.int64()), count)]
        batch = pa.RecordBatch.from_arrays(columns, schema=entries.schema)
        total += entry_sums(batch, [], column.to_pylist())
        entries.add(batch, digests.id_partition(column, partitions))
    entries.close()
    return entries, total


_NONE = np.empty(0, digests.DTYPE)
# Of entries, which are dealt out by id and not by digest.
_PARTITIONS = 16

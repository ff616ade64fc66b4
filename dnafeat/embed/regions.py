"""Reads regions of a genome, and a cohort's haplotypes of them, once: refuses what is bad, and spills the rest."""

from __future__ import annotations

import functools
import hashlib
import json
import uuid
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from dnafeat import pseudonyms as keyhash
from dnafeat import sequence as dna
from dnafeat import storage
from dnafeat.cluster.spread import Each, here
from dnafeat.embed.coded import CodedEntries, coded_schema
from dnafeat.embed.deal import Deal
from dnafeat.embed.intake import (
    SEQUENCE_SCHEMA,
    TEXT_KEPT,
    Checks,
    Discretion,
    Intake,
    entry_schema,
    fingerprint_of,
    reject_schema,
)
from dnafeat.errors import UsageError
from dnafeat.keys import named
from dnafeat.sources.cohort.haplotypes import COUNTED
from dnafeat.sources.cohort.layout import HAPLOTYPE, SUBJECT, ReadRegion, RegionLayout, read
from dnafeat.spill import Spill
from dnafeat.store import digests

# Letters of a partition of sequences, and entries of one of entries.
_PARTITION_BYTES, _PARTITION_ENTRIES = 64 * 2**20, 1_000_000


@dataclass(frozen=True)
class _Taking:
    """How the portions of regions are read: `folder` is where they are spilled."""

    layout: RegionLayout
    checks: Checks
    folder: str
    ranges: int
    deal: Deal
    samples: pa.Array | None
    salt: bytes
    keep_text: bool


def take_in_regions(
    layout: RegionLayout,
    checks: Checks,
    folder: Path | str,
    *,
    by_id: bool = True,
    discretion: Discretion | None = None,
    each: Each = here,
) -> Intake:
    """The same as `take_in` of regions: letters are built, checked and digested once for each distinct haplotype.

    Raises UsageError where `discretion` names another key than `subject_id`, or as reading does.
    """
    discretion = discretion or Discretion()
    samples = _subjects(layout, discretion)
    names = sorted(region.name for region in layout.regions)
    partitions = min(len(names), -(-layout.entries // _PARTITION_ENTRIES)) if by_id else 1
    bounds = tuple(names[len(names) * i // partitions] for i in range(1, partitions))
    ranges = min(digests.MAX_PARTITIONS, -(-layout.letters // _PARTITION_BYTES)) or 1
    salt = discretion.salt if discretion.keyed_digests else b""
    taking = _Taking(layout, checks, str(folder), ranges, Deal(bounds), samples, salt, discretion.keep_text)
    found = each(functools.partial(_take_in_portion, taking), layout.portions(), "reading regions")
    entries, sequences, rejects, sums, counted = zip(*found, strict=True)
    counts = Counter({**dict.fromkeys(("regions", *(COUNTED if samples is not None else ()), "masked"), 0), **layout.counts})
    for one in counted:
        counts.update(one)
    if samples is not None:
        counts["subjects"] = len(samples)
    coded = replace(CodedEntries.together(entries), regions=_keys(layout))
    return Intake(
        coded,
        Spill.together(sequences),
        Spill.together(rejects),
        layout.keys,
        fingerprint_of(layout.keys, sums),
        deal=Deal(bounds),
        cohort=dict(counts),
        coded=coded if samples is not None else None,
    )


def _subjects(layout: RegionLayout, discretion: Discretion) -> pa.Array | None:
    """The names of the subjects as they are stored."""
    if strange := [name for name in discretion.columns if name != SUBJECT or layout.samples is None]:
        of = "whose entries are hashed by subject_id, which their names begin with" if layout.samples else "which name nobody"
        raise UsageError(f"hash_keys names {strange[0]!r}, and the source is regions of a genome, {of}")
    if layout.samples is None:
        return None
    names = named(pa.array(layout.samples, pa.string()))
    if names.null_count:
        lost = layout.samples[names.is_null().index(True).as_py()]
        raise UsageError(
            f"sample {lost!r} of the cohort has a name that stands for a missing value: rename it, such as to {lost + '_'!r}"
        )
    if len(names.unique()) < len(names):
        twice = next(name for name, count in Counter(names.to_pylist()).items() if count > 1)
        raise UsageError(f"two samples of the cohort are both {twice!r} by the rule of keys: rename one")
    return keyhash.hashed(names, discretion.salt) if discretion.columns else names


def _keys(layout: RegionLayout) -> pa.Table:
    """`CodedEntries.regions`."""
    names = [name for name in layout.keys if name not in (SUBJECT, HAPLOTYPE)]
    regions = sorted(layout.regions, key=lambda region: region.name)
    return pa.table({name: pa.array([region.keys[name] for region in regions], pa.string()) for name in names})


def _take_in_portion(taking: _Taking, some: range) -> tuple[CodedEntries, Spill, Spill, np.ndarray, Counter[str]]:
    """Entries, sequences and rejects of some regions, their share of the fingerprint, and what was counted."""
    folder, layout, partitions = storage.join(taking.folder, uuid.uuid4().hex), taking.layout, len(taking.deal.bounds or ()) + 1
    keys = [name for name in layout.keys if name not in (SUBJECT, HAPLOTYPE)]
    coded = Spill(folder, "entries", coded_schema(keys), partitions)
    sequences = Spill(folder, "sequences", SEQUENCE_SCHEMA, taking.ranges)
    rejects = Spill(folder, "rejects", reject_schema())
    accepted, fingerprint, counts = np.zeros(partitions, np.int64), np.zeros(4, np.uint64), Counter[str]()
    people = hashlib.sha256(json.dumps(taking.samples.to_pylist() if taking.samples is not None else None).encode()).digest()
    limits = asdict(taking.checks)
    for found in read(layout, some, counts):
        region, own = found
        faults = [dna.problem(one, **limits) for one in own.letters]
        names = [None if fault else dna.digest(one, taking.salt) for fault, one in zip(faults, own.letters, strict=True)]
        refused = np.array([fault is not None for fault in faults] + [False])[own.codes]
        if refused.any():
            _refuse(rejects, found, faults, np.argwhere(refused), taking)
        fingerprint += _sums(found, [fault or name or "" for fault, name in zip(faults, names, strict=True)], people)
        row: dict[str, Any] = {name: value for name, value in region.keys.items() if name in keys}
        row |= {"file": region.file, "row": region.row, "digests": names, "codes": own.codes.astype("<i4").tobytes()}
        row |= {"width": own.codes.shape[1], "variants": own.variants, "skipped": own.skipped}
        row |= {"is_reference": [one == own.reference for one in own.letters]}
        place = taking.deal.of([region.name])
        coded.add(pa.RecordBatch.from_pylist([row], schema=coded.schema), place)
        accepted[place[0]] += int((own.codes >= 0).sum()) - int(refused.sum())
        good = [at for at, name in enumerate(names) if name is not None]
        columns = [
            pa.array([names[at] for at in good], pa.string()),
            pa.array([own.letters[at] for at in good], pa.large_binary()),
        ]
        batch = pa.RecordBatch.from_arrays(columns, schema=SEQUENCE_SCHEMA)
        sequences.add(batch, digests.partition(digests.to_numpy(batch["sequence_digest"]), taking.ranges))
    for spill in (coded, sequences, rejects):
        spill.close()
    entries = CodedEntries(coded, entry_schema(layout.keys), taking.samples, accepted, pa.table({}))
    return entries, sequences, rejects, fingerprint, counts


def _refuse(rejects: Spill, found: ReadRegion, faults: Sequence[str | None], places: np.ndarray, taking: _Taking) -> None:
    """Spill the entries at some places, (n, 2) of subject and haplotype, as refused ones."""
    region, own = found
    codes = own.codes[places[:, 0], places[:, 1]]
    samples = taking.samples
    ids = [
        region.name if samples is None else f"{samples[int(subject)].as_py()}/{region.name}/{number + 1}"
        for subject, number in places
    ]
    text = [own.letters[code][:TEXT_KEPT].decode("utf-8", "replace") if taking.keep_text else None for code in codes]
    columns = [[region.file] * len(ids), [region.row] * len(ids), ids, [faults[code] for code in codes], text]
    arrays = [pa.array(values, one.type) for values, one in zip(columns, rejects.schema, strict=True)]
    rejects.add(pa.RecordBatch.from_arrays(arrays, schema=rejects.schema))


def _sums(found: ReadRegion, outcomes: list[str], people: bytes) -> np.ndarray:
    """SHA-256 of a region's keys, its subjects, and the digest or reason of each of their haplotypes, (4,) uint64.

    It does not tell in which order the distinct haplotypes were met.
    """
    region, own = found
    known = sorted(set(outcomes))
    place = {name: at for at, name in enumerate(known)}
    rank = np.array([*(place[one] for one in outcomes), -1], "<i4")
    about = json.dumps([region.keys, known, list(own.codes.shape)], sort_keys=True).encode()
    hashed = hashlib.sha256(b"".join([hashlib.sha256(about).digest(), people, rank[own.codes].tobytes()])).digest()
    return np.frombuffer(hashed, "<u8").copy()

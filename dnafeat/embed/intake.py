"""Reads a source once: refuses what is bad, and spills the rest by partitions of its hash space.

What must be compared with something else (ids with ids, sequences with what is stored) is dealt out by hash, so that memory is bounded by
a partition and not by the source. Every step goes over parts of the source or over partitions: here, or as tasks of a cluster (`spread`),
when `folder` lies where all of it can write.
"""

from __future__ import annotations

import functools
import hashlib
import json
import re
import uuid
import zlib
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from dnafeat import pseudonyms as keyhash
from dnafeat import sequence as dna
from dnafeat import storage
from dnafeat.cluster.spread import Each, here
from dnafeat.embed.coded import CodedEntries
from dnafeat.embed.deal import Deal
from dnafeat.errors import UsageError
from dnafeat.sources import reader as sources
from dnafeat.sources.entries import gathered
from dnafeat.spill import Spill
from dnafeat.store import digests
from dnafeat.store.digests import id_partition, netstring
from dnafeat.store.profiles import Profile, keys_profile, sequences_profile, total
from dnafeat.store.schema import arrow_schema

if TYPE_CHECKING:
    from dnafeat.sources.cohort.layout import RegionLayout
    from dnafeat.sources.cohort.variants import VariantLayout

# Bytes of the unpacked source that a partition may hold, and the same of a source that is worth spreading.
_PARTITION_BYTES, _LARGE_PARTITION_BYTES = 16 * 2**20, 64 * 2**20
_LARGE = 2**30
# Of sequences that are profiled: of a larger source a sample.
_PROFILED_BYTES = 64 * 2**20
# Of a part that is read at a time.
_PART_BYTES = 128 * 2**20
TEXT_KEPT = 10_000
# https://github.com/delta-io/delta/blob/master/PROTOCOL.md#column-mapping
_FORBIDDEN = " ,;{}()\n\t="

SEQUENCE_SCHEMA = pa.schema([("sequence_digest", pa.string()), ("sequence", pa.large_binary())])


@dataclass(frozen=True, kw_only=True)
class Checks:
    """When an entry is refused."""

    alphabet: bytes = dna.UNAMBIGUOUS
    max_n_share: float = 1.0
    min_bases: int = 1


@dataclass(frozen=True, kw_only=True)
class Discretion:
    """What of the people in a source is not to be stored.

    Attributes
    ----------
    columns : tuple of str
        Keys, or `sequence_id`, whose values are hashed.
    salt : bytes
    keep_text : bool
        Whether rejects have the text of refused entries.
    keyed_digests : bool
        Whether digests of sequences are salted, too.
    """

    columns: tuple[str, ...] = ()
    salt: bytes = b""
    keep_text: bool = True
    keyed_digests: bool = False

    def applied(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        """Entries with pseudonyms in these columns."""
        for name in self.columns:
            column = keyhash.hashed(batch[name], self.salt)
            batch = batch.set_column(batch.schema.get_field_index(name), batch.schema.field(name), column)
        return batch


@dataclass
class Intake:
    """What one pass over a source gave.

    Attributes
    ----------
    entries : Spill or CodedEntries
        Accepted entries by hash of `sequence_id`, by ranges of `region_id`, or in their order: sequence_id, sequence_digest, file, row,
        keys.
    sequences : Spill
        Their sequences by range of digest, duplicates still in: sequence_digest, sequence.
    rejects : Spill
        Refused entries: file, row, sequence_id, reason, text.
    keys : list of str
    fingerprint : str
        Of id, digest or reason, and keys of all entries, whatever their order: SHA-256 of the sum of their SHA-256.
    missing : dict of str to int
        Of each key, entries without a value of it; keys that all have are left out.
    deal : Deal
        How the entries are dealt out.
    cohort : dict of str to int or None
        What was counted of regions and people, where those are the source.
    coded : CodedEntries or None
        The entries of those, with what is said of each haplotype.
    profile : Profile
        Of the accepted entries; empty where regions and people are the source.
    """

    entries: Spill | CodedEntries
    sequences: Spill
    rejects: Spill
    keys: list[str]
    fingerprint: str
    missing: dict[str, int] = field(default_factory=dict)
    deal: Deal = field(default_factory=Deal)
    cohort: dict[str, int] | None = None
    coded: CodedEntries | None = None
    profile: Profile = field(default_factory=Profile)

    @property
    def read(self) -> int:
        return self.entries.rows + self.rejects.rows


@dataclass(frozen=True)
class _Reading:
    """How the parts of a source are read: `folder` is where they are spilled, and one of `sampled` sequences is profiled."""

    layout: sources.Layout
    checks: Checks
    folder: str
    partitions: int
    by_id: bool
    discretion: Discretion
    sampled: int


def entry_schema(keys: Sequence[str]) -> pa.Schema:
    """The columns of accepted entries as they are spilled."""
    named = [("sequence_id", pa.string()), ("sequence_digest", pa.string()), ("file", pa.string()), ("row", pa.int64())]
    return pa.schema(named + [(key, pa.string()) for key in keys])


def reject_schema() -> pa.Schema:
    """The columns of refused entries as they are spilled."""
    return pa.schema([arrow_schema("rejects").field(name) for name in ("file", "row", "sequence_id", "reason", "text")])


def check_names(keys: Sequence[str], stored: Sequence[str]) -> None:
    """Raise UsageError for a key column whose name a Delta table cannot have (without column mapping).

    Columns that a store has already stay: older releases have taken them.
    """
    for key in keys:
        if key not in stored and (strange := [letter for letter in key if letter in _FORBIDDEN]):
            raise UsageError(
                f"column {key!r} has {strange[0]!r} in its name, which Delta tables do not allow, as none of {_FORBIDDEN!r}: rename the "
                f"column, such as to {re.sub('[^A-Za-z0-9]+', '_', key).strip('_')!r}"
            )


def is_large(layout: sources.Layout | RegionLayout | VariantLayout) -> bool:
    """Whether a source is worth spreading over tasks."""
    return layout.unpacked > _LARGE


def take_in(
    layout: sources.Layout,
    checks: Checks,
    folder: Path | str,
    *,
    by_id: bool = True,
    discretion: Discretion | None = None,
    each: Each = here,
) -> Intake:
    """Reads, normalises, validates, digests and spills a source. `folder` is an empty one for the spill files.

    Without `by_id` the accepted entries are one partition, in the order of the source. Raises UsageError where `discretion` names a
    column that the source does not have, or one that is hashed under another salt.
    """
    discretion = discretion or Discretion()
    if strange := [name for name in discretion.columns if name not in ("sequence_id", *layout.keys)]:
        raise UsageError(
            f"hash_keys names {strange[0]!r}, which the source does not have: its keys are {', '.join(['sequence_id', *layout.keys])}"
        )
    size = _LARGE_PARTITION_BYTES if is_large(layout) else _PARTITION_BYTES
    partitions = min(digests.MAX_PARTITIONS, -(-layout.unpacked // size)) or 1
    sampled = max(1, layout.unpacked // _PROFILED_BYTES)
    reading = _Reading(layout, checks, str(folder), partitions, by_id, discretion, sampled)
    parts = sources.portions(layout, _PART_BYTES)
    found = each(functools.partial(_take_in_part, reading), parts, "reading the source")
    entries, sequences, rejects, sums, nulls, profiles = zip(*found, strict=True)
    missing = {key: int(count) for key, count in zip(layout.keys, np.sum(nulls, axis=0), strict=True) if count}
    read, letters, refused = (Spill.together(some) for some in (entries, sequences, rejects))
    return Intake(read, letters, refused, layout.keys, fingerprint_of(layout.keys, sums), missing, profile=total(profiles))


def _take_in_part(
    reading: _Reading, part: Sequence[sources.Portion]
) -> tuple[Spill, Spill, Spill, np.ndarray, np.ndarray, Profile]:
    """Entries, sequences and rejects of a part as in `Intake`, its share of the fingerprint, missing values of each key, its profile."""
    folder, keys, partitions = storage.join(reading.folder, uuid.uuid4().hex), reading.layout.keys, reading.partitions
    entries = Spill(folder, "entries", entry_schema(keys), partitions if reading.by_id else 1)
    sequences = Spill(folder, "sequences", SEQUENCE_SCHEMA, partitions)
    rejects = Spill(folder, "rejects", reject_schema())
    fingerprint, limits = np.zeros(4, np.uint64), asdict(reading.checks)
    missing = np.zeros(len(keys), np.int64)
    profile = Profile()
    salt = reading.discretion.salt if reading.discretion.keyed_digests else b""
    for batch in gathered(sources.read_portions(reading.layout, part)):
        batch = reading.discretion.applied(batch)
        missing += np.array([batch[key].null_count for key in keys], np.int64)
        letters = batch["sequence"].to_pylist()
        faults = [fault or dna.problem(one, **limits) for fault, one in zip(batch["problem"].to_pylist(), letters, strict=True)]
        names = ["" if fault else dna.digest(one, salt) for fault, one in zip(faults, letters, strict=True)]
        fingerprint += entry_sums(batch, keys, [fault or name for fault, name in zip(faults, names, strict=True)])
        good = pa.array([fault is None for fault in faults])
        if not all(fault is None for fault in faults):
            rejects.add(_refused(batch, faults, letters if reading.discretion.keep_text else None, rejects.schema))
            batch = batch.filter(good)
            names = [name for name in names if name]
        digest_column = pa.array(names, pa.string())
        profile += _profile_of(batch, names, keys, reading.sampled)
        columns = [batch["sequence_id"], digest_column, batch["file"], batch["row"], *(batch[key] for key in keys)]
        places = id_partition(batch["sequence_id"], partitions) if reading.by_id else None
        entries.add(pa.RecordBatch.from_arrays(columns, schema=entries.schema), places)
        by_digest = digests.partition(digests.to_numpy(digest_column), partitions)
        sequences.add(
            pa.RecordBatch.from_arrays([digest_column, batch["sequence"].cast(pa.large_binary())], schema=SEQUENCE_SCHEMA),
            by_digest,
        )
    for spill in (entries, sequences, rejects):
        spill.close()
    return entries, sequences, rejects, fingerprint, missing, profile


def _profile_of(batch: pa.RecordBatch, names: Sequence[str], keys: Sequence[str], sampled: int) -> Profile:
    """Profile accepted entries: all of their keys, and the sequences whose digest is drawn, whatever the split."""
    letters = batch["sequence"].to_pylist()
    drawn = [one for one, name in zip(letters, names, strict=True) if zlib.crc32(name.encode()) % sampled == 0]
    return keys_profile({key: batch[key] for key in keys}) + sequences_profile(drawn)


def fingerprint_of(keys: Sequence[str], sums: Sequence[np.ndarray]) -> str:
    """The fingerprint of a source with these keys, of what its parts add to it, (4,) uint64 each."""
    whole = hashlib.sha256(json.dumps(keys).encode())
    whole.update(np.sum(sums, axis=0, dtype=np.uint64).astype("<u8").tobytes())
    return whole.hexdigest()


def entry_sums(batch: pa.RecordBatch, keys: Sequence[str], outcome: list[str]) -> np.ndarray:
    """The sum of the entries' SHA-256, (4,) uint64 that run over: the same however the source is cut, ordered and dealt out."""
    columns = [batch["sequence_id"], pa.array(outcome, pa.string()), *(batch[key] for key in keys)]
    rows = pc.binary_join_element_wise(*(netstring(column) for column in columns), "").cast(pa.binary())
    hashed = b"".join(hashlib.sha256(row).digest() for row in rows.to_pylist())
    return np.frombuffer(hashed, "<u8").reshape(-1, 4).sum(axis=0, dtype=np.uint64)


def _refused(batch: pa.RecordBatch, faults: list[str | None], letters: list[bytes] | None, schema: pa.Schema) -> pa.RecordBatch:
    at = [i for i, fault in enumerate(faults) if fault is not None]
    text = [None if letters is None else (letters[i] or b"")[:TEXT_KEPT].decode("utf-8", "replace") for i in at]
    chosen = batch.take(pa.array(at, pa.int64()))
    reason = pa.array([faults[i] for i in at], pa.string())
    columns = [chosen["file"], chosen["row"], chosen["sequence_id"], reason, pa.array(text, pa.string())]
    return pa.RecordBatch.from_arrays(columns, schema=schema)


Double = tuple[str, str, int, str, int]
_DOUBLES_TOLD = 1000


def duplicate_ids(intake: Intake, each: Each = here) -> list[Double]:
    """Ids that stand more than once in a run: (sequence_id, first file, first row, this file, this row) for each further place.

    The first 1,000 of them.
    """
    if isinstance(intake.entries, CodedEntries):
        # Names of regions and of samples are unique.
        return []
    found = each(_doubles, intake.entries.each(), "comparing ids")
    return [double for some in found for double in some][:_DOUBLES_TOLD]


def _doubles(entries: Spill) -> list[Double]:
    table = entries.table().select(["sequence_id", "file", "row"])
    counted = pc.value_counts(table["sequence_id"].combine_chunks())
    doubled = counted.filter(pc.greater(counted.field("counts"), 1)).field("values")
    places: dict[str, tuple[str, int]] = {}
    found: list[Double] = []
    for row in table.filter(pc.is_in(table["sequence_id"], value_set=doubled)).to_pylist() if len(doubled) else ():
        name, place = row["sequence_id"], (row["file"], row["row"])
        if name in places:
            found.append((name, *places[name], *place))
        else:
            places[name] = place
    return found[:_DOUBLES_TOLD]


def without(intake: Intake, names: Sequence[str], reason: str, folder: Path | str, each: Each = here) -> Intake:
    """The intake with all entries of some sequences, given by digest, among its rejects."""
    leave_out = functools.partial(_without_part, pa.array(names, pa.string()), reason, str(folder), intake.rejects.schema)
    entries = each(leave_out, intake.entries.each(), "leaving out entries")
    sequences = each(leave_out, intake.sequences.each(), "leaving out sequences")
    rejects = Spill.together([intake.rejects, *(refused for _, refused in entries)])
    letters = Spill.in_a_row([kept for kept, _ in sequences if isinstance(kept, Spill)])
    changed = replace(intake, sequences=letters, rejects=rejects)
    if not isinstance(intake.entries, CodedEntries):
        return replace(changed, entries=Spill.in_a_row([kept for kept, _ in entries if isinstance(kept, Spill)]))
    left = intake.entries.in_a_row([kept for kept, _ in entries if isinstance(kept, CodedEntries)])
    return replace(changed, entries=left, coded=left if intake.coded is not None else None)


def _without_part(
    out: pa.Array, reason: str, folder: str, reject_schema: pa.Schema, spill: Spill | CodedEntries
) -> tuple[Spill | CodedEntries, Spill]:
    """What is left of a partition of entries or sequences, and the entries left out as refused ones."""
    folder = storage.join(folder, uuid.uuid4().hex)
    rejects = Spill(folder, "rejects", reject_schema)
    left: Spill | CodedEntries
    if isinstance(spill, CodedEntries):
        left, taken = spill.without(out, folder)
    else:
        left = kept = Spill(folder, "left", spill.schema)
        found = []
        for batch in spill.batches(0):
            named = pc.is_in(batch["sequence_digest"], value_set=out)
            kept.add(batch.filter(pc.invert(named)))
            found.append(batch.filter(named))
        kept.close()
        taken = iter(found)
    for batch in taken:
        if "sequence_id" in batch.schema.names:
            why, nothing = pa.array([reason] * len(batch), pa.string()), pa.nulls(len(batch), pa.string())
            columns = [batch["file"], batch["row"], batch["sequence_id"], why, nothing]
            rejects.add(pa.RecordBatch.from_arrays(columns, schema=rejects.schema))
    rejects.close()
    return left, rejects


def as_rejects(double: Sequence[Double], folder: Path | str, schema: pa.Schema) -> Spill:
    """Duplicate ids, as `duplicate_ids` gives them, as refused entries."""
    rejects = Spill(folder, "duplicates", schema)
    rows = [
        {
            "file": file,
            "row": row,
            "sequence_id": name,
            "reason": f"sequence_id stands already at {first_file}:{first_row}",
            "text": None,
        }
        for name, first_file, first_row, file, row in double
    ]
    rejects.add(pa.RecordBatch.from_pylist(rows, schema=schema))
    rejects.close()
    return rejects

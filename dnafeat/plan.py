"""What has to be encoded: reads the source once, refuses what is bad, deduplicates, subtracts what is stored, cuts work shards.

The source is read in one streaming pass. What must be compared with something else (ids with ids, sequences with what is stored) is
spilled by partitions of its hash space, so memory is bounded by a partition and not by the source. Every step goes over parts of the
source or over partitions: here, or as tasks of a cluster (`spread`), when `folder` lies where all of it can write.
"""

from __future__ import annotations

import functools
import hashlib
import json
import uuid
import zlib
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from dnafeat import digests, sources, storage
from dnafeat import sequence as dna
from dnafeat.salvage import Claim, Salvage
from dnafeat.schema import arrow_schema
from dnafeat.spill import Spill
from dnafeat.spread import Each, here
from dnafeat.store import Store
from dnafeat.tables import write_parquet

# Bytes of the unpacked source that a partition may hold, and the same of a source that is worth spreading.
_PARTITION_BYTES, _LARGE_PARTITION_BYTES = 16 * 2**20, 64 * 2**20
_LARGE = 2**30
# Of a part that is read at a time; and of the packed sequences of partitions from which shards are cut together.
_PART_BYTES = 128 * 2**20
_CUT_BYTES = 256 * 2**20
_SHARDS_OF_A_CUT = 100_000
_TEXT_KEPT = 10_000

SHARD_SCHEMA = pa.schema([("sequence_digest", pa.string()), ("sequence", pa.large_binary())])
# A shard's vectors make one file of about this size, and its token ids one block well below Ray Data's 128 MiB.
_SHARD_FILE_BYTES = 128 * 2**20
_SHARD_BASES = 8 * 2**20
_SHARD_MIN_ROWS = 64
_SHARDS_PER_ACTOR = 4
# Sequences that the audit has encoded once more: so many of the beginning of each of so many files.
_SAMPLE_ROWS, _SAMPLE_FILES = 16, 4
CHECK = "check.parquet"


@dataclass(frozen=True, kw_only=True)
class Checks:
    """When an entry is refused."""

    alphabet: bytes = dna.UNAMBIGUOUS
    max_n_share: float = 1.0
    min_bases: int = 1


@dataclass
class Intake:
    """What one pass over a source gave.

    Attributes
    ----------
    entries : Spill
        Accepted entries by hash of `sequence_id`, or in their order: sequence_id, sequence_digest, file, row, keys.
    sequences : Spill
        Their sequences by range of digest, duplicates still in: sequence_digest, sequence.
    rejects : Spill
        Refused entries: file, row, sequence_id, reason, text.
    keys : list of str
    fingerprint : str
        Of id, digest or reason, and keys of all entries, whatever their order: SHA-256 of the sum of their SHA-256.
    """

    entries: Spill
    sequences: Spill
    rejects: Spill
    keys: list[str]
    fingerprint: str

    @property
    def read(self) -> int:
        return self.entries.rows + self.rejects.rows


@dataclass(frozen=True)
class Shard:
    """A work shard: a Parquet file of distinct sequences in digest order, and how many."""

    uri: str
    rows: int


@dataclass(frozen=True)
class _Reading:
    """How the parts of a source are read: `folder` is where they are spilled."""

    layout: sources.Layout
    checks: Checks
    folder: str
    partitions: int
    by_id: bool

    @property
    def entry_schema(self) -> pa.Schema:
        named = [("sequence_id", pa.string()), ("sequence_digest", pa.string()), ("file", pa.string()), ("row", pa.int64())]
        return pa.schema(named + [(key, pa.string()) for key in self.layout.keys])


def is_large(layout: sources.Layout) -> bool:
    """Whether a source is worth spreading over tasks."""
    return sum(portion.bytes for part in sources.portions(layout, _PART_BYTES) for portion in part) > _LARGE


def take_in(layout: sources.Layout, checks: Checks, folder: Path | str, *, by_id: bool = True, each: Each = here) -> Intake:
    """Reads, normalises, validates, digests and spills a source. `folder` is an empty one for the spill files.

    Without `by_id` the accepted entries are one partition, in the order of the source.
    """
    parts = sources.portions(layout, _PART_BYTES)
    unpacked = sum(portion.bytes for part in parts for portion in part)
    size = _LARGE_PARTITION_BYTES if is_large(layout) else _PARTITION_BYTES
    partitions = min(digests.MAX_PARTITIONS, -(-unpacked // size)) or 1
    reading = _Reading(layout, checks, str(folder), partitions, by_id)
    found = each(functools.partial(_take_in_part, reading), parts, "reading the source")
    entries, sequences, rejects, sums = zip(*found, strict=True)
    fingerprint = hashlib.sha256(json.dumps(layout.keys).encode())
    fingerprint.update(np.sum(sums, axis=0, dtype=np.uint64).astype("<u8").tobytes())
    return Intake(
        Spill.together(entries), Spill.together(sequences), Spill.together(rejects), layout.keys, fingerprint.hexdigest()
    )


def _take_in_part(reading: _Reading, part: Sequence[sources.Portion]) -> tuple[Spill, Spill, Spill, np.ndarray]:
    """Entries, sequences and rejects of a part as in `Intake`, and its share of the fingerprint."""
    folder, keys, partitions = storage.join(reading.folder, uuid.uuid4().hex), reading.layout.keys, reading.partitions
    reject_fields = [arrow_schema("rejects").field(name) for name in ("file", "row", "sequence_id", "reason", "text")]
    entries = Spill(folder, "entries", reading.entry_schema, partitions if reading.by_id else 1)
    sequences = Spill(folder, "sequences", SHARD_SCHEMA, partitions)
    rejects = Spill(folder, "rejects", pa.schema(reject_fields))
    fingerprint, limits = np.zeros(4, np.uint64), asdict(reading.checks)
    for batch in sources.read_portions(reading.layout, part):
        letters = batch["sequence"].to_pylist()
        faults = [fault or dna.problem(one, **limits) for fault, one in zip(batch["problem"].to_pylist(), letters, strict=True)]
        names = ["" if fault else dna.digest(one) for fault, one in zip(faults, letters, strict=True)]
        fingerprint += _fingerprint(batch, keys, [fault or name for fault, name in zip(faults, names, strict=True)])
        good = pa.array([fault is None for fault in faults])
        if not all(fault is None for fault in faults):
            rejects.add(_refused(batch, faults, letters, rejects.schema))
            batch = batch.filter(good)
            names = [name for name in names if name]
        digest_column = pa.array(names, pa.string())
        columns = [batch["sequence_id"], digest_column, batch["file"], batch["row"], *(batch[key] for key in keys)]
        places = id_partition(batch["sequence_id"], partitions) if reading.by_id else None
        entries.add(pa.RecordBatch.from_arrays(columns, schema=entries.schema), places)
        by_digest = digests.partition(digests.to_numpy(digest_column), partitions)
        sequences.add(
            pa.RecordBatch.from_arrays([digest_column, batch["sequence"].cast(pa.large_binary())], schema=SHARD_SCHEMA), by_digest
        )
    for spill in (entries, sequences, rejects):
        spill.close()
    return entries, sequences, rejects, fingerprint


def _fingerprint(batch: pa.RecordBatch, keys: Sequence[str], outcome: list[str]) -> np.ndarray:
    """The sum of the entries' SHA-256, (4,) uint64 that run over: the same however the source is cut, ordered and dealt out."""
    columns = [batch["sequence_id"], pa.array(outcome, pa.string()), *(batch[key] for key in keys)]
    rows = pc.binary_join_element_wise(*(netstring(column) for column in columns), "").cast(pa.binary())
    hashed = b"".join(hashlib.sha256(row).digest() for row in rows.to_pylist())
    return np.frombuffer(hashed, "<u8").reshape(-1, 4).sum(axis=0, dtype=np.uint64)


def netstring(column: pa.Array | pa.ChunkedArray) -> pa.Array | pa.ChunkedArray:
    """Each text with its length in bytes before it, `-` for a null: no text can then pass for the end of one and the start of another."""
    length = pc.cast(pc.binary_length(column), pa.string())
    return pc.fill_null(pc.binary_join_element_wise(length, column, ":"), "-")


def _refused(batch: pa.RecordBatch, faults: list[str | None], letters: list[bytes], schema: pa.Schema) -> pa.RecordBatch:
    at = [i for i, fault in enumerate(faults) if fault is not None]
    text = [(letters[i] or b"")[:_TEXT_KEPT].decode("utf-8", "replace") for i in at]
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
    left, letters = (Spill.in_a_row([kept for kept, _ in found]) for found in (entries, sequences))
    return Intake(left, letters, rejects, intake.keys, intake.fingerprint)


def _without_part(out: pa.Array, reason: str, folder: str, reject_schema: pa.Schema, spill: Spill) -> tuple[Spill, Spill]:
    """What is left of a partition of entries or sequences, and the entries left out as refused ones."""
    folder = storage.join(folder, uuid.uuid4().hex)
    left, rejects = Spill(folder, "left", spill.schema), Spill(folder, "rejects", reject_schema)
    for batch in spill.batches():
        named = pc.is_in(batch["sequence_digest"], value_set=out)
        left.add(batch.filter(pc.invert(named)))
        taken = batch.filter(named)
        if "sequence_id" in taken.schema.names:
            why, nothing = pa.array([reason] * len(taken), pa.string()), pa.nulls(len(taken), pa.string())
            columns = [taken["file"], taken["row"], taken["sequence_id"], why, nothing]
            rejects.add(pa.RecordBatch.from_arrays(columns, schema=rejects.schema))
    left.close()
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


@dataclass(frozen=True)
class Work:
    """What a run has to do for the distinct sequences of its source.

    Attributes
    ----------
    distinct, stored, salvaged : int
        Distinct sequences; those with vectors in the store; those that a dead run has encoded.
    missing : Spill
        The others, each once, in digest order.
    sample : Spill
        Some of the salvaged ones, to be encoded again and compared.
    """

    distinct: int
    stored: int
    salvaged: int
    missing: Spill
    sample: Spill


def subtract(intake: Intake, store: Store, version: str, folder: Path | str, salvage: Salvage, each: Each = here) -> Work:
    """Deduplicates a source and takes away what the store has and what can be salvaged."""
    store.features.version()  # loads the snapshot, so that all parts are compared with one
    compare = functools.partial(_subtract_part, store, version, str(folder))
    counts, stored, parts = zip(*each(compare, intake.sequences.each(), "comparing sequences"), strict=True)
    missing = Spill.in_a_row(parts)
    sample = Spill(folder, "sample", SHARD_SCHEMA)
    salvaged = missing.rows
    if missing.rows and salvage.look():
        found = each(functools.partial(_salvage_part, salvage, str(folder)), parts, "salvaging")
        for claims, _, some in found:
            salvage.take(claims)
            if sample.rows < _SAMPLE_FILES * _SAMPLE_ROWS:
                for batch in some.to_batches():
                    sample.add(batch)
        missing = Spill.in_a_row([left for _, left, _ in found])
    sample.close()
    return Work(sum(counts), sum(stored), salvaged - missing.rows, missing, sample)


def _subtract_part(store: Store, version: str, folder: str, sequences: Spill) -> tuple[int, int, Spill]:
    """Of a partition: how many sequences there are, how many are stored, and the others."""
    names, table = _once(sequences)
    wanted = not_stored(names, store, version)
    return len(names), len(names) - int(wanted.sum()), _spilled(table.filter(pa.array(wanted)), folder)


def _salvage_part(salvage: Salvage, folder: str, missing: Spill) -> tuple[list[Claim], Spill, pa.Table]:
    """Of what a partition lacks: what can be salvaged, the others, and some of the salvaged ones."""
    table = missing.table()
    found, claims = salvage.claim(digests.to_numpy(table["sequence_digest"]))
    some = table.take(pa.array(np.flatnonzero(found)[:_SAMPLE_ROWS])).combine_chunks()
    return claims, _spilled(table.filter(pa.array(~found)), folder), some


def distinct(intake: Intake, folder: Path | str, each: Each = here) -> Spill:
    """The distinct sequences, each once, in digest order."""
    return Spill.in_a_row(each(functools.partial(_distinct_part, str(folder)), intake.sequences.each(), "comparing sequences"))


def _distinct_part(folder: str, sequences: Spill) -> Spill:
    return _spilled(_once(sequences)[1], folder)


def _once(sequences: Spill) -> tuple[np.ndarray, pa.Table]:
    """The distinct sequences of a partition in digest order: digests, (n,) of dtype S35, and rows."""
    table = sequences.table()
    names, first = np.unique(digests.to_numpy(table["sequence_digest"]), return_index=True)
    return names, table.take(pa.array(first))


def _spilled(table: pa.Table, folder: str) -> Spill:
    chosen = Spill(storage.join(folder, uuid.uuid4().hex), "distinct", SHARD_SCHEMA)
    for batch in table.combine_chunks().to_batches(max_chunksize=8192):
        chosen.add(batch)
    chosen.close()
    return chosen


def id_partition(ids: pa.Array, partitions: int) -> np.ndarray:
    """The partition of each `sequence_id`, (n,) int64. What is compared by id must be dealt by this and by nothing else."""
    return np.fromiter((zlib.crc32(one.encode()) % partitions for one in ids.to_pylist()), np.int64, len(ids))


def not_stored(names: np.ndarray, store: Store, version: str) -> np.ndarray:
    """Which of the sorted digests `names`, (n,) of dtype S35, have no vectors of the version at the present snapshot: (n,) bool."""
    needed = np.ones(len(names), bool)
    if len(names):
        for stored in store.stored_digests(version, names[0].decode(), names[-1].decode()):
            needed[digests.present(names, stored)] = False
    return needed


def shard_rows(missing: int, actors: int, row_bytes: int) -> int:
    """Rows of a shard: enough shards to keep every actor busy to the end, files not above 128 MiB, no tiny ones."""
    even = -(-missing // (actors * _SHARDS_PER_ACTOR))
    return min(max(even, _SHARD_MIN_ROWS), max(1, _SHARD_FILE_BYTES // row_bytes))


def cut_shards(missing: Spill, rows: int, work: str, each: Each = here) -> list[Shard]:
    """Writes the missing sequences below `work` as shards of at most `rows` rows and about 8 million bases."""
    groups = list(enumerate(missing.groups(_CUT_BYTES)))
    found = each(functools.partial(_cut_group, rows, work), groups, "cutting shards")
    return [shard for some in found for shard in some]


def _cut_group(rows: int, work: str, numbered: tuple[int, Spill]) -> list[Shard]:
    group, missing = numbered
    shards: list[Shard] = []
    held: list[pa.Table] = []
    count = bases = 0

    def flush() -> None:
        nonlocal held, count, bases
        if count:
            uri = storage.join(work, f"shard-{group * _SHARDS_OF_A_CUT + len(shards):05d}.parquet")
            write_parquet(uri, held)
            shards.append(Shard(uri, count))
        held, count, bases = [], 0, 0

    for batch in missing.every_batch():
        table = pa.Table.from_batches([batch])
        sizes = pc.binary_length(table["sequence"]).to_numpy()
        at = 0
        while at < len(table):
            room = np.searchsorted(np.cumsum(sizes[at:]), _SHARD_BASES - bases, side="right")
            taken = min(len(table) - at, rows - count, int(room))
            if taken == 0 and count:
                flush()
                continue
            taken = max(taken, 1)
            held.append(table.slice(at, taken))
            count, bases, at = count + taken, bases + int(sizes[at : at + taken].sum()), at + taken
            if count == rows:
                flush()
    flush()
    return shards


def cut_check(shards: Sequence[Shard], sample: Spill, work: str) -> Shard:
    """Writes a shard of sequences that are encoded once more, to be compared: `sample`, and the first of a few of the shards."""
    chosen = [pa.Table.from_batches([batch]) for batch in sample.batches()]
    for shard in shards[:: max(1, -(-len(shards) // _SAMPLE_FILES))]:
        fs, path = storage.filesystem(shard.uri)
        with fs.open(path, "rb") as file:
            first = next(pq.ParquetFile(file).iter_batches(_SAMPLE_ROWS))
        chosen.append(pa.Table.from_batches([first]).cast(SHARD_SCHEMA))
    whole = pa.concat_tables(chosen).sort_by("sequence_digest")
    uri = storage.join(work, CHECK)
    write_parquet(uri, [whole])
    return Shard(uri, len(whole))

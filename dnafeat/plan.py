"""What has to be encoded: reads the source once, refuses what is bad, deduplicates, subtracts what is stored, cuts work shards.

The source is read in one streaming pass. What must be compared with something else (ids with ids, sequences with what is stored) is
spilled by partitions of its hash space, so memory is bounded by a partition and not by the source.
"""

from __future__ import annotations

import hashlib
import json
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from dnafeat import digests, sources, storage
from dnafeat import sequence as dna
from dnafeat.salvage import Salvage
from dnafeat.schema import arrow_schema
from dnafeat.spill import Spill
from dnafeat.store import Store
from dnafeat.tables import write_parquet

# Unpacked letters a partition may hold; packed files are taken to unpack to four times their size.
_PARTITION_BYTES = 16 * 2**20
_PACKED = (".gz", ".bz2", ".xz", ".parquet", ".pq")
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
        SHA-256 over id, digest, keys or reason of all entries, in order.
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


def take_in(files: Sequence[str], options: sources.ReadOptions, checks: Checks, folder: Path, *, by_id: bool = True) -> Intake:
    """Reads, normalises, validates, digests and spills a source. `folder` is an empty local one for the spill files.

    Without `by_id` the accepted entries are one partition, in the order of the source.
    """
    keys = sources.key_columns(files, options)
    unpacked = sum(storage.size(file) * (4 if file.lower().endswith(_PACKED) else 1) for file in files)
    if options.tile and options.stride:
        unpacked *= max(1, options.tile // options.stride)
    partitions = min(digests.MAX_PARTITIONS, -(-unpacked // _PARTITION_BYTES)) or 1
    entry_schema = pa.schema(
        [("sequence_id", pa.string()), ("sequence_digest", pa.string()), ("file", pa.string()), ("row", pa.int64())]
        + [(key, pa.string()) for key in keys]
    )
    reject_fields = [arrow_schema("rejects").field(name) for name in ("file", "row", "sequence_id", "reason", "text")]
    entries = Spill(folder, "entries", entry_schema, partitions if by_id else 1)
    sequences = Spill(folder, "sequences", SHARD_SCHEMA, partitions)
    rejects = Spill(folder, "rejects", pa.schema(reject_fields))
    fingerprint, limits = hashlib.sha256(json.dumps(keys).encode()), asdict(checks)
    for batch in sources.read(files, options):
        letters = batch["sequence"].to_pylist()
        faults = [fault or dna.problem(one, **limits) for fault, one in zip(batch["problem"].to_pylist(), letters, strict=True)]
        names = ["" if fault else dna.digest(one) for fault, one in zip(faults, letters, strict=True)]
        _fold(fingerprint, batch, keys, [fault or name for fault, name in zip(faults, names, strict=True)])
        good = pa.array([fault is None for fault in faults])
        if not all(fault is None for fault in faults):
            rejects.add(_refused(batch, faults, letters, rejects.schema))
            batch = batch.filter(good)
            names = [name for name in names if name]
        digest_column = pa.array(names, pa.string())
        columns = [batch["sequence_id"], digest_column, batch["file"], batch["row"], *(batch[key] for key in keys)]
        places = id_partition(batch["sequence_id"], partitions) if by_id else None
        entries.add(pa.RecordBatch.from_arrays(columns, schema=entry_schema), places)
        by_digest = digests.partition(digests.to_numpy(digest_column), partitions)
        sequences.add(
            pa.RecordBatch.from_arrays([digest_column, batch["sequence"].cast(pa.large_binary())], schema=SHARD_SCHEMA), by_digest
        )
    entries.close()
    sequences.close()
    rejects.close()
    return Intake(entries, sequences, rejects, keys, fingerprint.hexdigest())


def _fold(fingerprint: hashlib._Hash, batch: pa.RecordBatch, keys: Sequence[str], outcome: list[str]) -> None:
    """Adds a batch to the fingerprint, the same however the source was cut into batches."""
    columns = [batch["sequence_id"], pa.array(outcome, pa.string()), *(batch[key] for key in keys)]
    rows = pc.binary_join_element_wise(*(netstring(column) for column in columns), "")
    fingerprint.update("".join(rows.to_pylist()).encode())


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


def duplicate_ids(intake: Intake) -> Iterator[tuple[str, str, int, str, int]]:
    """Ids that stand more than once in a run: (sequence_id, first file, first row, this file, this row) for each further place."""
    for i in range(intake.entries.partitions):
        table = intake.entries.table(i).select(["sequence_id", "file", "row"])
        counted = pc.value_counts(table["sequence_id"].combine_chunks())
        doubled = counted.filter(pc.greater(counted.field("counts"), 1)).field("values")
        if not len(doubled):
            continue
        places: dict[str, tuple[str, int]] = {}
        for row in table.filter(pc.is_in(table["sequence_id"], value_set=doubled)).to_pylist():
            name, place = row["sequence_id"], (row["file"], row["row"])
            if name in places:
                yield (name, *places[name], *place)
            else:
                places[name] = place


def without(intake: Intake, names: Sequence[str], reason: str, folder: Path) -> Intake:
    """The intake with all entries of some sequences, given by digest, among its rejects."""
    out = pa.array(names, pa.string())
    entries = Spill(folder, "entries-left", intake.entries.schema, intake.entries.partitions)
    sequences = Spill(folder, "sequences-left", intake.sequences.schema, intake.sequences.partitions)
    rejects = Spill(folder, "rejects-all", intake.rejects.schema)
    for batch in intake.rejects.batches():
        rejects.add(batch)
    for old, new in ((intake.entries, entries), (intake.sequences, sequences)):
        for i in range(old.partitions):
            for batch in old.batches(i):
                named = pc.is_in(batch["sequence_digest"], value_set=out)
                kept, taken = batch.filter(pc.invert(named)), batch.filter(named)
                new.add(kept, np.full(len(kept), i))
                if new is entries and len(taken):
                    columns = [
                        taken["file"],
                        taken["row"],
                        taken["sequence_id"],
                        pa.array([reason] * len(taken)),
                        pa.nulls(len(taken), pa.string()),
                    ]
                    rejects.add(pa.RecordBatch.from_arrays(columns, schema=rejects.schema))
    for spill in (entries, sequences, rejects):
        spill.close()
    return Intake(entries, sequences, rejects, intake.keys, intake.fingerprint)


def as_rejects(double: Sequence[tuple[str, str, int, str, int]], folder: Path, schema: pa.Schema) -> Spill:
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


def subtract(intake: Intake, store: Store, version: str, folder: Path, salvage: Salvage) -> Work:
    """Deduplicates a source and takes away what the store has and what can be salvaged."""
    sample = Spill(folder, "sample", SHARD_SCHEMA)
    stored = 0

    def needed(names: np.ndarray, letters: pa.Table) -> np.ndarray:
        nonlocal stored
        wanted = not_stored(names, store, version)
        stored += len(names) - int(wanted.sum())
        at = np.flatnonzero(wanted)
        found = at[salvage.claim(names[at])]
        wanted[found] = False
        chosen = letters.take(pa.array(found[:_SAMPLE_ROWS])).combine_chunks()
        if sample.rows < _SAMPLE_FILES * _SAMPLE_ROWS:
            for batch in chosen.to_batches():
                sample.add(batch)
        return wanted

    count, missing = _each_once(intake, folder, needed)
    sample.close()
    return Work(count, stored, count - stored - missing.rows, missing, sample)


def distinct(intake: Intake, folder: Path) -> Spill:
    """The distinct sequences, each once, in digest order."""
    return _each_once(intake, folder, lambda names, letters: np.ones(len(names), bool))[1]


def _each_once(intake: Intake, folder: Path, needed: Callable[[np.ndarray, pa.Table], np.ndarray]) -> tuple[int, Spill]:
    """The number of distinct sequences, and those of them whose digests are `needed`, each once, in digest order."""
    chosen = Spill(folder, "distinct", SHARD_SCHEMA)
    count = 0
    for i in range(intake.sequences.partitions):
        table = intake.sequences.table(i)
        names, first = np.unique(digests.to_numpy(table["sequence_digest"]), return_index=True)
        count += len(names)
        table = table.take(pa.array(first))
        for batch in table.filter(pa.array(needed(names, table))).combine_chunks().to_batches(max_chunksize=8192):
            chosen.add(batch)
    chosen.close()
    return count, chosen


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


def cut_shards(missing: Spill, rows: int, work: str) -> list[Shard]:
    """Writes the missing sequences below `work` as shards of at most `rows` rows and about 8 million bases."""
    shards: list[Shard] = []
    held: list[pa.Table] = []
    count = bases = 0

    def flush() -> None:
        nonlocal held, count, bases
        if count:
            uri = storage.join(work, f"shard-{len(shards):05d}.parquet")
            write_parquet(uri, held)
            shards.append(Shard(uri, count))
        held, count, bases = [], 0, 0

    for batch in missing.batches():
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

"""What has to be encoded of a source that was taken in: deduplicates, subtracts what is stored, cuts work shards.

Every step goes over partitions of the hash space: here, or as tasks of a cluster (`spread`), when `folder` lies where all of it can write.
"""

from __future__ import annotations

import functools
import itertools
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from dnafeat import parquet, storage
from dnafeat.cluster.spread import Each, here
from dnafeat.embed.intake import SEQUENCE_SCHEMA, Intake
from dnafeat.embed.salvage import Claim, Salvage
from dnafeat.parquet import write_parquet
from dnafeat.spill import Spill
from dnafeat.store import Store, digests

# Bytes of the packed sequences of partitions from which shards are cut together.
_CUT_BYTES = 256 * 2**20
_SHARDS_OF_A_CUT = 100_000
# A shard's vectors make one file of about this size, and its token ids one block well below Ray Data's 128 MiB.
_SHARD_FILE_BYTES = 128 * 2**20
_SHARD_BASES = 8 * 2**20
_SHARD_MIN_ROWS = 64
_SHARDS_PER_ACTOR = 4
# The last shards of a run have no fewer rows than this part of the others.
_LEAST_OF_A_SHARD = 16
# Sequences that the audit has encoded once more: so many of the beginning of each of so many files.
_SAMPLE_ROWS, _SAMPLE_FILES = 16, 4
CHECK = "check.parquet"


@dataclass(frozen=True)
class Shard:
    """A work shard: a Parquet file of distinct sequences in digest order, and how many."""

    uri: str
    rows: int


def own(shards: Sequence[Shard]) -> list[Shard]:
    """The shards of a source's sequences, without that of `cut_check`."""
    return [shard for shard in shards if storage.name(shard.uri) != CHECK]


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
    sample = Spill(folder, "sample", SEQUENCE_SCHEMA)
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
    chosen = Spill(storage.join(folder, uuid.uuid4().hex), "distinct", SEQUENCE_SCHEMA)
    for batch in table.combine_chunks().to_batches(max_chunksize=8192):
        chosen.add(batch)
    chosen.close()
    return chosen


def not_stored(names: np.ndarray, store: Store, version: str) -> np.ndarray:
    """Which of the sorted digests `names`, (n,) of dtype S35, have no vectors of the version at the present snapshot: (n,) bool."""
    needed = np.ones(len(names), bool)
    if len(names):
        for stored in store.stored_digests(version, names[0].decode(), names[-1].decode()):
            needed[digests.present(names, stored)] = False
    return needed


def shard_rows(missing: int, actors: int, row_bytes: int) -> int:
    """Rows of a shard: enough shards to keep every actor busy to the end, files not above 128 MiB, no tiny ones.

    `row_bytes` are those that a row takes in a file.
    """
    even = -(-missing // (actors * _SHARDS_PER_ACTOR))
    return min(max(even, _SHARD_MIN_ROWS), max(1, _SHARD_FILE_BYTES // row_bytes))


def cut_shards(missing: Spill, rows: int, work: str, each: Each = here, actors: int | None = None) -> list[Shard]:
    """Writes the missing sequences below `work` as shards of at most `rows` rows and about 8 million bases.

    With the number of `actors` that encode them, the last ones become smaller, so that all actors end at about the same time.
    """
    groups = missing.groups(_CUT_BYTES)
    ending = [*itertools.repeat(None, len(groups) - 1), actors]
    found = each(functools.partial(_cut_group, rows, work), list(enumerate(zip(groups, ending, strict=True))), "cutting shards")
    return [shard for some in found for shard in some]


def _cut_group(rows: int, work: str, numbered: tuple[int, tuple[Spill, int | None]]) -> list[Shard]:
    group, (missing, actors) = numbered
    shards: list[Shard] = []
    held: list[pa.Table] = []
    count = bases = 0
    left = missing.rows

    def most() -> int:
        if actors is None:
            return rows
        # Half of each actor's share of what is left ("factoring", Hummel et al. 1992, doi:10.1145/135226.135232).
        return min(rows, max(-(-left // (2 * actors)), rows // _LEAST_OF_A_SHARD, _SHARD_MIN_ROWS // 2))

    def flush() -> None:
        nonlocal held, count, bases, left
        left -= count
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
            limit = most()
            taken = min(len(table) - at, limit - count, int(room))
            if taken == 0 and count:
                flush()
                continue
            taken = max(taken, 1)
            held.append(table.slice(at, taken))
            count, bases, at = count + taken, bases + int(sizes[at : at + taken].sum()), at + taken
            if count == limit:
                flush()
    flush()
    return shards


def cut_check(shards: Sequence[Shard], sample: Spill, work: str) -> Shard:
    """Writes a shard of sequences that are encoded once more, to be compared: `sample`, and the first of a few of the shards."""
    chosen = [pa.Table.from_batches([batch]) for batch in sample.batches()]
    for shard in shards[:: max(1, -(-len(shards) // _SAMPLE_FILES))]:
        with parquet.opened(shard.uri) as file:
            first = next(file.iter_batches(_SAMPLE_ROWS))
        chosen.append(pa.Table.from_batches([first]).cast(SEQUENCE_SCHEMA))
    whole = pa.concat_tables(chosen).sort_by("sequence_digest")
    uri = storage.join(work, CHECK)
    write_parquet(uri, [whole])
    return Shard(uri, len(whole))

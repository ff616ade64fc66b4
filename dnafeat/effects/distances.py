"""Distances between the vectors of pairs of sequences, for any number of pairs.

Pairs are in the order of the genome and vectors in that of digests. So vectors are read once, in their own order, dealt out to the pairs
that need them, and compared a part of the pairs at a time.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa

from dnafeat import storage
from dnafeat.embed.plan import not_stored
from dnafeat.spill import Spill
from dnafeat.store import Store, digests
from dnafeat.store.lookup import Lookup
from dnafeat.store.matrices import fixed
from dnafeat.store.matrices import matrix as values_of

# Vectors of the pairs that are compared together, and of those that are dealt out together.
_PART_BYTES, _PIECE_BYTES = 64 * 2**20, 16 * 2**20
# Pairs whose digests are held together.
_PAIRS = 500_000
_ROWS = 8192
_WANTED = pa.schema([("digest", pa.string()), ("row", pa.int64()), ("side", pa.int8())])


@dataclass(frozen=True)
class Compared:
    """Some pairs, in order, with the distances of each of their vectors.

    Attributes
    ----------
    rows : pa.Table
        The pairs that were compared; those of which a sequence has no vectors are left out.
    bases : np.ndarray, shape=(rows, 2), int64
        Of both sequences.
    cosine, l2 : dict of str to np.ndarray, shape=(rows,), float64
        By name of the vector.
    """

    rows: pa.Table
    bases: np.ndarray
    cosine: dict[str, np.ndarray]
    l2: dict[str, np.ndarray]


def distances(reference: np.ndarray, alternate: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Cosine distance (1 - cosine) and L2 of pairs of vectors, (n, width) float32 each, in float64: (n,) each.

    Both are 0 for equal vectors. The cosine distance of a vector without length and another one is 1.
    """
    a, b = reference.astype(np.float64), alternate.astype(np.float64)
    products, lengths = np.einsum("ij,ij->i", a, b), np.einsum("ij,ij->i", a, a) * np.einsum("ij,ij->i", b, b)
    cosine = np.divide(products, np.sqrt(lengths), out=np.zeros(len(a)), where=lengths > 0)
    l2 = np.sqrt(np.square(a - b).sum(axis=1))
    return np.where(l2 == 0, 0.0, np.maximum(1.0 - cosine, 0.0)), l2


def compare(
    store: Store, version: str, parent: str | None, vectors: Sequence[str], rows: Spill, folder: Path | str
) -> Iterator[Compared]:
    """Compare `reference_digest` with `alternate_digest` of every row, in order, by what `features` has at its snapshot.

    Parameters
    ----------
    parent : str or None
        The version that has the vectors which rows of this one lack.
    vectors : sequence of str
        Columns of `features`.
    rows : Spill
        All partitions are read, one after the other.
    folder : Path or str
        For spill files.
    """
    lookup = Lookup(store.features, version, parent)
    widths = lookup.widths(vectors)
    if not rows.rows or not widths:
        return
    wanted = _wanted(rows, str(folder))
    size = max(1, _PART_BYTES // (8 * sum(widths.values())))
    dealt = _dealt(store, lookup, [name for name in vectors if name in widths], widths, wanted, rows.rows, size, str(folder))
    for part, some in enumerate(_in_parts(rows, size)):
        yield _compared(some, dealt.batches(part), part * size, widths)


def _spill(folder: str, name: str, schema: pa.Schema, partitions: int) -> Spill:
    return Spill(storage.join(folder, uuid.uuid4().hex), name, schema, partitions)


def _wanted(rows: Spill, folder: str) -> Spill:
    """Which pair needs which sequence, by ranges of digests."""
    spill = _spill(folder, "wanted", _WANTED, min(digests.MAX_PARTITIONS, -(-rows.rows // _PAIRS)))
    first = 0
    for batch in rows.every_batch():
        numbers = pa.array(range(first, first + len(batch)), pa.int64())
        first += len(batch)
        for side, name in enumerate(("reference_digest", "alternate_digest")):
            column = batch[name]
            columns = [column, numbers, pa.array(np.full(len(batch), side, np.int8))]
            own = pa.RecordBatch.from_arrays(columns, schema=_WANTED)
            spill.add(own, digests.partition(digests.to_numpy(column), spill.partitions))
    spill.close()
    return spill


def _dealt(
    store: Store,
    lookup: Lookup,
    vectors: Sequence[str],
    widths: dict[str, int],
    wanted: Spill,
    count: int,
    size: int,
    folder: str,
) -> Spill:
    """The vectors of every pair, by parts of `size` pairs."""
    width = sum(widths.values())
    schema = pa.schema([("row", pa.int64()), ("side", pa.int8()), ("bases", pa.int64()), ("vectors", pa.binary(4 * width))])
    spill = _spill(folder, "vectors", schema, -(-count // size))
    piece = max(1, _PIECE_BYTES // (4 * width))
    for partition in range(wanted.partitions):
        table = wanted.table(partition)
        if not len(table):
            continue
        own = digests.to_numpy(table["digest"])
        names = np.unique(own)
        names = names[~not_stored(names, store, lookup.version)]
        order = np.argsort(own, kind="stable")
        sorted_own, numbers, sides = own[order], table["row"].to_numpy()[order], table["side"].to_numpy()[order]
        for place, found in lookup.in_chunks(names, [*vectors, "bases"]):
            some = names[place]
            values = np.concatenate([values_of(fixed(found[name])) for name in vectors], axis=1, dtype=np.float32)
            bases = found["bases"].to_numpy()
            near = digests.between(sorted_own, some[0], some[-1])
            for at in range(near.start, near.stop, piece):
                mine = slice(at, min(at + piece, near.stop))
                there, place_of = digests.located(some, sorted_own[mine])
                whole = np.ascontiguousarray(values[place_of]).view(np.uint8)
                packed = pa.FixedSizeBinaryArray.from_buffers(
                    pa.binary(4 * width), len(place_of), [None, pa.py_buffer(np.ascontiguousarray(whole))]
                )
                columns = [pa.array(numbers[mine][there]), pa.array(sides[mine][there]), pa.array(bases[place_of]), packed]
                spill.add(pa.RecordBatch.from_arrays(columns, schema=schema), numbers[mine][there] // size)
    spill.close()
    return spill


def _in_parts(rows: Spill, size: int) -> Iterator[pa.Table]:
    """The rows of a spill, `size` at a time."""
    held: list[pa.RecordBatch] = []
    count = 0
    for batch in rows.every_batch():
        while len(batch):
            own = batch.slice(0, size - count)
            held.append(own)
            count, batch = count + len(own), batch.slice(len(own))
            if count == size:
                yield pa.Table.from_batches(held, rows.schema)
                held, count = [], 0
    if held:
        yield pa.Table.from_batches(held, rows.schema)


def _compared(rows: pa.Table, dealt: Iterator[pa.RecordBatch], first: int, widths: dict[str, int]) -> Compared:
    width = sum(widths.values())
    values, bases = np.zeros((2, len(rows), width), np.float32), np.zeros((len(rows), 2), np.int64)
    there = np.zeros((2, len(rows)), bool)
    for batch in dealt:
        side, at = batch["side"].to_numpy(), batch["row"].to_numpy() - first
        packed = batch["vectors"]
        start = packed.offset * 4 * width
        own = np.frombuffer(packed.buffers()[1], np.float32, len(packed) * width, start).reshape(-1, width)
        values[side, at], bases[at, side], there[side, at] = own, batch["bases"].to_numpy(), True
    both = there.all(axis=0)
    rows, bases, values = rows.filter(pa.array(both)), bases[both], values[:, both]
    cosine, l2, at = {}, {}, 0
    for name, own_width in widths.items():
        cosine[name], l2[name] = distances(*values[:, :, at : at + own_width])
        at += own_width
    return Compared(rows, bases, cosine, l2)

"""Entries: what every reader yields, cut into tiles on request, and gathered into record batches."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple

import pyarrow as pa

MAX_ENTRIES = 8192  # of a batch
MAX_BYTES = 1 << 24  # letters of a batch; a longer entry is a batch of its own
RAW_KEPT = 1000  # bytes kept of what could not be read: enough to recognise it in the rejects table

FIXED = ("sequence_id", "sequence", "file", "row", "problem")


class Piece(NamedTuple):
    """An entry, or one part of an entry whose letters go on in the next piece.

    Attributes
    ----------
    sequence_id : str or None
    row : int
        1-based: the line of a record's header, or the data row of a table.
    letters : bytes
        Normalised; with a `problem`, the first `RAW_KEPT` bytes of what there is.
    problem : str or None
        Why the entry cannot be read. It is the last piece of its entry.
    more : bool
        True when the next piece belongs to the same entry.
    keys : tuple of str or None
        One value per key column of the run; empty when there are none to give.
    """

    sequence_id: str | None
    row: int
    letters: bytes
    problem: str | None = None
    more: bool = False
    keys: tuple[str | None, ...] = ()


def whole(pieces: Iterable[Piece]) -> Iterator[Piece]:
    """Put the parts of each entry together; one whose last part has a problem is that problem."""
    parts: list[bytes] = []
    for piece in pieces:
        if piece.problem is not None:
            parts = []
            yield piece
        elif piece.more:
            parts.append(piece.letters)
        elif parts:
            parts.append(piece.letters)
            yield piece._replace(letters=b"".join(parts))
            parts = []
        else:
            yield piece


def tiles(pieces: Iterable[Piece], tile: int, stride: int) -> Iterator[Piece]:
    """Cut entries into `<id>:<start>-<end>`, 0-based and half open, holding no more than one tile and one piece at a time.

    Tiles start at 0, stride, 2 * stride, … and end with the first that reaches the end of the entry; that one may be shorter.
    An entry without letters gives one empty tile `<id>:0-0`, so that it is refused and not forgotten.

    Parameters
    ----------
    tile, stride : int
        Bases, at least 1.
    """
    held, base, start = b"", 0, 0  # letters not yet in every tile they belong to, their coordinate, the next tile's start
    for piece in pieces:
        if piece.problem is not None:
            # The tiles before the fault stand.
            held, base, start = b"", 0, 0
            yield piece
            continue
        name, row, keys = piece.sequence_id, piece.row, piece.keys
        letters = held + piece.letters
        end = base + len(letters)
        while start + tile <= end:
            yield Piece(f"{name}:{start}-{start + tile}", row, letters[start - base : start - base + tile], None, False, keys)
            start += stride
        if piece.more:
            held = letters[start - base :]
            base = end - len(held)
            continue
        covered = start - stride + tile if start else 0
        if (covered < end and start < end) or not end:
            yield Piece(f"{name}:{start}-{end}", row, letters[start - base :], None, False, keys)
        held, base, start = b"", 0, 0


def schema(keys: Sequence[str]) -> pa.Schema:
    """The columns of every batch: `FIXED`, then one nullable string for each key."""
    types = (pa.string(), pa.large_binary(), pa.string(), pa.int64(), pa.string())
    return pa.schema([*zip(FIXED, types, strict=True), *((key, pa.string()) for key in keys)])


def batches(
    entries: Iterable[Piece], file: str, columns: pa.Schema, partition: Mapping[str, str | None] | None = None
) -> Iterator[pa.RecordBatch]:
    """Whole entries of one file as batches of at most `MAX_ENTRIES` entries and `MAX_BYTES` letters, but at least one entry.

    `partition` has the value of keys that are the same for the whole file; they are null in its entries.
    """
    for batch in _batches(entries, file, columns):
        for name, value in (partition or {}).items():
            at = columns.get_field_index(name)
            batch = batch.set_column(at, columns.field(at), pa.array([value] * len(batch), columns.field(at).type))
        yield batch


def gathered(batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
    """Batches of one schema with small ones put together, within the bounds of `batches`: what a batch costs is not paid for each file."""
    held: list[pa.RecordBatch] = []
    rows = size = 0
    for batch in batches:
        if held and (rows + len(batch) > MAX_ENTRIES or size + batch.nbytes > MAX_BYTES):
            yield held[0] if len(held) == 1 else pa.concat_batches(held)
            held, rows, size = [], 0, 0
        held.append(batch)
        rows, size = rows + len(batch), size + batch.nbytes
    if held:
        yield held[0] if len(held) == 1 else pa.concat_batches(held)


def _batches(entries: Iterable[Piece], file: str, columns: pa.Schema) -> Iterator[pa.RecordBatch]:
    held: list[Piece] = []
    size = 0
    for entry in entries:
        if held and (len(held) == MAX_ENTRIES or size + len(entry.letters) > MAX_BYTES):
            yield _batch(held, file, columns)
            held, size = [], 0
        held.append(entry)
        size += len(entry.letters)
    if held:
        yield _batch(held, file, columns)


def _batch(entries: list[Piece], file: str, columns: pa.Schema) -> pa.RecordBatch:
    ids, rows, letters, problems, _, given = zip(*entries, strict=True)
    blank = (None,) * (len(columns) - len(FIXED))
    keys = zip(*(values or blank for values in given), strict=True)
    cells = [ids, letters, [file] * len(entries), rows, problems, *keys]
    return pa.record_batch([pa.array(c, field.type) for c, field in zip(cells, columns, strict=True)], schema=columns)

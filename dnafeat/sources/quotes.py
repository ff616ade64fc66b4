"""Quotes that are left open in a CSV or TSV file: the rows behind them stand in a cell, and would be in no count."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import IO

import pyarrow as pa
import pyarrow.compute as pc

from dnafeat.errors import UsageError

_BOM = b"\xef\xbb\xbf"
_KEPT = 256  # bytes of the end of a file
_LINE_END = re.compile(rb"\r\n|\r|\n")
_LETTERS = re.compile(rb"\s*\"?[ACGTUNRYSWKMBDHV][ACGTUNRYSWKMBDHV ]{3,}\"?\s*", re.IGNORECASE)
# Letters that are a sequence in whatever column they stand.
_LONG = re.compile(rb"\s*\"?[ACGTUNacgtun]{20,}\"?\s*")
_SHOWN = 30


class Watched:
    """A file for pyarrow's CSV reader that notes quotes, and drops byte order marks at the beginning of lines.

    Attributes
    ----------
    quoted : bool
        Whether a quote was read.
    tail : bytes
        The end of what was read.
    """

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self._held = b""
        self.quoted = False
        self.tail = b"\n"

    def read(self, size: int) -> bytes:
        data = self._held + self._file.read(size - len(self._held))
        self._held = b""
        if _BOM[:1] in data[-2:] and data[-1:] in _BOM[:2] and len(data) > 2:
            at = data.rindex(_BOM[:1])
            data, self._held = data[:at], data[at:]
        if not self.quoted:
            self.quoted = b'"' in data
        if _BOM[:1] in data and _BOM in data:
            edge = self.tail[-1:]
            data = re.sub(rb"(?<=[\r\n])(?:\xef\xbb\xbf)+", b"", edge + data)[1:]
            if not data:
                # Nothing would be taken for the end of the file.
                return self.read(size)
        self.tail = (self.tail + data[-_KEPT:])[-_KEPT:]
        return data

    @property
    def closed(self) -> bool:
        return self._file.closed

    def close(self) -> None:
        """Leave the file open, which is not this reader's."""

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return False

    def writable(self) -> bool:
        return False

    @property
    def ends_in_quote(self) -> bool:
        return self.tail.rstrip(b"\r\n").endswith(b'"')


def check_cells(batch: pa.RecordBatch, rows: Sequence[int], delimiter: str, sequence: str, uri: str) -> None:
    """Raise UsageError for a cell in which whole rows stand. The columns are binary; `rows` are the numbers of the batch's rows."""
    inside: dict[int, str] = {}
    for name in batch.schema.names:
        column = batch.column(name)
        for at in pc.indices_nonzero(pc.match_substring_regex(column, "[\r\n]")).to_pylist():
            inside.setdefault(at, name)
    mark, place = delimiter.encode(), batch.schema.get_field_index(sequence)
    for at, name in sorted(inside.items()):
        text = mark.join(batch.column(i)[at].as_py() or b"" for i in range(batch.num_columns))
        if holds_rows(text, mark, batch.num_columns, place):
            raise open_quote(uri, rows[at], name, batch.column(name)[at].as_py())


def check_last(batch: pa.RecordBatch, row: int, file: Watched, uri: str) -> None:
    """Raise UsageError where the last cell of a file has line ends in it and its quote is never closed."""
    name = batch.schema.names[-1]
    cell = batch.column(name)[-1].as_py() or b""
    if _LINE_END.search(cell) and not file.ends_in_quote:
        raise open_quote(uri, row, name, cell)


def holds_rows(text: bytes, mark: bytes, width: int, place: int) -> bool:
    """Return whether a line of a row, but its first, is a row itself: as many fields, and letters where the sequence stands."""
    for line in _LINE_END.split(text)[1:]:
        fields = line.split(mark)
        if len(fields) == width and _LETTERS.fullmatch(fields[place]):
            return True
        if len(fields) > width and any(map(_LONG.fullmatch, fields)):
            return True
    return False


def open_quote(uri: str, row: int, name: str, cell: bytes) -> UsageError:
    """The error for a cell with rows in it."""
    shown = _LINE_END.split(cell)[0][:_SHOWN].decode("utf-8", "replace")
    return UsageError(
        f"{uri}, row {row}, column {name!r}: the quote before {shown!r} is not closed, and the rows behind it would be read as part of "
        f"its cell: close it, or take the quotes out of the file"
    )

"""Single rows of a vector column in a Parquet file, for which the pages that hold them are unpacked and no others.

Arrow reads a row group as a whole: for a thousand digests, which are random, it would read all vectors of a table. The rows of a vector
column without nulls are as long as each other, so that the headers of its pages say which page holds which numbers; dnafeat's own files
are so: plain float32 in pages of the first version.
"""

from __future__ import annotations

import mmap
import zlib
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from dnafeat.errors import DamagedError

_DATA_PAGE, _PLAIN = 0, 0  # of Parquet's enumerations
# Fields of `PageHeader` and of `DataPageHeader`, by Parquet's Thrift definition.
_TYPE, _UNPACKED, _PACKED, _CRC, _DATA = 1, 2, 3, 4, 5
_VALUES, _ENCODING = 1, 2
_CODECS = {"ZSTD": "zstd", "SNAPPY": "snappy", "GZIP": "gzip", "BROTLI": "brotli", "UNCOMPRESSED": None}
# Of Thrift's compact protocol.
_TRUE, _FALSE, _BYTE, _INTEGERS, _DOUBLE, _BINARY, _STRUCT = 1, 2, 3, (4, 5, 6), 7, 8, 12
_DEEPEST = 8


class UnusualPageError(Exception):
    """The column is written in another way: it is to be read as a whole."""


@dataclass(frozen=True)
class FloatColumn:
    """The vectors of a row group, as they lie in a file.

    Attributes
    ----------
    content : bytes or mmap
        Of the file, or a part of it that holds the column.
    start, end : int
        Where the column's pages lie in it.
    rows : int
    values : int
        Numbers of all rows together.
    codec : str | None
        As Arrow calls it.
    """

    content: bytes | mmap.mmap
    start: int
    end: int
    rows: int
    values: int
    codec: str | None

    @classmethod
    def of(cls, content: bytes | mmap.mmap, first: int, column: Any, rows: int) -> FloatColumn:
        """The column of a row group by its metadata; `first` is the place in the file of what `content` begins with.

        Raises UnusualPageError where its rows cannot be found by counting.
        """
        start = column.data_page_offset - first
        lengths, rest = divmod(column.num_values, rows) if rows else (0, 0)
        # A null or an empty row counts as one value, so that a column with some rarely has a whole number of values a row.
        usual = column.physical_type == "FLOAT" and column.compression in _CODECS and not column.has_dictionary_page
        if not usual or rest or not lengths:
            raise UnusualPageError
        end = start + column.total_compressed_size
        return cls(content, start, end, rows, column.num_values, _CODECS[column.compression])

    def take(self, rows: np.ndarray, uri: str) -> np.ndarray:
        """Vectors of some rows, (n,) int64 ascending, as (n, width) float32.

        Raises
        ------
        UnusualPageError
            The pages are of another kind, or some row has no vector.
        DamagedError
            A page is not what was written.
        """
        width = self.values // self.rows
        found = np.empty(len(rows) * width, np.float32)
        place, first, done = self.start, 0, 0
        while first < self.values:
            header, place = _header(self.content, place, self.end, uri)
            count, packed = header[_DATA].get(_VALUES, 0), header[_PACKED]
            if count < 1 or packed < 0 or place + packed > self.end or first + count > self.values:
                raise DamagedError(f"{uri} is damaged: a page claims more than its column holds; restore it from a copy")
            # A row may begin in one page and end in the next.
            here = slice(int(np.searchsorted(rows, first // width)), int(np.searchsorted(rows * width, first + count)))
            here = slice(max(here.start, done), here.stop)
            if here.start < here.stop:
                numbers = self._numbers(header, place, count, uri)
                for i in range(here.start, here.stop):
                    low, high = max(rows[i] * width, first), min((rows[i] + 1) * width, first + count)
                    at = i * width - rows[i] * width
                    found[at + low : at + high] = numbers[low - first : high - first]
                # The last one goes on in the next page.
                done = here.stop - (int((rows[here.stop - 1] + 1) * width) > first + count)
            place, first = place + packed, first + count
        return found.reshape(len(rows), width)

    def _numbers(self, header: dict[int, Any], place: int, count: int, uri: str) -> np.ndarray:
        """The numbers of a page, (count,) float32. They stand last in it, behind the levels."""
        packed, size = self.content[place : place + header[_PACKED]], header[_UNPACKED]
        if _CRC in header and zlib.crc32(packed) != header[_CRC] & 0xFFFFFFFF:
            raise DamagedError(f"{uri} is damaged: a page differs from its checksum; restore it from a copy")
        # Levels take a few bits a number: a size beyond that is a claim that would fill the memory.
        if not 4 * count <= size <= 12 * count + 1024:
            raise UnusualPageError
        try:
            whole = packed if self.codec is None else pa.decompress(packed, size, self.codec, asbytes=True)
        except (pa.ArrowException, OSError) as error:
            raise DamagedError(f"{uri} is damaged: a page cannot be unpacked; restore it from a copy") from error
        # Two blocks of levels with their lengths, and no number missing: so no row is null or empty.
        levels = 0
        for _ in range(2):
            levels += 4 + int.from_bytes(whole[levels : levels + 4], "little")
        if len(whole) != size or levels + 4 * count != size:
            raise UnusualPageError
        return np.frombuffer(whole, np.float32, count, levels)


def _header(content: bytes | mmap.mmap, place: int, end: int, uri: str) -> tuple[dict[int, Any], int]:
    """The header of the page at a place, and where the page itself begins."""
    try:
        header, place = _struct(content, place, min(end, len(content)), 0)
    except (IndexError, ValueError) as error:
        raise DamagedError(f"{uri} is damaged: a page has no header; restore it from a copy") from error
    if header.get(_TYPE) != _DATA_PAGE or not isinstance(header.get(_DATA), dict):
        raise UnusualPageError
    if header[_DATA].get(_ENCODING) != _PLAIN or not {_UNPACKED, _PACKED} <= header.keys():
        raise UnusualPageError
    return header, place


def _struct(content: bytes | mmap.mmap, place: int, end: int, depth: int) -> tuple[dict[int, Any], int]:
    """A struct of Thrift's compact protocol: whole numbers and structs by their field's number; all else is passed over."""
    found: dict[int, Any] = {}
    field = 0
    while True:
        if place >= end or depth > _DEEPEST:
            raise ValueError
        head, place = content[place], place + 1
        if not head:
            return found, place
        kind = head & 15
        if head >> 4:
            field += head >> 4
        else:
            field, place = _integer(content, place, end)
        if kind in _INTEGERS:
            found[field], place = _integer(content, place, end)
        elif kind == _STRUCT:
            found[field], place = _struct(content, place, end, depth + 1)
        elif kind == _BINARY:
            length, place = _varint(content, place, end)
            place += length
        elif kind in (_BYTE, _DOUBLE):
            place += 1 if kind == _BYTE else 8
        elif kind not in (_TRUE, _FALSE):
            raise ValueError


def _varint(content: bytes | mmap.mmap, place: int, end: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        if place >= end or shift > 63:
            raise ValueError
        byte, place = content[place], place + 1
        value |= (byte & 127) << shift
        if byte < 128:
            return value, place
        shift += 7


def _integer(content: bytes | mmap.mmap, place: int, end: int) -> tuple[int, int]:
    value, place = _varint(content, place, end)
    return (value >> 1) ^ -(value & 1), place

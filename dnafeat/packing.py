"""Packed files (gzip and bgzip, bzip2, xz, zstd): recognised by their first bytes, and unpacked whole or not at all."""

from __future__ import annotations

import bz2
import io
import lzma
import shutil
import tempfile
import zlib
from collections.abc import Callable
from typing import IO, Any, Protocol, cast

import pyarrow as pa

ENDINGS = (".gz", ".bz2", ".xz", ".zst")
"""Of names, in upper or lower case."""

PARQUET = (".parquet", ".pq")

_MAGIC = {b"\x1f\x8b": ".gz", b"BZh": ".bz2", b"\xfd7zXZ\x00": ".xz", b"\x28\xb5\x2f\xfd": ".zst"}
_LONGEST = max(map(len, _MAGIC))
_READ = 1 << 18  # bytes, packed
_BUFFER = 1 << 20  # bytes, unpacked
_SHOWN = 12

# Where bgzip marks its blocks in a gzip header (SAM specification, section 4.1).
_MARKED = slice(12, 14)


def ending(name: str) -> str:
    """The ending that says how a file is packed, in lower case; empty where there is none."""
    return next((one for one in ENDINGS if name.lower().endswith(one)), "")


def unpacked(raw: IO[bytes], name: str) -> IO[bytes]:
    """What a file holds, unpacked where its first bytes say that it is packed, whatever its name is.

    Parameters
    ----------
    raw : IO[bytes]
        Is closed with what is returned.
    name : str

    Raises
    ------
    OSError
        While reading: the file is damaged, or the name says that it is packed, and it is not.
    """
    # What cannot be read twice is packed as its name says.
    start = raw.read(_LONGEST) if raw.seekable() else None
    if start is None:
        packed = ending(name)
    else:
        raw.seek(0)
        packed = next((one for magic, one in _MAGIC.items() if start.startswith(magic)), "")
        if not packed and ending(name) and start:
            begins = start[:_SHOWN].decode("utf-8", "backslashreplace")
            fault = f"it is not packed as its name says, and begins with {begins!r}; take {ending(name)} off its name"
            # Raised where it is read, as other damage is.
            return cast(IO[bytes], io.BufferedReader(_Members(raw, _Gzip, fault)))
    if not packed:
        return raw
    stream = (
        pa.CompressedInputStream(raw, "zstd") if packed == ".zst" else io.BufferedReader(_Members(raw, _MEMBERS[packed]), _BUFFER)
    )
    if not name.lower().removesuffix(packed).endswith(PARQUET):
        return cast(IO[bytes], stream)
    # Parquet is read from its end.
    whole = tempfile.TemporaryFile()  # noqa: SIM115
    with stream:
        shutil.copyfileobj(stream, whole, _BUFFER)
    whole.seek(0)
    return whole


class _Member(Protocol):
    """One packed stream of a file that may have several: what `bz2.BZ2Decompressor` is."""

    @property
    def eof(self) -> bool: ...

    @property
    def needs_input(self) -> bool: ...

    @property
    def unused_data(self) -> bytes: ...

    def decompress(self, data: bytes, max_length: int) -> bytes: ...


class _Gzip:
    """A member of a gzip file."""

    def __init__(self) -> None:
        self._stream = zlib.decompressobj(wbits=31)
        self._head = b""
        self._empty = True

    @property
    def eof(self) -> bool:
        return self._stream.eof

    @property
    def needs_input(self) -> bool:
        return not self._stream.unconsumed_tail

    @property
    def unused_data(self) -> bytes:
        return self._stream.unused_data

    @property
    def goes_on(self) -> bool:
        """Whether it is a block of bgzip with something in it, which is never the last of a whole file."""
        return self._head[_MARKED] == b"BC" and not self._empty

    def decompress(self, data: bytes, max_length: int) -> bytes:
        if len(self._head) < _MARKED.stop:
            self._head += data[: _MARKED.stop]
        found = self._stream.decompress(self._stream.unconsumed_tail + data, max_length)
        self._empty = self._empty and not found
        return found


_MEMBERS: dict[str, Callable[[], _Member]] = {".gz": _Gzip, ".bz2": bz2.BZ2Decompressor, ".xz": lzma.LZMADecompressor}


class _Members(io.RawIOBase):
    """The members of a packed file, one behind the other.

    Unlike `bz2.open` and `lzma.open` it raises OSError for bytes behind the last member that are no member, and unlike `gzip.open`
    EOFError for a bgzip file without its last block: records would be lost.
    """

    def __init__(self, raw: IO[bytes], begin: Callable[[], _Member], fault: str | None = None) -> None:
        self._raw, self._begin, self._fault = raw, begin, fault
        self._member: _Member = begin()
        self._data = b""
        self._ended = False

    def readable(self) -> bool:
        return True

    def close(self) -> None:
        if not self.closed:
            self._raw.close()
        super().close()

    def readinto(self, buffer: Any) -> int:
        found = b""
        if self._fault is not None:
            raise OSError(self._fault)
        try:
            while not found and not self._ended:
                found = self._some(len(buffer))
        except (zlib.error, lzma.LZMAError) as error:
            raise OSError(f"its packing is damaged ({error}); copy or download it again") from error
        buffer[: len(found)] = found
        return len(found)

    def _some(self, size: int) -> bytes:
        data = b""
        if self._member.needs_input:
            data, self._data = self._data or self._raw.read(_READ), b""
            if not data:
                raise EOFError("its packing ends in the middle; copy or download it again")
        found = self._member.decompress(data, size)
        if self._member.eof:
            self._data = self._member.unused_data
            self._next()
        return found

    def _next(self) -> None:
        """Begin the next member, if there is one behind zeros, with which tapes, tar and xz fill up."""
        left = self._data.lstrip(b"\0")
        while not left and (data := self._raw.read(_READ)):
            left = data.lstrip(b"\0")
        self._data = left
        if left:
            self._member = self._begin()
            return
        self._ended = True
        if isinstance(self._member, _Gzip) and self._member.goes_on:
            raise EOFError("it lacks the block that ends a bgzip file and may have been cut; copy or make it again")

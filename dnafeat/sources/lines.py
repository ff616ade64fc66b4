"""Bytes of a text file with one kind of line end and no byte order marks, in large chunks, whatever the file has."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from typing import IO

import numpy as np

_BOM = b"\xef\xbb\xbf"
# What may go on in the next chunk: line ends, white space before a header, and the bytes of a mark.
_OPEN = b"\r\n \t" + _BOM
_LONGEST_OPEN = 1 << 16  # bytes
_INDENT = re.compile(rb"(?<=\n)[ \t]+(?=[>;])")
_COMMENT = re.compile(rb"(?<=\n);[^\n]*")


def chunks(file: IO[bytes], size: int) -> Iterator[bytes]:
    r"""Chunks in which every line ends in `\n`: a lone `\r` (old Macs, Excel) ends a line, and `\r\n` and `\r\r\n` end one.

    Byte order marks go wherever they stand: inside a file they are where several were put together, and no letters. A chunk ends behind
    a letter and not in the white space between lines, so that a line end and the beginning of the next line come together.
    """
    held = b""
    while block := file.read(size):
        data = held + block
        end = len(data.rstrip(_OPEN))
        if len(data) - end > _LONGEST_OPEN:
            # Blank lines without end: only what would be read as something else when cut stays together.
            end = len(data.rstrip(b"\r" + _BOM)) or len(data)
        data, held = data[:end], data[end:]
        if data:
            yield _plain(data)
    if held:
        yield _plain(held)


def without_comments(blocks: Iterable[bytes]) -> Iterator[bytes]:
    """Chunks in which lines that start with `;` are empty, so that lines keep their numbers, and no blanks stand before `>` and `;`."""
    edge = b"\n"  # what stands before the chunk
    inside = False  # a comment goes on into the chunk
    for block in blocks:
        last = block[-1:]
        if inside:
            _, newline, rest = block.partition(b"\n")
            block, inside = newline + rest, not newline
        if _is_indented(block):
            block = _INDENT.sub(b"", edge + block)[1:]
        if b";" in block and (b"\n;" in block or (edge == b"\n" and block.startswith(b";"))):
            text = edge + block
            inside = text.rpartition(b"\n")[2].startswith(b";")
            block = _COMMENT.sub(b"", text)[1:]
        edge = last
        yield block


def _is_indented(block: bytes) -> bool:
    """Return whether a blank stands before `>` or `;` anywhere. A search for two letters takes ten times as long as one for one."""
    letters = np.frombuffer(block, np.uint8)
    at = np.flatnonzero(letters == ord(">"))
    if b";" in block:
        at = np.concatenate([at, np.flatnonzero(letters == ord(";"))])
    before = letters[at[at > 0] - 1]
    return bool(((before == ord(" ")) | (before == ord("\t"))).any())


def _plain(data: bytes) -> bytes:
    if _BOM[:1] in data:
        data = data.replace(_BOM, b"")
    if b"\r" in data:
        while b"\r\n" in data:
            data = data.replace(b"\r\n", b"\n")
        data = data.replace(b"\r", b"\n")
    return data

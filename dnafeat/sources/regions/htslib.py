"""Files that htslib reads itself: how it reaches them, and what bgzip's blocks tell without it.

htslib takes a path or a URL and no file object, knows no `AWS_ENDPOINT_URL`, and looks for an index in the working directory. So it gets a
signed URL, and every index by name.
"""

from __future__ import annotations

import struct
import zlib
from datetime import datetime

import numpy as np
import pysam

from dnafeat import storage
from dnafeat.errors import UsageError, one_line

# What goes wrong is raised, and said in one sentence.
pysam.set_verbosity(0)

# A signed URL lives as long as this, in seconds, or as its credentials.
_SIGNED = 24 * 3600
_GZIP = b"\x1f\x8b"
_HEADER = 18  # bytes of a block's header as bgzip writes it


def address(uri: str) -> str:
    """What htslib opens for a path or URI. Raises UsageError for a storage that cannot sign URLs."""
    storage.check_regular(uri)
    if storage.is_local(uri):
        return storage.absolute(uri)
    fs, path = storage.filesystem(uri)
    try:
        return str(fs.sign(path, expiration=_SIGNED))
    except (NotImplementedError, *storage.STORAGE_ERRORS) as error:
        wrong = storage.fault(error, UsageError)
        raise wrong(f"{uri} cannot be opened by URL: {one_line(error)}; copy the file to a local disk or to S3") from error


def read_range(uri: str, start: int, end: int) -> bytes:
    """Bytes of a file as it lies. Raises UsageError when they cannot be read."""
    storage.check_regular(uri)
    try:
        return storage.read_ranges([(uri, start, end)])[0]
    except FileNotFoundError:
        raise UsageError(f"{uri} does not exist") from None
    except storage.STORAGE_ERRORS as error:
        raise storage.fault(error, UsageError)(f"{uri} cannot be read: {one_line(error)}") from error


def modified(uri: str) -> datetime:
    """When a file was changed last, by the clock of its storage."""
    fs, path = storage.filesystem(uri)
    try:
        return storage.modified(fs.info(path))
    except storage.STORAGE_ERRORS as error:
        raise storage.fault(error, UsageError)(f"{uri} cannot be read: {one_line(error)}") from error


def is_bgzf(uri: str) -> bool | None:
    """Whether a file is packed by bgzip; None for one that is packed by gzip, and False for one that is not packed."""
    start = read_range(uri, 0, _HEADER)
    if not start.startswith(_GZIP):
        return False
    return True if block_size(start) else None


def block_size(header: bytes) -> int:
    """The bytes of a bgzip block as it lies, by its header; 0 for what is none."""
    if len(header) < _HEADER or header[:4] != b"\x1f\x8b\x08\x04" or header[12:16] != b"BC\x02\x00":
        return 0
    return int(struct.unpack_from("<H", header, 16)[0]) + 1


def packed_range(uri: str, gzi: bytes, start: int, end: int) -> bytes:
    """The unpacked bytes from `start` to before `end` of a file packed by bgzip, with its .gzi. Raises ValueError for a wrong index."""
    count = struct.unpack_from("<Q", gzi)[0]
    pairs = np.frombuffer(gzi, "<u8", 2 * count, 8).reshape(-1, 2)
    blocks = np.concatenate([np.zeros((1, 2), "<u8"), pairs])
    at = int(np.searchsorted(blocks[:, 1], start, side="right")) - 1
    place, begins = (int(value) for value in blocks[at])
    found = b""
    while begins + len(found) < end:
        size = block_size(read_range(uri, place, place + _HEADER))
        if not size:
            raise ValueError("its blocks are not where the index says")
        block = read_range(uri, place, place + size)
        letters = zlib.decompress(block[_HEADER:-8], wbits=-15)
        if not letters:
            raise ValueError("it ends before the index does")
        found, place = found + letters, place + size
    return found[start - begins : end - begins]

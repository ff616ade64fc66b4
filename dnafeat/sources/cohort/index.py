"""Indexes of VCF and BCF files (.tbi, .csi), and whether one is of the file that it lies beside.

htslib takes an index of another file as it is, and then finds fewer records or none without a word. An index ends where its file's last
record ends: so much is compared.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np

from dnafeat import storage
from dnafeat.errors import UsageError
from dnafeat.sources.regions.htslib import block_size, is_bgzf, modified, read_range

_SUFFIXES = (".csi", ".tbi")
_EOF = bytes.fromhex("1f8b08040000000000ff0600424302001b0003000000000000000000")
_VCF = 2  # tabix's number for it
_BLOCK = 1 << 16  # bytes that a block has at most, packed or not


class Index(NamedTuple):
    """An index, and whether it knows of any record."""

    uri: str
    has_records: bool


def find(uri: str) -> Index:
    """The index beside a file. Raises UsageError, with what cures it, where there is none, or it is not of the file."""
    name = storage.name(uri)
    packed = is_bgzf(uri)
    if not packed:
        how, unpack = ("packed by gzip", "gunzip -c") if packed is None else ("not packed", "cat")
        target = f"{name.removesuffix('.gz')}.gz" if packed is False else f"sorted-{name}"
        raise UsageError(
            f"{uri} is {how}, so that no record can be found by its place: pack and index it with `{unpack} {name} | bgzip > {target}` and "
            f"`tabix -p vcf {target}`"
        )
    there = [f"{uri}{suffix}" for suffix in _SUFFIXES if storage.exists(f"{uri}{suffix}")]
    if not there:
        cure = f"bcftools index {name}" if name.endswith(".bcf") else f"tabix -p vcf {name}"
        raise UsageError(
            f"{uri} has no index beside it: make one with `{cure}`, and where the file is not sorted, sort it first with `bcftools sort`"
        )
    found = max(there, key=modified)
    return Index(found, _check(uri, found))


def contigs(file: Any) -> list[str]:
    """The contigs that an opened file's index has: of BCF those of the header, in whose order it counts them."""
    own = getattr(file.index, "refnames", None)
    return list(own) if own is not None else list(file.header.contigs)


def _check(uri: str, found: str) -> bool:
    """Whether an index knows of any record. Raises UsageError where it is not that of the file."""
    cure = f"make it again with `bcftools index -f {storage.name(uri)}`"
    size = storage.size(uri)
    if size < len(_EOF) or read_range(uri, size - len(_EOF), size) != _EOF:
        raise UsageError(f"{uri} is cut off: it has no bgzip end mark; copy it again")
    try:
        end = last_offset(_unpacked(read_range(found, 0, storage.size(found))))
    except (ValueError, struct.error, zlib.error):
        raise UsageError(f"{found} is damaged, or not the index of a VCF or BCF file: {cure}") from None
    if end is not None and not _ends_at(uri, size, end):
        raise UsageError(f"{found} is not the index of {uri} as it is now: {cure}")
    return end is not None


def _unpacked(data: bytes) -> bytes:
    """An index without its packing."""
    parts = []
    while data:
        unpacker = zlib.decompressobj(31)
        parts.append(unpacker.decompress(data) + unpacker.flush())
        if not unpacker.eof:
            raise ValueError("cut off")
        data = unpacker.unused_data
    return b"".join(parts)


def last_offset(index: bytes) -> int | None:
    """The virtual offset behind the last record that an unpacked .tbi or .csi knows; None where it knows none.

    Raises ValueError or struct.error for what is neither (SAM/BAM and related specifications: tabix, CSI).
    """
    if index[:4] == b"TBI\x01":
        count, kind = struct.unpack_from("<2i", index, 4)
        names = struct.unpack_from("<i", index, 32)[0]
        if kind & 0xFFFF != _VCF:
            raise ValueError("made for another kind of file")
        return _last(index, 36 + names, count, depth=5, has_offsets=False)
    if index[:4] == b"CSI\x01":
        depth, extra = struct.unpack_from("<2i", index, 8)
        count = struct.unpack_from("<i", index, 16 + extra)[0]
        if extra >= 4 and struct.unpack_from("<i", index, 16)[0] & 0xFFFF != _VCF:
            raise ValueError("made for another kind of file")
        return _last(index, 20 + extra, count, depth=depth, has_offsets=True)
    raise ValueError("neither .tbi nor .csi")


def _last(index: bytes, at: int, count: int, depth: int, has_offsets: bool) -> int | None:
    # A bin of this number holds counts and no chunks.
    counts = ((1 << (3 * depth + 3)) - 1) // 7 + 1
    ends = []
    for _ in range(count):
        bins = struct.unpack_from("<i", index, at)[0]
        at += 4
        for _ in range(bins):
            number = struct.unpack_from("<I", index, at)[0]
            at += 12 if has_offsets else 4
            chunks = struct.unpack_from("<i", index, at)[0]
            if number != counts and chunks:
                ends.append(int(np.frombuffer(index, "<u8", 2 * chunks, at + 4)[1::2].max()))
            at += 4 + 16 * chunks
        if not has_offsets:
            at += 4 + 8 * struct.unpack_from("<i", index, at)[0]
    return max(ends, default=None)


def _ends_at(uri: str, size: int, offset: int) -> bool:
    """Whether nothing is behind a virtual offset of a file but the rest of its block, which is empty, and empty blocks."""
    start, inside = offset >> 16, offset & 0xFFFF
    if start >= size or size - start > 2 * _BLOCK:
        return False
    blocks = list(_blocks(read_range(uri, start, size)))
    return bool(blocks) and blocks[0] == inside and not any(blocks[1:])


def _blocks(data: bytes) -> Iterator[int]:
    """The unpacked size of each block; nothing at all where they are none."""
    sizes, at = [], 0
    while at < len(data):
        size = block_size(data[at : at + 18])
        if not size or at + size > len(data):
            return
        sizes.append(int(struct.unpack_from("<I", data, at + size - 4)[0]))
        at += size
    yield from sizes

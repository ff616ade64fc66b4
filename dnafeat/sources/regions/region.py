"""A region of a genome: its parts in order of transcription, its names, and how it is extended and cut into tiles."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import NamedTuple

from dnafeat import sequence as dna
from dnafeat.errors import UsageError


class Part(NamedTuple):
    """A stretch of a contig: 0-based, half open, read on `strand` + or -."""

    start: int
    end: int
    strand: str = "+"

    def read(self, forward: bytes) -> bytes:
        """The letters as the strand has them, of those of the forward strand."""
        return dna.reverse_complement(forward) if self.strand == "-" else forward


@dataclass(frozen=True, kw_only=True)
class Region:
    """A named region.

    Attributes
    ----------
    name : str
        `region_id` of its entries; unique in a run.
    contig : str
    parts : tuple of Part
        In order of transcription.
    file, row : str, int
        Where it is defined, 1-based.
    gene_id, transcript_id, gene_name, biotype : str or None
    tile : (int, int) or None
        First base and end of a tile on the contig, 0-based and half open. Over the origin of a circular contig the end is the smaller.
    """

    name: str
    contig: str
    parts: tuple[Part, ...]
    file: str
    row: int
    gene_id: str | None = None
    transcript_id: str | None = None
    gene_name: str | None = None
    biotype: str | None = None
    tile: tuple[int, int] | None = None

    @property
    def place(self) -> str:
        """For a sentence: `genes.bed, line 3`."""
        return f"{self.file}, line {self.row}"

    @property
    def strand(self) -> str:
        """+ or -, or . where the parts are on both."""
        strands = {part.strand for part in self.parts}
        return strands.pop() if len(strands) == 1 else "."

    @property
    def first(self) -> int:
        """Its lowest base, 0-based."""
        return min(part.start for part in self.parts)

    @property
    def bases(self) -> int:
        return sum(part.end - part.start for part in self.parts)

    @property
    def keys(self) -> dict[str, str | None]:
        """Values of the key columns by their names."""
        start, end = (None, None) if self.tile is None else map(str, self.tile)
        return {
            "gene_id": self.gene_id,
            "transcript_id": self.transcript_id,
            "region_id": self.name,
            "gene_name": self.gene_name,
            "biotype": self.biotype,
            "strand": self.strand,
            "start": start,
            "end": end,
        }


def wrapped(start: int, end: int, strand: str, length: int) -> tuple[Part, ...]:
    """A stretch of a circular contig, which may begin before base 0 or end behind the last, as parts in order of transcription.

    Raises ValueError for one that is longer than the contig.
    """
    if end - start > length:
        raise ValueError
    start, end = start % length, start % length + end - start
    if end <= length:
        return (Part(start, end, strand),)
    parts = Part(start, length, strand), Part(0, end - length, strand)
    return parts[::-1] if strand == "-" else parts


@dataclass(frozen=True)
class Contig:
    """A contig's name, length in bases, and whether it is circular."""

    name: str
    length: int
    circular: bool = False

    def stretch(self, start: int, end: int, strand: str) -> tuple[tuple[Part, ...], bool]:
        """The parts from `start` to before `end`, and whether some of it lies outside of the contig and was left out."""
        if self.circular:
            try:
                return wrapped(start, end, strand, self.length), False
            except ValueError:
                start = end - self.length
                return wrapped(start, end, strand, self.length), True
        low, high = max(0, start), min(self.length, end)
        return ((Part(low, high, strand),) if low < high else ()), (low, high) != (start, end)


def promoter(region: Region, up: int, down: int, contig: Contig) -> tuple[Region, bool]:
    """The bases before and after a region's 5' end, and whether they were cut at an end of the contig."""
    first = region.parts[0]
    low, high = (first.end - down, first.end + up) if first.strand == "-" else (first.start - up, first.start + down)
    return _resized(region, contig.stretch(low, high, first.strand))


def flanked(region: Region, up: int, down: int, contig: Contig) -> tuple[Region, bool]:
    """A region with bases before its 5' end and after its 3' end, and whether they were cut at an end of the contig."""
    (first, last), between = (region.parts[0], region.parts[-1]), region.parts[1:-1]
    before = (first.end, first.end + up) if first.strand == "-" else (first.start - up, first.start)
    after = (last.start - down, last.start) if last.strand == "-" else (last.end, last.end + down)
    head, cut_head = contig.stretch(*before, first.strand) if up else ((), False)
    tail, cut_tail = contig.stretch(*after, last.strand) if down else ((), False)
    own = (first, *between, last) if len(region.parts) > 1 else (first,)
    return _resized(region, (_joined((*head, *own, *tail)), cut_head or cut_tail))


def _resized(region: Region, found: tuple[tuple[Part, ...], bool]) -> tuple[Region, bool]:
    parts, cut = found
    if not parts:
        raise UsageError(f"{region.place}: nothing of region {region.name!r} is left on contig {region.contig} with these flanks")
    return replace(region, parts=parts), cut


def _joined(parts: tuple[Part, ...]) -> tuple[Part, ...]:
    """Parts with those put together that touch each other."""
    done: list[Part] = []
    for part in parts:
        last = done[-1] if done else None
        if last and last.strand == part.strand == "+" and last.end == part.start:
            done[-1] = Part(last.start, part.end, "+")
        elif last and last.strand == part.strand == "-" and part.end == last.start:
            done[-1] = Part(part.start, last.end, "-")
        else:
            done.append(part)
    return tuple(done)


def tiles(region: Region, tile: int, stride: int) -> Iterator[Region]:
    """Cut a region into tiles of the reference, from its lowest base up whatever its strand, named `<region>:<start>-<end>`.

    Tiles start every `stride` bases of the region, and end with the first that reaches its end, which may be shorter. Introns do not
    count. Start and end are bases of the contig.
    """
    backwards = region.strand == "-"
    upward = region.parts[::-1] if backwards else region.parts
    start = 0
    while True:
        parts = tuple(_slice(upward, start, start + tile))
        low, high = (
            (parts[0].end, parts[-1].start) if parts[0].strand == "-" and not backwards else (parts[0].start, parts[-1].end)
        )
        name = f"{region.name}:{low}-{high}"
        yield replace(region, name=name, parts=parts[::-1] if backwards else parts, tile=(low, high))
        if start + tile >= region.bases:
            return
        start += stride
        if start >= region.bases:
            return


def _slice(parts: tuple[Part, ...], first: int, end: int) -> Iterator[Part]:
    """The bases from `first` to before `end` of parts whose order is the one of reading, upward where all are on one strand."""
    upward = len({part.strand for part in parts}) == 1
    at = 0
    for part in parts:
        size = part.end - part.start
        low, high = max(first - at, 0), min(end - at, size)
        if low < high:
            turned = part.strand == "-" and not upward
            yield Part(part.end - high, part.end - low, "-") if turned else Part(part.start + low, part.start + high, part.strand)
        at += size

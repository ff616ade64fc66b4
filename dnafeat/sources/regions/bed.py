"""BED files of 3 to 12 columns, and narrowPeak and broadPeak, as regions."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

from dnafeat.errors import UsageError
from dnafeat.sources.regions.lines import Line
from dnafeat.sources.regions.region import Part, Region

_FEWEST = 3
_BLOCKS = 12  # columns of a file with blocks


def read_bed(lines: Iterator[Line], splice: bool) -> Iterator[Region]:
    """The regions of a BED file. With `splice` the blocks of each, joined. Raises UsageError, which names the line."""
    for line in lines:
        cells = line.text.split("\t") if "\t" in line.text else line.text.split()
        if len(cells) < _FEWEST:
            raise UsageError(f"{line.place}: {len(cells)} columns, and BED has 3 to 12, with tabs between them")
        start, end = _number(cells[1], "start", line), _number(cells[2], "end", line)
        if start >= end:
            raise UsageError(
                f"{line.place}: the region starts at {start} and ends at {end}: BED counts from 0 and its end is not in it"
            )
        name = cells[3].strip() if len(cells) > 3 and cells[3].strip() not in ("", ".") else f"{cells[0]}:{start}-{end}"
        strand = cells[5] if len(cells) > 5 else "."
        if strand not in ("+", "-", "."):
            raise UsageError(f"{line.place}: the strand is {strand!r}: write +, - or .")
        strand = "-" if strand == "-" else "+"
        parts = _blocks(cells, start, end, strand, line) if splice else (Part(start, end, strand),)
        yield Region(name=name, contig=cells[0], parts=parts, file=line.file, row=line.row, gene_id=name)


def _blocks(cells: list[str], start: int, end: int, strand: str, line: Line) -> tuple[Part, ...]:
    if len(cells) < _BLOCKS:
        raise UsageError(f"{line.place}: {len(cells)} columns, so that there are no blocks to splice: give a file of 12 columns")
    count = _number(cells[9], "block count", line)
    sizes, starts = ([_number(one, "block", line) for one in cells[at].rstrip(",").split(",")] for at in (10, 11))
    parts = [Part(start + at, start + at + size, strand) for at, size in zip(starts, sizes, strict=False)]
    upward = all(a.end <= b.start for a, b in itertools.pairwise(parts))
    if not (
        len(sizes) == len(starts) == count and upward and min(sizes) > 0 and parts[0].start == start and parts[-1].end == end
    ):
        raise UsageError(
            f"{line.place}: its {count} blocks do not fit its start and end: they rise and do not overlap in a BED file"
        )
    return tuple(parts[::-1] if strand == "-" else parts)


def _number(text: str, what: str, line: Line) -> int:
    try:
        value = int(text)
    except ValueError:
        value = -1
    if value < 0:
        raise UsageError(f"{line.place}: the {what} is {text[:100]!r}: it is a whole number, 0 or more")
    return value

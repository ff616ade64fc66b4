"""Variants of a cohort or a list of sites, one allele at a time, in the order of the genome: what each changes, and who carries it."""

from __future__ import annotations

import itertools
from collections import Counter, deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from dnafeat.errors import UsageError
from dnafeat.sources.cohort import alleles as rules
from dnafeat.sources.cohort import files
from dnafeat.sources.cohort.alleles import Record, check_reference, record_of
from dnafeat.sources.cohort.files import CohortFiles, CohortReader
from dnafeat.sources.cohort.haplotypes import calls_of, passes
from dnafeat.sources.regions.genome import Genome, GenomeIndex
from dnafeat.sources.regions.region import Region

SKIPPED = ("star", "symbolic", "reference", "repeated")
# Packed bytes of the files that a portion reads, and stretches of it at most.
_BYTES, _STRETCHES = 32 * 2**20, 200
# GenomeLetters of the genome that are read at a time.
_BLOCK = 1 << 16


class Variant(NamedTuple):
    """An allele that changes letters.

    Attributes
    ----------
    name : str
        `contig-position-ref-alt`, without the bases that both alleles have at their ends.
    contig : str
    start : int
        First base of `ref`, 0-based.
    ref, alt : str
        As in the name.
    kind : str
        snv, mnv, insertion, deletion or delins.
    at : int
        First base that differs: the record's start and the beginning that its alleles have in common.
    removed : int
        Bases from `at` on that are replaced.
    added : bytes
        What replaces them.
    regions : tuple of Region
        Those that it changes; empty where none are asked for.
    carriers, alleles : int or None
        Of the samples that are taken, alleles of this kind, and all that are known; None without samples.
    """

    name: str
    contig: str
    start: int
    ref: str
    alt: str
    kind: str
    at: int
    removed: int
    added: bytes
    regions: tuple[Region, ...]
    carriers: int | None
    alleles: int | None


class Stretch(NamedTuple):
    """A stretch of a contig, 0-based and half open; `before` is where the one before it on the contig ends."""

    contig: str
    start: int
    end: int
    before: int


@dataclass(frozen=True)
class VariantLayout:
    """What is known of variants before records are read; can be sent to other processes.

    Attributes
    ----------
    genome : GenomeIndex
    cohort : CohortFiles
    regions : tuple of Region or None
        Only variants that change these; None: all.
    only_pass : bool
    """

    genome: GenomeIndex
    cohort: CohortFiles
    regions: tuple[Region, ...] | None
    only_pass: bool = False

    @property
    def unpacked(self) -> int:
        """Bytes of the files, unpacked, about."""
        return 20 * sum(self.cohort.sizes)

    def portions(self) -> list[tuple[Stretch, ...]]:
        """Neighbouring stretches that can be read side by side with others."""
        density = sum(self.cohort.sizes) / max(1, sum(self.genome.lengths.values()))
        step = max(_BLOCK, int(_BYTES / max(density, 1e-9)))
        found: list[list[Stretch]] = [[]]
        bases = 0
        for stretch in self._stretches(step):
            size = stretch.end - stretch.start
            if found[-1] and (bases + size > step or len(found[-1]) == _STRETCHES):
                found.append([])
                bases = 0
            found[-1].append(stretch)
            bases += size
        return [tuple(some) for some in found]

    def _stretches(self, step: int) -> Iterator[Stretch]:
        for contig, length in self.genome.lengths.items():
            if contig not in self.cohort.contigs:
                continue
            parts = [(0, length)] if self.regions is None else self._spans(contig)
            before = 0
            for start, end in parts:
                for first in range(start, end, step):
                    yield Stretch(contig, first, min(first + step, end), before)
                    before = min(first + step, end)

    def _spans(self, contig: str) -> list[tuple[int, int]]:
        assert self.regions is not None
        return rules.spans([part for region in self.regions if region.contig == contig for part in region.parts])


def look(
    genome: GenomeIndex, vcf: Sequence[str], samples: str | None, regions: Sequence[Region] | None, *, only_pass: bool = False
) -> VariantLayout:
    """Read headers and indexes, and check all that can be checked without records.

    Raises
    ------
    UsageError
        As `cohort.files.look`, and for records on a contig that the genome lacks, unless regions are asked for.
    """
    contigs = None if regions is None else list(dict.fromkeys(region.contig for region in regions))
    cohort = files.look(vcf, samples, genome.lengths, contigs, sites=True)
    genome.check(set(cohort.contigs))
    return VariantLayout(genome, cohort, None if regions is None else tuple(regions), only_pass)


class GenomeLetters:
    """The letters of a genome, read by blocks: variants come in order, and each wants those around it, `margin` bases before it."""

    def __init__(self, genome: Genome, margin: int = 0) -> None:
        self.genome, self.lengths, self.margin = genome, genome.lengths, margin
        self._contig, self._first, self._held = "", 0, b""

    def get(self, contig: str, start: int, end: int) -> bytes:
        """The letters from `start` to before `end`, as they are written."""
        if contig != self._contig or start < self._first or end > self._first + len(self._held):
            first, last = max(0, start - self.margin), min(self.lengths[contig], max(end, start + _BLOCK))
            self._contig, self._first, self._held = contig, first, self.genome.letters(contig, first, last)
        return self._held[start - self._first : end - self._first]


class _Parts:
    """The parts of the regions of a contig, to find those that a variant changes."""

    def __init__(self, regions: Sequence[Region]) -> None:
        every = [(part.start, part.end, at) for at, region in enumerate(regions) for part in region.parts]
        self.regions = regions
        self.starts, self.ends, self.owners = (np.array(column, np.int64) for column in zip(*every, strict=True))

    def changed(self, start: int, end: int) -> list[tuple[int, Region]]:
        """The first base that a change from `start` to before `end` has in each region that it touches, and the region."""
        first: dict[int, int] = {}
        for at in np.flatnonzero((self.starts < end) & (self.ends > start)).tolist():
            owner, base = int(self.owners[at]), max(start, int(self.starts[at]))
            first[owner] = min(base, first.get(owner, base))
        return [(base, self.regions[owner]) for owner, base in sorted(first.items())]


def read(layout: VariantLayout, portion: Sequence[Stretch], letters: GenomeLetters, counts: Counter[str]) -> Iterator[Variant]:
    """Read the variants of some stretches in order, each once, and count `records`, `variants` and those of `SKIPPED`.

    A variant with regions in several stretches comes once for each of these, with the regions that begin to change there.

    Raises
    ------
    UsageError
        A file that is damaged, or of another genome.
    """
    with CohortReader(layout.cohort) as cohort:
        for contig, stretches in itertools.groupby(portion, lambda one: one.contig):
            own = None if layout.regions is None else _Parts([one for one in layout.regions if one.contig == contig])
            for stretch in stretches:
                yield from _Stretches(layout, cohort, letters, own, counts).read(stretch)


class _Stretches:
    """Reads the variants of stretches of one contig."""

    def __init__(
        self, layout: VariantLayout, cohort: CohortReader, letters: GenomeLetters, parts: _Parts | None, counts: Counter[str]
    ) -> None:
        self.layout, self.cohort, self.letters, self.parts, self.counts = layout, cohort, letters, parts, counts

    def read(self, stretch: Stretch) -> Iterator[Variant]:
        seen: set[str] = set()
        order: deque[tuple[int, str]] = deque()
        length = self.letters.lengths[stretch.contig]
        # A record behind the contig's end shows that the file is of another genome.
        end = None if self.parts is None and stretch.end == length else stretch.end
        for found in self.cohort.records(stretch.contig, stretch.start, end):
            if self.layout.only_pass and not passes(found):
                continue
            record = record_of(found, stretch.contig)
            self._check(record)
            # A record that reaches over from the stretch before is counted there.
            is_first = record.start >= stretch.before
            self.counts["records"] += is_first
            # Later records begin no earlier, and so do their alleles.
            while order and order[0][0] < record.start:
                seen.discard(order.popleft()[1])
            numbers = None
            for allele, alt in enumerate(record.alts, 1):
                why = rules.SYMBOLIC if alt == rules.DELETION else rules.kind(alt)
                if why is None and alt.upper() == record.ref.upper():
                    why = ""
                if why is not None:
                    self.counts[why or "reference"] += is_first
                    continue
                place = self._placed(record, allele, stretch)
                if place is None:
                    continue
                variant, is_counted = place
                if variant.name in seen:
                    self.counts["repeated"] += is_counted
                    continue
                seen.add(variant.name)
                order.append((variant.start, variant.name))
                self.counts["variants"] += is_counted
                if self.cohort.samples and numbers is None:
                    numbers = self._numbers(record, found)
                if numbers is not None:
                    variant = variant._replace(carriers=int(numbers[allele]), alleles=int(numbers.sum()))
                yield variant

    def _check(self, record: Record) -> None:
        length = self.letters.lengths[record.contig]
        if record.start >= length:
            raise UsageError(f"{record.place}: the genome has {length} bases of {record.contig}: the cohort is of another genome")
        end = min(record.start + len(record.ref), length)
        check_reference(record, self.letters.get(record.contig, record.start, end), "the cohort")

    def _numbers(self, record: Record, found: Any) -> np.ndarray:
        """How often the samples have each allele, REF first: (1 + ALTs,) int64."""
        alleles = calls_of(record, found, self.cohort.samples).alleles
        return np.bincount(alleles[alleles >= 0], minlength=1 + len(record.alts))

    def _placed(self, record: Record, allele: int, stretch: Stretch) -> tuple[Variant, bool] | None:
        """An allele, and whether it is counted in this stretch; None where it belongs to another, or to no region."""
        ref, alt = record.ref.upper(), record.alts[allele - 1].upper()
        common = 0
        while common < min(len(ref), len(alt)) and ref[common] == alt[common]:
            common += 1
        at, removed, added = record.start + common, ref[common:], alt[common:]
        kind, changed = _change(at, removed, added, record.start)
        regions: tuple[Region, ...] = ()
        first = changed[0]
        if self.parts is not None:
            hits = self.parts.changed(*changed)
            first = min((base for base, _ in hits), default=-1)
            regions = tuple(region for base, region in hits if stretch.start <= base < stretch.end)
        is_counted = stretch.start <= first < stretch.end
        if not is_counted and not regions:
            return None
        start, ref, alt = record.trimmed(allele)
        name = f"{record.contig}-{start + 1}-{ref}-{alt}"
        own = Variant(name, record.contig, start, ref, alt, kind, at, len(removed), added.encode(), regions, None, None)
        return own, is_counted


def _change(at: int, removed: str, added: str, record_start: int) -> tuple[str, tuple[int, int]]:
    """The kind of a change that begins `at`, and the bases that it changes: of an insertion the base that it follows."""
    shared = 0
    while shared < min(len(removed), len(added)) and removed[-1 - shared] == added[-1 - shared]:
        shared += 1
    gone, come = len(removed) - shared, len(added) - shared
    if not gone:
        anchor = max(at - 1, record_start)
        return "insertion", (anchor, anchor + 1)
    if not come:
        return "deletion", (at, at + gone)
    if gone == come:
        return ("snv" if gone == 1 else "mnv"), (at, at + gone)
    return "delins", (at, at + gone)

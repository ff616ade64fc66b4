"""Regions of a genome, and the people who carry variants in them, as a source: checked, cut into portions, read region by region."""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np

from dnafeat.errors import UsageError
from dnafeat.sources.cohort import files
from dnafeat.sources.cohort.files import CohortFiles, CohortReader
from dnafeat.sources.cohort.haplotypes import CohortReading, RegionHaplotypes, joined, letters_of, read_region
from dnafeat.sources.regions import genome, load
from dnafeat.sources.regions.config import GenomeConfig
from dnafeat.sources.regions.genome import Genome, GenomeIndex
from dnafeat.sources.regions.region import Region

SUBJECT, HAPLOTYPE = "subject_id", "haplotype"
# Regions of a portion, and packed bytes of the cohort's files that it reads.
_REGIONS, _BYTES = 200, 32 * 2**20
# How distinct haplotypes grow with people: n to the power of this, of measured cohorts.
_GROWTH = 0.65
_UNPACKED = 20  # times the size of a packed VCF, or of a BCF


@dataclass(frozen=True)
class RegionLayout:
    """What is known of regions and their cohort before letters and records are read; can be sent to other processes.

    Attributes
    ----------
    genome : GenomeIndex
    regions : tuple of Region
        In the order of contig and start.
    cohort : CohortFiles or None
        None: the genome's own letters, once.
    how : CohortReading
    max_n_run : int or None
    counts : dict of str to int
        What is counted before anything is read.
    """

    genome: GenomeIndex
    regions: tuple[Region, ...]
    cohort: CohortFiles | None
    how: CohortReading
    max_n_run: int | None
    counts: dict[str, int]

    @property
    def keys(self) -> list[str]:
        """Key columns of the entries: those of which a region has a value."""
        own = dict.fromkeys(name for region in self.regions for name, value in region.keys.items() if value is not None)
        order = [name for name in self.regions[0].keys if name in own]
        return [*([SUBJECT, HAPLOTYPE] if self.cohort else []), *order]

    @property
    def files(self) -> list[str]:
        """Where its entries say that they come from."""
        return list(dict.fromkeys(region.file for region in self.regions))

    @property
    def samples(self) -> tuple[str, ...] | None:
        return self.cohort.samples if self.cohort else None

    @property
    def unpacked(self) -> int:
        """Bytes of what is read, unpacked, about."""
        return self.letters + (_UNPACKED * sum(self.cohort.sizes) if self.cohort else 0)

    @property
    def letters(self) -> int:
        """Letters of distinct haplotypes, about."""
        people = (2 * len(self.cohort.samples)) ** _GROWTH if self.cohort else 1
        return int(sum(region.bases for region in self.regions) * people)

    @property
    def entries(self) -> int:
        """Entries, about."""
        return len(self.regions) * (2 * len(self.cohort.samples) if self.cohort else 1)

    def as_in_file(self) -> RegionLayout:
        """The same with its regions in the order of their lines."""
        return replace(self, regions=tuple(sorted(self.regions, key=lambda region: region.row)))

    def portions(self) -> list[range]:
        """Runs of neighbouring regions that can be read side by side."""
        packed = sum(self.cohort.sizes) / max(1, sum(self.genome.lengths.values())) if self.cohort else 0.0
        found, first, size = [], 0, 0.0
        for at, region in enumerate(self.regions):
            size += packed * region.bases
            if at + 1 - first == _REGIONS or size >= _BYTES or at + 1 == len(self.regions):
                found.append(range(first, at + 1))
                first, size = at + 1, 0.0
        return found


def look(config: GenomeConfig, tile: int | None = None, stride: int | None = None) -> RegionLayout:
    """Read regions, indexes and headers, and check all that can be checked without letters and records.

    Raises
    ------
    UsageError
        As `regions.load` and `cohort.files.look`, and where entries would have the same name.
    """
    assert config.genome is not None
    index = genome.look(config.genome)
    loaded = load.load(config, index.lengths, tile, stride)
    contigs = list(dict.fromkeys(region.contig for region in loaded.regions))
    index.check(set(contigs))
    cohort = files.look(config.vcf, config.samples, index.lengths, contigs) if config.vcf else None
    if cohort:
        _check_ids(cohort.samples, loaded.regions)
    how = CohortReading(
        only_pass=config.pass_, unphased=config.unphased, max_missing=config.max_missing, soft_masked=config.soft_masked
    )
    absent = len(contigs) - len(cohort.contigs) if cohort else 0
    counts = {"cut_flanks": loaded.cut_flanks, "absent_contigs": absent}
    return RegionLayout(index, tuple(loaded.regions), cohort, how, config.max_n_run, counts)


def _check_ids(samples: Sequence[str], regions: Sequence[Region]) -> None:
    """Raise UsageError where `a` and `b/c` are subject and region of one entry, and `a/b` and `c` of another."""
    people, names = set(samples), {region.name for region in regions}
    for name in names:
        for at in (at for at, letter in enumerate(name) if letter == "/"):
            before, behind = name[:at], name[at + 1 :]
            if behind in names and (both := next((one for one in people if f"{one}/{before}" in people), None)):
                raise UsageError(
                    f"samples {both!r} and {both + '/' + before!r} and regions {name!r} and {behind!r} give entries of one name: rename one"
                )


class ReadRegion(NamedTuple):
    """A region with its distinct haplotypes. Without a cohort there is one, of one nameless subject."""

    region: Region
    haplotypes: RegionHaplotypes


def read(layout: RegionLayout, some: range, counts: Counter[str]) -> Iterator[ReadRegion]:
    """Read some regions in order, and count what the rules count.

    Raises
    ------
    UsageError
        A file that is damaged, or of another genome.
    """
    with Genome(layout.genome) as letters, contextlib.ExitStack() as stack:
        cohort = stack.enter_context(CohortReader(layout.cohort)) if layout.cohort else None
        for region in (layout.regions[at] for at in some):
            own = letters_of(letters, region, layout.how.soft_masked)
            if layout.max_n_run is not None and any(b"N" * (layout.max_n_run + 1) in part for part in own):
                counts["masked"] += 1
                continue
            found = _reference(region, own) if cohort is None else read_region(cohort, letters, region, layout.how)
            counts.update(found.counts)
            counts["regions"] += 1
            yield ReadRegion(region, found)


def _reference(region: Region, forward: list[bytes]) -> RegionHaplotypes:
    letters = joined(region.parts, forward)
    return RegionHaplotypes([letters], np.zeros((1, 1), np.int32), [[]], [0], letters)

"""Cohorts of made-up people who share haplotypes: a genome, regions and a VCF, the same for the same seed.

Haplotypes come one after the other. Each copies stretches of earlier ones, fewer and longer ones the more there are to copy from, and
brings new variants, so that most variants are rare and neighbours go together, as in a population that grew from one pair.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import numpy as np

_HEADER = '##fileformat=VCFv4.3\n##FORMAT=<ID=GT,Number=1,Type=String,Description="Genotype">\n'
# Stretches that the second haplotype copies, for each record; the tenth copies a ninth of them.
_SWITCHES = 0.25
_CONTIG, _GAP, _LINE = "chr1", 1000, 60


@dataclass(frozen=True)
class MadeCohort:
    """Files of a cohort."""

    genome: str
    regions: str
    vcf: str


def haplotypes(count: int, records: int, seed: int) -> np.ndarray:
    """Alleles (0 or 1) of haplotypes at the records of a region: (count, records) int8.

    Of 5,000 some 50 are distinct at 45 records and 600 at 415, as msprime has it for 3 kb and 40 kb.
    """
    draw = np.random.default_rng(seed)
    found = np.zeros((count, records), np.int8)
    share = np.cumsum(1 / np.arange(1, count))
    born = 1 + np.searchsorted(share, draw.random(records) * share[-1])
    by_birth = np.argsort(born, kind="stable")
    ends = np.searchsorted(born[by_birth], np.arange(count + 1))
    for at in range(1, count):
        cuts = np.sort(draw.integers(0, records, draw.poisson(_SWITCHES * records / at)))
        for first, end in zip([0, *cuts], [*cuts, records], strict=True):
            found[at, first:end] = found[draw.integers(at), first:end]
        found[at, by_birth[ends[at] : ends[at + 1]]] = 1
    return found


def files(folder: Path) -> MadeCohort:
    """Where `write` puts a cohort."""
    return MadeCohort(*(str(folder / name) for name in ("genome.fa", "regions.bed", "people.vcf.gz")))


def write(
    folder: Path, *, subjects: int, regions: int, bases: int, records: int, seed: int = 0, drawn: Sequence[int] | None = None
) -> MadeCohort:
    """Write a genome, regions of it, and a VCF of SNVs with its index.

    Parameters
    ----------
    subjects : int
        Of two haplotypes each.
    records : int
        Of each region.
    drawn : sequence of int or None
        Numbers of haplotypes of these subjects, two for each person of the file; None: they themselves.
    """
    import pysam

    folder.mkdir(parents=True, exist_ok=True)
    draw = np.random.default_rng(seed)
    length = _GAP + regions * (bases + _GAP)
    letters = np.frombuffer(b"ACGT", np.uint8)[draw.integers(0, 4, length, np.uint8)]
    whole = letters.tobytes().decode()
    made = files(folder)
    genome, bed, vcf = Path(made.genome), Path(made.regions), Path(made.vcf.removesuffix(".gz"))
    genome.write_text(f">{_CONTIG}\n" + "".join(f"{whole[i : i + _LINE]}\n" for i in range(0, length, _LINE)))
    pysam.faidx(str(genome))
    starts = _GAP + np.arange(regions) * (bases + _GAP)
    bed.write_text("".join(f"{_CONTIG}\t{at}\t{at + bases}\tr{number:05d}\n" for number, at in enumerate(starts.tolist())))
    people = np.arange(2 * subjects) if drawn is None else np.asarray(drawn)
    names = [f"P{number:06d}" for number in range(len(people) // 2)]
    with vcf.open("wb") as file:
        columns = ["#CHROM", "POS", "ID", "REF", "ALT", "QUAL", "FILTER", "INFO", "FORMAT", *names]
        file.write(f"{_HEADER}##contig=<ID={_CONTIG},length={length}>\n".encode() + "\t".join(columns).encode() + b"\n")
        for number, start in enumerate(starts.tolist()):
            alleles = haplotypes(2 * subjects, records, seed + number)[people]
            places = np.sort(draw.choice(bases, records, replace=False)) + start
            _write_records(file, places, letters, alleles)
    pysam.tabix_compress(str(vcf), f"{vcf}.gz", force=True)
    vcf.unlink()
    pysam.tabix_index(f"{vcf}.gz", preset="vcf", force=True)
    return made


def _write_records(file: IO[bytes], places: np.ndarray, letters: np.ndarray, alleles: np.ndarray) -> None:
    calls = np.tile(np.frombuffer(b"\t0|0", np.uint8), len(alleles) // 2)
    for place, own in zip(places.tolist(), alleles.T, strict=True):
        calls[1::4], calls[3::4] = own[::2] + ord("0"), own[1::2] + ord("0")
        ref = chr(letters[place])
        alt = "ACGT"["ACGT".index(ref) - 1]
        file.write(f"{_CONTIG}\t{place + 1}\t.\t{ref}\t{alt}\t.\t.\t.\tGT".encode() + calls.tobytes() + b"\n")


def redrawn(people: int, subjects: int, seed: int) -> list[int]:
    """Numbers of haplotypes, two for each of some people, drawn from those of fewer subjects."""
    return np.random.default_rng(seed).integers(0, 2 * subjects, 2 * people).tolist()

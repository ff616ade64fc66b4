"""A made-up cohort over a real genome: founders' haplotypes with all kinds of variants, dealt out to people."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from consensus import Wanted
from people import vcf_text, write_genome, write_vcf

from dnafeat.sequence import reverse_complement


@dataclass(frozen=True)
class MadeCohort:
    """Files of a cohort, and what was written into them.

    Attributes
    ----------
    genome, regions, vcf : str
    letters : str
        Of the contig, forward.
    places : dict
        Start, end and strand of each region.
    names : list of str
        The people.
    records : list of tuple
        First base (0-based), REF, ALT and calls of each record.
    """

    folder: Path
    genome: str
    regions: str
    vcf: str
    letters: str
    places: Mapping[str, tuple[int, int, str]]
    names: Sequence[str]
    records: Sequence[tuple[int, str, str, Sequence[str]]]

    def carried(self, region: str, person: int) -> tuple[tuple[tuple[int, str], ...], ...]:
        """Number and text of the alleles that differ from the reference, of both haplotypes of a person in a region."""
        start, end, _ = self.places[region]
        own = [(n, calls[person]) for n, (at, ref, _, calls) in enumerate(self.records) if at < end and at + len(ref) > start]
        pairs = [(n, call.replace("/", "|").split("|")) for n, call in own]
        return tuple(tuple((n, pair[which]) for n, pair in pairs if pair[which] not in "0.") for which in (0, 1))

    def wanted(self, region: str, person: int, number: int) -> Wanted:
        """What bcftools is to build for a haplotype, counted from 1."""
        start, end, _ = self.places[region]
        file = self.folder / f"{region}.fa"
        if not file.exists():
            write_genome(file, {f"c:{start + 1}-{end}": self.letters[start:end]})
        return Wanted(str(file), self.vcf, self.names[person], number)

    def turned(self, region: str, letters: str) -> str:
        """Forward letters as the region's strand has them."""
        return reverse_complement(letters.encode()).decode() if self.places[region][2] == "-" else letters


def make(folder: Path, letters: str, *, people: int, regions: int, sizes: Sequence[int], founders: int, odd: float) -> MadeCohort:
    """Make a cohort. `odd` is the share of calls that are missing, and of those that are unphased."""
    draw = random.Random(3)
    step = (len(letters) - 4_000) // regions
    places = {f"r{i}": (2_000 + step * i, 2_000 + step * i + draw.choice(sizes), "+-"[i % 2]) for i in range(regions)}
    pairs = [(draw.randrange(founders), draw.randrange(founders)) for _ in range(people)]
    records = []
    for start, end, _ in places.values():
        at = start - 12
        while at < end + 4:
            ref, alt = _variant(draw, letters, at, start, end)
            share = draw.choice([0.05, 0.2, 0.5])
            alleles = [draw.randint(1, alt.count(",") + 1) if draw.random() < share else 0 for _ in range(founders)]
            records.append((at, ref, alt, [_call(draw, alleles[a], alleles[b], odd) for a, b in pairs]))
            at += draw.choice([0, 1, 3, 8, 20, 30])
    names = [f"P{i:04}" for i in range(people)]
    (folder / "r.bed").write_text("".join(f"c\t{a}\t{b}\t{name}\t0\t{strand}\n" for name, (a, b, strand) in places.items()))
    rows = [("c", at + 1, ref, alt, *calls) for at, ref, alt, calls in records]
    vcf = write_vcf(folder / "v.vcf.gz", vcf_text({"c": len(letters)}, names, rows))
    genome = write_genome(folder / "g.fa", {"c": letters})
    return MadeCohort(folder, genome, str(folder / "r.bed"), vcf, letters, places, names, records)


def _variant(draw: random.Random, letters: str, at: int, start: int, end: int) -> tuple[str, str]:
    """REF and ALT of a substitution of one or two alleles, an insertion, or a deletion, which may reach over a border."""
    ref, kind = letters[at], draw.random()
    if kind < 0.6:
        return ref, ",".join(draw.sample([base for base in "ACGT" if base != ref], draw.choice([1, 1, 2])))
    # bcftools stops at some indels on a region's last base with a false mismatch.
    if kind < 0.8 and not end - 2 < at < end + 1:
        return ref, ref + "".join(draw.choices("ACGT", k=draw.randint(1, 6)))
    return letters[at : at + draw.randint(2, 14)], ref


def _call(draw: random.Random, first: int, second: int, odd: float) -> str:
    kind = draw.random()
    if kind < odd:
        return draw.choice(["./.", f".|{second}", f"{first}|."])
    return f"{first}{'/' if kind < 2 * odd else '|'}{second}"

"""A thousand people over twenty regions of a real genome, against an independent count and bcftools 1.24."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
from consensus import Wanted, consensus
from people import stored, vcf_text, write_genome, write_vcf

from dnafeat.sequence import reverse_complement
from dnafeat.sources.bundled import LAMBDA
from dnafeat.sources.reader import ReadOptions, read
from dnafeat.sources.regions.config import GenomeConfig

PEOPLE, REGIONS, CHECKED = 1_000, 20, 20
_FLIPPED = "+-"


@pytest.mark.long
def test_a_thousand_people_over_twenty_regions(tmp_path: Path) -> None:
    draw = random.Random(3)
    genome = next(read([LAMBDA], ReadOptions()))["sequence"][0].as_py().decode()
    records = []
    founders = 40
    at = 900
    while at < len(genome) - 1_000:
        ref, kind = genome[at], draw.random()
        if kind < 0.7:
            alt = ",".join(draw.sample([base for base in "ACGT" if base != ref], draw.choice([1, 1, 1, 2])))
        elif kind < 0.85:
            alt = ref + "".join(draw.choices("ACGT", k=draw.randint(1, 6)))
        else:
            ref = genome[at : at + draw.randint(2, 9)]
            alt = ref[0]
        share = draw.choice([0.02, 0.1, 0.4])
        carried = [draw.randint(1, alt.count(",") + 1) if draw.random() < share else 0 for _ in range(founders)]
        records.append((at, ref, alt, carried))
        at += draw.choice([1, 3, 20, 60, 120])
    pairs = [(draw.randrange(founders), draw.randrange(founders)) for _ in range(PEOPLE)]
    rows = []
    for at, ref, alt, carried in records:
        calls = []
        for a, b in pairs:
            told = f"{carried[a]}{'/' if draw.random() < 0.01 else '|'}{carried[b]}"
            calls.append("./." if draw.random() < 0.01 else told)
        rows.append(("c", at + 1, ref, alt, *calls))
    names = [f"P{i:04}" for i in range(PEOPLE)]
    starts = [1_000 + 2_200 * i for i in range(REGIONS)]
    regions = {f"r{i}": (start, start + draw.choice([300, 1_500, 2_500]), _FLIPPED[i % 2]) for i, start in enumerate(starts)}
    (tmp_path / "r.bed").write_text("".join(f"c\t{a}\t{b}\t{name}\t0\t{strand}\n" for name, (a, b, strand) in regions.items()))
    vcf = write_vcf(tmp_path / "v.vcf.gz", vcf_text({"c": len(genome)}, names, rows))
    config = GenomeConfig(genome=write_genome(tmp_path / "g.fa", {"c": genome}), regions=str(tmp_path / "r.bed"), vcf=(vcf,))
    letters, _, _ = stored(config)
    assert len(letters) == PEOPLE * REGIONS * 2
    assert len(set(letters.values())) < len(letters) // 4
    wanted, own = [], []
    for name, (start, end, strand) in regions.items():
        fasta = write_genome(tmp_path / f"{name}.fa", {f"c:{start + 1}-{end}": genome[start:end]})
        for sample in draw.sample(names, CHECKED):
            for number in (1, 2):
                text = letters[sample, name, str(number)]
                wanted.append(Wanted(fasta, vcf, sample, number))
                own.append(reverse_complement(text.encode()).decode() if strand == "-" else text)
    assert consensus(wanted) == own

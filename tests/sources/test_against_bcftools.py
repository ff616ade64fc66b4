"""Kinds of records and regions against `bcftools consensus` 1.24, part by part: one process builds what all cases want."""

from __future__ import annotations

import random
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import pytest
from consensus import ABORTED, Wanted, consensus
from counts import examples
from people import HEADER, stored, write_genome, write_vcf

from dnafeat.sequence import reverse_complement
from dnafeat.sources.regions.config import GenomeConfig

_DRAW = random.Random(5)
LETTERS = "".join(_DRAW.choices("ACGT", k=200))
BED = "c\t50\t80\tr\t0\t+\nc\t90\t120\tm\t0\t-\n"
GFF = "##gff-version 3\n"
FIELDS = "".join(
    f'##{kind}=<ID={name},Number={number},Type={value},Description="x">\n'
    for kind, name, number, value in (
        ("INFO", "END", "1", "Integer"),
        ("INFO", "SVLEN", "A", "Integer"),
        ("FORMAT", "PS", "1", "Integer"),
        ("FORMAT", "DP", "1", "Integer"),
        ("FORMAT", "AD", "R", "Integer"),
    )
)


class Row(NamedTuple):
    """A record: position from 1, ALT as letters or a symbol, bases of REF, and what else its line says."""

    at: int
    alt: str
    size: int = 1
    info: str = "."
    format: str = "GT"
    calls: tuple[str, str] = ("0|1", "1|1")

    @property
    def line(self) -> str:
        ref = LETTERS[self.at - 1 : self.at - 1 + self.size]
        return "\t".join(["c", str(self.at), ".", ref, self.alt, ".", ".", self.info, self.format, *self.calls])


def base(at: int) -> str:
    return LETTERS[at - 1]


def other(at: int) -> str:
    return next(one for one in "ACGT" if one != base(at))


class Case(NamedTuple):
    """Regions of a file and records, and the settings to read them with."""

    rows: Sequence[Row]
    regions: str = BED
    name: str = "r.bed"
    tile: int | None = None
    options: dict = {}  # noqa: RUF012
    version: str = "4.3"


def lengths(info: str) -> list[Row]:
    return [Row(at, "<DEL>", info=info.format(at + 8)) for at in (45, 60, 76, 115)]


def snvs(*places: int) -> list[Row]:
    return [Row(at, other(at)) for at in places]


def dense(seed: int) -> list[Row]:
    """Many records on a few bases."""
    draw, rows = random.Random(seed), []
    for _ in range(draw.randint(10, 40)):
        at, kind = draw.randint(20, 140), draw.random()
        size = 1 if kind < 0.65 else draw.randint(2, 12)
        alt = other(at) if kind < 0.4 else base(at) + "".join(draw.choices("ACGT", k=draw.randint(1, 3)) if kind < 0.65 else "")
        calls = tuple(f"{draw.random() < 0.3:d}|{draw.random() < 0.3:d}" for _ in range(2))
        rows.append(Row(at, alt, size, calls=calls))  # type: ignore[arg-type]
    return sorted(rows)


def coding(*lines: tuple[int, int, str, str]) -> str:
    return GFF + "".join(f"c\tx\tCDS\t{a}\t{b}\t.\t{strand}\t0\tID=p{more}\n" for a, b, strand, more in lines)


BLOCKS = "c\t30\t130\tr\t0\t{}\t30\t130\t0\t4\t10,12,20,25,\t0,15,40,75,\n"
TRANS = coding((100, 120, "-", ";part=1"), (31, 50, "+", ";part=2"), (45, 60, "+", ";part=3"), (61, 70, "-", ";part=4"))
CIRCULAR = GFF + "c\tx\tregion\t1\t200\t.\t+\t.\tID=c;Is_circular=true\nc\tx\tCDS\t191\t215\t.\t{}\t0\tID=p\n"
ORIGIN = [Row(3, base(3) + "GG"), Row(13, base(13), 4), Row(189, base(189), 5), Row(199, base(199), 2)]
GENES = GFF + "c\tx\tgene\t61\t80\t.\t-\t.\tID=g\nc\tx\tgene\t11\t20\t.\t+\t.\tID=h\n"
CDS = {"feature": "CDS"}
CASES = {
    "a length alone, negative": Case(lengths("SVLEN=-8")),
    "a length alone, positive": Case(lengths("SVLEN=8"), version="4.5"),
    "an end beside a length": Case(lengths("SVLEN=-8;END={}")),
    "a deletion of everything": Case([Row(3, "<DEL>", info="END=190")]),
    "a long one from far before": Case([Row(3, "<DEL>", info="SVLEN=-60")]),
    "anchored on the last base": Case([Row(80, "<DEL>", info="END=85")]),
    "anchored before the first": Case([Row(50, "<DEL>", info="END=55"), Row(90, "<DEL>", info="END=91")]),
    "a deletion beside a substitution": Case([Row(60, f"<DEL>,{other(60)}", info="END=65", calls=("1|2", "2|0"))]),
    "phase sets": Case([Row(55, other(55), format="GT:PS", calls=("0|1:55", "0/1")), Row(60, other(60), format="GT:PS")]),
    "fields before the genotype": Case([Row(60, other(60), format="DP:GT:AD", calls=("3:0|1:1,2", ".:1|1:."))]),
    "a record without genotypes": Case([Row(60, other(60), format="DP", calls=("3", "4")), Row(64, other(64))]),
    "twelve alleles": Case([Row(60, ",".join(base(60) + "ACGT"[i % 4] * (i + 1) for i in range(12)), calls=("11|12", "0|3"))]),
    "phases before alleles": Case([Row(60, other(60), calls=("|0|1", "/1/0"))], version="4.4"),
    "no alternative": Case([Row(60, ".", calls=("0|0", "0/0")), Row(61, other(61), calls=("0|1", ".|1"))]),
    "up to the contig's end": Case([Row(190, base(190), 11)], "c\t180\t200\tr\n"),
    "from the contig's start": Case([Row(1, base(3), 3), Row(1, "AC" + base(1), calls=("1|0", "0|0"))], "c\t0\t20\tr\n"),
    "Windows line ends": Case(snvs(60, 100), BED.replace("\n", "\r\n")),
    "promoters": Case(snvs(1, 5, 15, 79, 81, 85, 90), GENES, "r.gff3", options={"promoter": (30, 5)}),
    "flanks": Case(snvs(1, 5, 15, 18, 186, 199), "c\t5\t10\ta\t0\t-\nc\t190\t195\tb\n", options={"flank": (10, 3)}),
    "tiles": Case([Row(60, base(60), 5), Row(74, base(74) + "GG")], tile=8),
    "over the origin": Case(ORIGIN, CIRCULAR.format("+"), "r.gff3", options=CDS),
    "over the origin, minus": Case(ORIGIN, CIRCULAR.format("-"), "r.gff3", options=CDS),
    **{
        f"{what} {seed}": Case(dense(seed), text, name, options=options)
        for seed in range(examples(3, 60))
        for what, text, name, options in (
            ("blocks", BLOCKS.format("+-"[seed % 2]), "r.bed", {"splice": True}),
            ("both strands", TRANS, "r.gff3", {"splice": True, **CDS}),
        )
    },
}


@pytest.fixture(scope="module")
def compared(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[tuple[str, str]]]:
    """Of each case what was made, and what bcftools has made, part by part."""
    jobs, made = [], []
    for number, (name, case) in enumerate(CASES.items()):
        folder = tmp_path_factory.mktemp(f"case{number}")
        genome = write_genome(folder / "g.fa", {"c": LETTERS})
        (folder / case.name).write_text(case.regions, newline="")
        head = HEADER.replace("4.3", case.version) + FIELDS + "##contig=<ID=c,length=200>\n"
        head += "#CHROM\tPOS\tID\tREF\tALT\tQUAL\tFILTER\tINFO\tFORMAT\tA\tB\n"
        vcf = write_vcf(folder / "v.vcf.gz", head + "".join(f"{row.line}\n" for row in case.rows))
        config = GenomeConfig.make({"genome": genome, "regions": str(folder / case.name), "vcf": (vcf,), **case.options})
        letters, _, layout = stored(config, case.tile)
        for region in layout.regions:
            files = [
                write_genome(
                    folder / f"{region.name}-{at}.fa", {f"c:{part.start + 1}-{part.end}": LETTERS[part.start : part.end]}
                )
                for at, part in enumerate(region.parts)
            ]
            for subject in "AB":
                for which in (1, 2):
                    first = len(jobs)
                    jobs += [Wanted(file, vcf, subject, which) for file in files]
                    made.append((name, region.parts, letters[subject, region.name, str(which)], first))
    built = consensus(jobs)
    found: dict[str, list[tuple[str, str]]] = {name: [] for name in CASES}
    for name, parts, own, first in made:
        texts = built[first : first + len(parts)]
        if ABORTED not in texts:
            both = zip(parts, texts, strict=True)
            turned = [reverse_complement(text.encode()).decode() if part.strand == "-" else text for part, text in both]
            found[name].append((own, "".join(turned)))
    return found


@pytest.mark.parametrize("name", CASES)
def test_as_bcftools(compared: dict[str, list[tuple[str, str]]], name: str) -> None:
    assert compared[name]
    assert [pair for pair in compared[name] if pair[0] != pair[1]] == []


def test_position_0_is_before_the_first_base_and_a_deletion_of_no_length_is_none(tmp_path: Path) -> None:
    (tmp_path / "r.bed").write_text("c\t0\t20\tr\n")
    head = f"{HEADER}{FIELDS}##contig=<ID=c,length=200>\n#CHROM\tPOS\tID\tREF\tALT\tQUAL\tFILTER\tINFO\tFORMAT\tA\n"
    lines = [f"c\t0\t.\tN{LETTERS[:2]}\tN\t.\t.\t.\tGT\t0|1\n", f"c\t9\t.\t{base(9)}\t<DEL>\t.\t.\t.\tGT\t1|1\n"]
    vcf = write_vcf(tmp_path / "v.vcf.gz", head + "".join(lines))
    genome = write_genome(tmp_path / "g.fa", {"c": LETTERS})
    letters, counts, _ = stored(GenomeConfig(genome=genome, regions=str(tmp_path / "r.bed"), vcf=(vcf,)))
    assert letters == {("A", "r", "1"): LETTERS[:20], ("A", "r", "2"): LETTERS[2:20]}
    assert counts["symbolic"] == 2

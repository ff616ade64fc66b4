"""Records what bedtools and gffread make of regions, for `tests/sources/test_recorded.py` to compare with.

    python tests/support/recorded.py tests/sources/recorded.json

Both programs have to be in PATH (Debian: `apt-get install bedtools gffread`). Of every sequence its refget digest is kept, upper-cased.
"""

from __future__ import annotations

import json
import random
import shlex
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from people import write_genome

from dnafeat.sequence import digest
from dnafeat.sources.bundled import LAMBDA, PEOPLE_GENOME, PEOPLE_REGIONS
from dnafeat.sources.reader import ReadOptions, read

GETFASTA = "bedtools getfasta -s -nameOnly -fi genome.fa -bed regions.bed -fo found.fa"
TRANSCRIPTS = "gffread -w found.fa -g genome.fa regions.gff3"
CODING = "gffread -x found.fa -g genome.fa regions.gff3"
_OPTIONS = {
    GETFASTA: [],
    TRANSCRIPTS: ["--feature", "transcript", "--splice"],
    CODING: ["--feature", "CDS", "--splice"],
}
IUPAC = "ACGTRYSWKMBDHVNacgtryswkmbdhvn" * 4


def genome_of(name: str) -> dict[str, str]:
    """Contigs of a genome that the tests have."""
    if name == "iupac":
        return {"c": IUPAC}
    file = PEOPLE_GENOME if name == "mitochondrion" else LAMBDA
    letters = next(read([file], ReadOptions()))["sequence"][0].as_py().decode()
    return {"MT" if name == "mitochondrion" else "lambda": letters}


def wanted() -> Iterator[tuple[str, str, str]]:
    """Genome, regions and command of each recording."""
    draw = random.Random(7)
    yield "mitochondrion", Path(PEOPLE_REGIONS).read_text(), GETFASTA
    bed = "".join(f"c\t{start}\t{start + 31}\tr{start}\t0\t{'+-'[start % 2]}\n" for start in range(3, 80, 11))
    yield "iupac", bed, GETFASTA
    starts = [draw.randrange(48_000) for _ in range(12)]
    rows = [f"lambda\t{start}\t{start + draw.randint(1, 400)}\tr{i}\t0\t{'+-'[i % 2]}\n" for i, start in enumerate(starts)]
    yield "lambda", "".join(rows), GETFASTA
    yield "lambda", annotation(draw, 20, "own"), TRANSCRIPTS
    for style in ("own", "segments", "none"):
        yield "lambda", annotation(draw, 10, style), CODING


def annotation(draw: random.Random, genes: int, style: str) -> str:
    """GFF3 of genes with two transcripts that share exons, with rows in any order where coding sequences have IDs of their own.

    `style` says how coding sequences are named: by an ID of their `own` for each transcript; by one for each of their `segments`, as older
    files of FlyBase have it; or by `none`, as newer ones do.
    """
    rows = []

    def row(kind: str, start: int, end: int, strand: str, attributes: str, phase: str = ".") -> None:
        rows.append(f"lambda\tmade\t{kind}\t{start}\t{end}\t.\t{strand}\t{phase}\t{attributes}\n")

    for number in range(genes):
        strand, at = draw.choice("+-"), 500 + 2_200 * number
        exons = []
        for _ in range(draw.randint(2, 5)):
            exons.append((at, at + draw.randint(2, 200)))
            at = exons[-1][1] + draw.randint(20, 150)
        whole = exons[0][0], exons[-1][1]
        row("gene", *whole, strand, f"ID=gene:g{number};Name=G%2C{number}")
        for which in (0, 1):
            row("mRNA", *whole, strand, f"ID=transcript:t{number}.{which};Parent=gene:g{number}")
        # gffread begins a coding sequence behind the first line's phase; phases change no letter here.
        first = 0 if strand == "+" else len(exons) - 1
        for place, exon in enumerate(exons):
            # The second transcript leaves out what lies between its ends.
            both = place in (0, len(exons) - 1)
            parents = [f"transcript:t{number}.{which}" for which in ((0, 1) if both else (0,))]
            row("exon", *exon, strand, f"Parent={','.join(parents)}")
            if style == "own":
                for which, parent in enumerate(parents):
                    name = f"CDS:p{number}.{which}"
                    row("CDS", *exon, strand, f"ID={name};Parent={parent}", "0" if place == first else str(draw.randrange(3)))
            else:
                name = f"ID=CDS:p{number}.{place};" if style == "segments" else ""
                row("CDS", *exon, strand, f"{name}Name=shown;Parent={','.join(parents)}", "0")
    if style == "own":
        draw.shuffle(rows)
    return "##gff-version 3\n" + "".join(rows)


def recorded(genome: str, regions: str, command: str) -> dict[str, str]:
    """Digests by name."""
    with tempfile.TemporaryDirectory() as folder:
        write_genome(Path(folder) / "genome.fa", genome_of(genome))
        (Path(folder) / ("regions.bed" if command == GETFASTA else "regions.gff3")).write_text(regions)
        subprocess.run(shlex.split(command), cwd=folder, check=True)
        entries = (Path(folder) / "found.fa").read_text().split(">")[1:]
    found = {}
    for entry in entries:
        name, *lines = entry.splitlines()
        own = name.split()[0].removesuffix("(+)").removesuffix("(-)").removeprefix("transcript:")
        found[own] = digest("".join(lines).upper().encode())
    return found


def main() -> None:
    versions = {
        name: subprocess.run([name, "--version"], capture_output=True, text=True, check=True).stdout.split()[-1].lstrip("v")
        for name in ("bedtools", "gffread")
    }
    cases = []
    for genome, regions, command in wanted():
        about = {"genome": genome, "command": command, "version": versions[command.split()[0]], "options": _OPTIONS[command]}
        cases.append({**about, "regions": regions, "found": recorded(genome, regions, command)})
    Path(sys.argv[1]).write_text(json.dumps(cases, indent=1) + "\n")


if __name__ == "__main__":
    main()

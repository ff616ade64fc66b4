"""Small genomes, regions and cohorts as files."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import pysam

from dnafeat.sources.cohort import layout
from dnafeat.sources.cohort.layout import RegionLayout
from dnafeat.sources.regions.config import GenomeConfig

HEADER = '##fileformat=VCFv4.3\n##FORMAT=<ID=GT,Number=1,Type=String,Description="Genotype">\n'


def write_genome(path: Path, contigs: Mapping[str, str], width: int = 60) -> str:
    """A FASTA file with its index."""
    lines = (f">{name}\n" + "".join(f"{s[i : i + width]}\n" for i in range(0, len(s), width)) for name, s in contigs.items())
    path.write_text("".join(lines))
    pysam.faidx(str(path))
    return str(path)


def vcf_text(
    contigs: Mapping[str, int], samples: Sequence[str], records: Sequence[Sequence[object]], header: str = HEADER
) -> str:
    """A VCF of records (contig, position from 1, REF, ALT, call of each sample), or without samples one of sites."""
    lines = [f"##contig=<ID={name},length={length}>" for name, length in contigs.items()]
    lines.append(
        "\t".join(["#CHROM", "POS", "ID", "REF", "ALT", "QUAL", "FILTER", "INFO", *(["FORMAT", *samples] if samples else [])])
    )
    for contig, position, ref, alt, *calls in records:
        lines.append("\t".join(map(str, [contig, position, ".", ref, alt, ".", ".", ".", *(["GT", *calls] if samples else [])])))
    return header + "\n".join(lines) + "\n"


def write_vcf(path: Path, text: str) -> str:
    """A VCF packed by bgzip, as `path`, with its .tbi, which is left out where the records are not sorted."""
    plain = path.with_suffix("")
    plain.write_text(text)
    pysam.tabix_compress(str(plain), str(path), force=True)
    plain.unlink()
    try:
        pysam.tabix_index(str(path), preset="vcf", force=True)
    except OSError:
        Path(f"{path}.tbi").unlink(missing_ok=True)
    return str(path)


def as_bcf(vcf: str, path: Path) -> str:
    """The same cohort as BCF with its .csi."""
    with pysam.VariantFile(vcf) as source, pysam.VariantFile(str(path), "wb", header=source.header) as target:
        for record in source:
            target.write(record)
    pysam.tabix_index(str(path), preset="bcf", force=True, csi=True)
    return str(path)


def stored(config: GenomeConfig, tile: int | None = None) -> tuple[dict[tuple[str, str, str], str], dict[str, int], RegionLayout]:
    """Letters by subject, region and haplotype, what was counted, and the layout."""
    from collections import Counter

    found = layout.look(config, tile)
    counts = Counter(found.counts)
    letters = {}
    for part in found.portions():
        for region, own in layout.read(found, part, counts):
            for subject, row in zip(found.samples or ("",), own.codes, strict=True):
                for number, code in enumerate(row, 1):
                    if code >= 0:
                        letters[subject, region.name, str(number) if found.samples else ""] = own.letters[code].decode()
    return letters, dict(counts), found

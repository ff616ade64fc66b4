"""The two windows of a variant: the genome's letters, and the same with the allele applied."""

from __future__ import annotations

from dnafeat.sources.cohort.haplotypes import normalised
from dnafeat.sources.cohort.variants import GenomeLetters, Variant


def windows(letters: GenomeLetters, variant: Variant, size: int, soft_masked: str = "keep") -> tuple[bytes, bytes]:
    """GenomeLetters of the reference and of the alternate window of a variant, in upper case.

    Both begin `size // 2` bases before the first base that differs. The alternate one has the allele in place of the reference's and goes
    on with the genome until it has as many letters. Both are cut at the ends of the contig, so that a deletion near the last base leaves
    the alternate window the shorter one. No other variant is applied.
    """
    length, contig = letters.lengths[variant.contig], variant.contig
    start, end = max(0, variant.at - size // 2), min(length, variant.at - size // 2 + size)
    own = letters.get(contig, start, end)
    behind = variant.at + variant.removed
    wanted = max(0, end - variant.at - len(variant.added))
    before = own[: variant.at - start]
    after = letters.get(contig, behind, min(length, behind + wanted)) if behind < length and wanted else b""
    return normalised(own, soft_masked), (normalised(before, soft_masked) + variant.added + normalised(after, soft_masked))[
        : end - start
    ]

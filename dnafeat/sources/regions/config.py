"""Settings that say which regions of a genome are read, and whose."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from dnafeat.settings import Settings, declared, option, require


@dataclass(frozen=True, kw_only=True)
class GenomeConfig(Settings, section="genome"):
    """Settings of regions over a genome and of a cohort. Lengths are in bases."""

    genome: str | None = option(
        "reference genome in FASTA, plain or packed by bgzip, local or s3://; its regions are read in place of sources", None
    )
    regions: str | None = option("regions of the genome: BED, narrowPeak, GFF3 or GTF, packed or not", None)
    feature: str | None = option(
        "features of a GFF3 or GTF: gene, transcript, exon, CDS or any type of its third column (default: gene)",
        None,
        shapes=True,
        late=True,
    )
    splice: bool = option(
        "join the exons of a transcript, the lines of a CDS, or the blocks of BED12", False, shapes=True, late=True
    )
    promoter: tuple[int, ...] | None = option(
        "UP,DOWN: the bases before and after the 5' end of a feature, by strand, in its place", None, shapes=True, late=True, ge=0
    )
    flank: tuple[int, ...] | None = option(
        "UP,DOWN: bases to add before the 5' end and after the 3' end of a region; one number for both",
        None,
        shapes=True,
        late=True,
        ge=0,
    )
    soft_masked: Literal["keep", "n"] = option(
        "lower-case letters of the genome, which are repeats; n: read them as N", "keep", shapes=True, late=True
    )
    max_n_run: int | None = option(
        "leave out regions, or tiles, with more N in a row than this in the genome (default: none is left out)",
        None,
        shapes=True,
        late=True,
        ge=0,
    )
    vcf: tuple[str, ...] = option(
        "VCF.gz or BCF file of a cohort with its index beside it, for instance one per chromosome with the same samples; repeat for "
        "several",
        (),
        repeated=True,
    )
    samples: str | None = option("file with the samples of the cohort to take, one a line (default: all of them)", None)
    pass_: bool = option("take only records whose FILTER is PASS or .", False, shapes=True, late=True)
    unphased: Literal["take", "refuse"] = option(
        "heterozygous calls without phase; take: as they are written", "take", shapes=True, late=True
    )
    max_missing: float = option(
        "leave a subject out of a region in which a larger share of its alleles is missing",
        1.0,
        shapes=True,
        late=True,
        ge=0,
        le=1,
    )

    def uris(self) -> tuple[str, ...]:
        """The files that are named."""
        return tuple(uri for uri in (self.genome, self.regions, self.samples, *self.vcf) if uri)

    def extent(self) -> dict[str, str]:
        """The settings that make other regions of the same files, as texts; those that are not set are left out."""
        found: dict[str, str] = {"feature": self.feature} if self.feature else {}
        found |= {"splice": "yes"} if self.splice else {}
        both = {"promoter": self.promoter, "flank": self.flank}
        return found | {name: "+".join(map(str, bases)) for name, bases in both.items() if bases}

    def check(self) -> None:
        require(
            (self.genome is None) == (self.regions is None),
            "genome and regions belong together: give both or neither",
        )
        values, named = self.to_dict(), ("genome", "regions")
        changed = [d.name for d in declared(type(self)) if d.name not in named and values[d.name] != d.default]
        require(
            self.genome is not None or not changed,
            f"{', '.join(changed)} is for regions of a genome: give genome and regions, too",
        )
        cohort = [name for name in changed if name in ("samples", "pass", "unphased", "max_missing")]
        require(bool(self.vcf) or not cohort, f"{', '.join(cohort)} is for a cohort: give vcf, too")
        require(len(set(self.vcf)) == len(self.vcf), "vcf names a file twice: leave one out")
        require(self.promoter is None or len(self.promoter) == 2, "promoter takes two numbers, UP,DOWN: for instance 1000,100")
        require(self.promoter is None or sum(self.promoter) > 0, "promoter 0,0 has no bases: give UP,DOWN, for instance 1000,100")
        require(self.flank is None or len(self.flank) in (1, 2), "flank takes one number, or two with a comma: UP,DOWN")
        exclusive = [name for name in ("promoter", "flank", "splice") if getattr(self, name)]
        require(self.promoter is None or len(exclusive) == 1, f"{' and '.join(exclusive)} exclude each other: give one of them")

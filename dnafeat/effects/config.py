"""Settings of `dnafeat effects`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from dnafeat.cluster.config import ActorsConfig
from dnafeat.encoder.config import EncodingConfig
from dnafeat.settings import Settings, option, part, require
from dnafeat.urls import refuse_secrets
from dnafeat.vectors import Vector


@dataclass(frozen=True, kw_only=True)
class EffectsConfig(Settings, section="genome"):
    """Settings of `dnafeat effects` and `jobs/effects.py`. Lengths are in bases."""

    store: str = option("feature store: folder or s3:// prefix", section="output", env="DNAFEAT_STORE")
    genome: str = option("reference genome in FASTA, plain or packed by bgzip, local or s3://")
    vcf: tuple[str, ...] = option(
        "VCF.gz or BCF file of variants with its index beside it, with or without samples; repeat for several", (), repeated=True
    )
    output: str = option("file to write, local or s3://; an existing file is replaced; -: standard output", section="output")
    format: Literal["parquet", "csv", "tsv"] | None = option(
        "format of the output (default: by the ending of its name, else parquet)", None, section="output"
    )
    scope: Literal["window", "haplotype"] = option(
        "window: each variant alone, in a window of the genome; haplotype: each haplotype of a region that the store has",
        "window",
    )
    window: int = option("bases of a window, centred on the first base that differs", 512, ge=1)
    regions: str | None = option(
        "take only variants that change these regions: BED, narrowPeak, GFF3 or GTF; scope haplotype needs those of the cohort",
        None,
    )
    feature: str | None = option("features of a GFF3 or GTF (default: gene)", None)
    splice: bool = option("join the exons of a transcript, the lines of a CDS, or the blocks of BED12", False)
    promoter: tuple[int, ...] | None = option("UP,DOWN: the bases around the 5' end of a feature, in its place", None, ge=0)
    flank: tuple[int, ...] | None = option("UP,DOWN: bases to add to a region; one number for both", None, ge=0)
    tile: int | None = option("cut regions into tiles of this many bases, as for embed", None, ge=1)
    stride: int | None = option("bases from the start of one tile to the next (default: --tile)", None, ge=1)
    soft_masked: Literal["keep", "n"] = option("lower-case letters of the genome; n: read them as N", "keep")
    samples: str | None = option("file with the samples that carriers are counted of, one a line (default: all)", None)
    pass_: bool = option("take only records whose FILTER is PASS or .", False)
    iupac: bool = option("accept all IUPAC codes, not only A C G T N", False)
    max_n_share: float = option("leave out windows with a larger share of N", 0.5, ge=0, le=1)
    source_name: str | None = option(
        "name of the variants in the store; a later run with the same name replaces their effects; for scope haplotype the cohort's "
        "source (default: the paths)",
        None,
        section="output",
    )
    version: str | None = option(
        "version, name or channel whose encoder is taken, with the settings of its last run; in place of encoder settings",
        None,
        section="encoder",
    )
    encoding: EncodingConfig = part(EncodingConfig)
    vectors: tuple[Vector, ...] | None = option(
        "vectors to store and compare, with commas (default: those that the version keeps, else all)", None, section="output"
    )
    actors: ActorsConfig = part(ActorsConfig)

    def check(self) -> None:
        for uri in (self.store, self.genome, self.regions or "", self.samples or "", self.source_name or "", *self.vcf):
            refuse_secrets(uri)
        require(len(set(self.vcf)) == len(self.vcf), "vcf names a file twice: leave one out")
        require(self.vectors is None or (0 < len(self.vectors) == len(set(self.vectors))), "vectors names none, or one twice")
        if self.scope == "window":
            require(bool(self.vcf), "scope window compares the variants of a VCF: give --vcf")
            require(self.tile is None, "tile is for scope haplotype: leave it out")
        else:
            require(self.regions is not None, "scope haplotype compares haplotypes of regions: give the --regions of the cohort")
            require(bool(self.vcf or self.source_name), "name the cohort of scope haplotype: give --source-name, or its --vcf")
        given = [name for name in ("feature", "splice", "promoter", "flank") if getattr(self, name)]
        require(self.regions is not None or not given, f"{', '.join(given)} is for regions: give --regions, too")
        require(self.stride is None or self.tile is not None, "stride is given without tile: give the length of the tiles")
        chosen = {name for name, value in self.encoding.to_dict().items() if value != EncodingConfig().to_dict()[name]}
        require(
            self.version is None or not chosen,
            f"version takes its own settings of the encoder, and {', '.join(sorted(chosen))} is given, too: leave one of them out",
        )

    def reference(self) -> dict[str, object]:
        """The settings of regions and their cohort, as `GenomeConfig` has them."""
        names = ("genome", "regions", "feature", "splice", "promoter", "flank", "soft_masked", "vcf")
        own = self.to_dict()
        cohort = {"samples": self.samples, "pass": self.pass_} if self.vcf else {}
        return {name: own[name] for name in names} | cohort

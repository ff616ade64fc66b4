"""The commands that encode into a store, for the table of commands."""

from __future__ import annotations

from dnafeat.cli.command import Command

ENCODES = ("torch", "transformers", "tokenizers", "safetensors")

EMBEDDING: tuple[Command, ...] = (
    Command(
        name="embed",
        group="embed",
        summary="embed sequences into a store",
        settings="dnafeat.embed.config:EmbedConfig",
        job="dnafeat.embed.job:embed",
        form="dnafeat.embed.report:describe_run",
        examples=(
            "embed genome.fna.gz --tile 300 --stride 300 --store ./store",
            "embed 's3://bucket/reads/*.csv.gz' --store s3://bucket/store --num-actors 8",
            "embed --genome hg38.fa --regions genes.gff3 --vcf chr1.vcf.gz --store ./store --source-name cohort",
        ),
        about="Encodes only what the store does not have yet: the same command again encodes nothing. Lengths are in bases unless a "
        "name says tokens. - reads FASTA, FASTQ, CSV or TSV from standard input.",
        reads=("sources", "genome", "regions", "vcf", "samples", "salt_file"),
        needs=ENCODES,
    ),
    Command(
        name="nightly",
        group="embed",
        summary="embed new sequences, then move a channel once complete",
        settings="dnafeat.embed.config:NightlyConfig",
        job="dnafeat.cli.jobs:nightly",
        form="dnafeat.cli.jobs:format_result",
        examples=(
            "nightly cohort.csv --store ./store --source-name cohort",
            "nightly --config jobs/nightly.yaml --run-id 2026-11-21",
        ),
        about="For scheduled runs. The channel moves once the new version covers every source of the old one. A run id that is published "
        "already does nothing.",
        reads=("sources", "genome", "regions", "vcf", "samples", "salt_file"),
        needs=ENCODES,
    ),
    Command(
        name="effects",
        group="embed",
        summary="measure how far variants move the vectors around them",
        settings="dnafeat.effects.config:EffectsConfig",
        job="dnafeat.cli.jobs:effects",
        form="dnafeat.effects.report:format_summary",
        streams=True,
        examples=(
            "effects --store ./store --genome hg38.fa --vcf sites.vcf.gz --strands both --output effects.parquet",
            "effects --store ./store --genome hg38.fa --vcf chr1.vcf.gz --regions genes.gff3 --output effects.tsv",
            "effects --store ./store --genome hg38.fa --vcf chr1.vcf.gz --regions genes.gff3 --tile 1000 --scope haplotype --output -",
        ),
        about="Writes a row for each variant, region and stored vector, with cosine distance and L2 to the genome's letters, to the output "
        "and to table effects of the store. Each distinct window is encoded once; the same command again encodes nothing. With --strands "
        "both the strand of a gene makes no difference. Rank variants of one kind alone: an indel moves every later token.",
        reads=("genome", "regions", "vcf", "samples"),
        needs=ENCODES,
    ),
)

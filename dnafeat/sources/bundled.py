"""Paths of the data that ships with dnafeat."""

from __future__ import annotations

from pathlib import Path

DATA = Path(__file__).parents[1] / "bundled" / "data"
SPLICE, LAMBDA = str(DATA / "uci_splice.csv.gz"), str(DATA / "lambda_NC_001416.fa.gz")

PEOPLE = DATA / "human_mt"
"""2,534 people of the 1000 Genomes Project: mitochondrial reference, variants, genes, and the project's list of samples."""
PEOPLE_GENOME, PEOPLE_REGIONS = str(PEOPLE / "MT.fa"), str(PEOPLE / "genes.bed")
PEOPLE_VCF, PEOPLE_PANEL = str(PEOPLE / "cohort.vcf.gz"), str(PEOPLE / "panel.tsv")

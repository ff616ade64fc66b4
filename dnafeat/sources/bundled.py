"""Paths of the data that ships with dnafeat."""

from __future__ import annotations

from pathlib import Path

DATA = Path(__file__).parents[1] / "bundled" / "data"
SPLICE, LAMBDA = str(DATA / "uci_splice.csv.gz"), str(DATA / "lambda_NC_001416.fa.gz")

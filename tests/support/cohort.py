"""A made-up cohort with gaps, a partner of it, and every level and aggregate the slow way: in pandas, a group at a time."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
from stores import Entry

GENES = ["g1", "g0", "g3", "g9"]  # not in alphabetical order; nobody has g9, and g2 is not asked for
LEVELS = {
    "sequence": ["source_name", "sequence_id"],
    "region": ["gene_id", "region_id"],
    "gene": ["gene_id"],
    "haplotype": ["haplotype"],
    "subject": [],
}


def entries(subjects: int = 30, seed: int = 0) -> list[Entry]:
    """Two haplotypes, four genes of two exons: some genes missing, sequences shared, and a few entries without a subject, or a gene."""
    draw = np.random.default_rng(seed)
    pool = ["".join(draw.choice(list("ACGT"), int(draw.integers(4, 30)))) for _ in range(60)]
    found = []
    for subject in range(subjects):
        for haplotype in "12":
            for gene in range(4):
                if draw.random() < 0.25:
                    continue
                for exon in range(1 + int(draw.integers(2))):
                    keys: dict[str, str | None] = {
                        "subject_id": None if draw.random() < 0.03 else str(1_000_000 + subject),
                        "haplotype": haplotype,
                        "gene_id": None if draw.random() < 0.03 else f"g{gene}",
                        "region_id": f"e{exon}",
                    }
                    found.append(Entry(f"{subject}.{haplotype}.{gene}.{exon}", pool[draw.integers(len(pool))], keys))
    return found


def partner(path: Path, width: int = 7, subjects: int = 30, seed: int = 1, files: int = 1) -> pd.DataFrame:
    """Parquet files of vectors keyed by number: most subjects, some of them in several sessions, and some that have no DNA."""
    draw = np.random.default_rng(seed)
    rows = []
    for subject in [*range(subjects), *range(900, 905)]:
        for session in range(int(draw.integers(0, 4)) if subject < 900 else 1):
            rows.append((1_000_000 + subject, int(draw.integers(100)) + session, draw.normal(size=width).astype(np.float32)))
    order = draw.permutation(len(rows))
    table = pd.DataFrame([rows[i] for i in order], columns=["subject_id", "visit", "vector"])
    if files == 1:
        table.to_parquet(path)
    else:
        path.mkdir()
        for i, at in enumerate(np.array_split(np.arange(len(table)), files)):
            table.iloc[at].to_parquet(path / f"part-{i}.parquet")
    return table


def slow_pool(
    dna: pd.DataFrame, vector: str, level: str, aggregate: str | None, genes: list[str] | None, within: str = "mean"
) -> dict:
    """{(subject, further keys …): (vector, rows, mask)} by a loop over groups."""
    dna = dna[dna["subject_id"].notna()]
    for name in LEVELS[level]:
        dna = dna[dna[name].notna()]
    if genes is not None:
        dna = dna[dna["gene_id"].isin(genes)]
    found: dict[tuple, tuple] = {}
    for key, group in dna.groupby(["subject_id", *LEVELS[level]]):
        if aggregate != "concat":
            found[key] = (slow_vector(group, vector, aggregate or "mean"), len(group), None)
            continue
        parts = {gene: slow_vector(own, vector, within) for gene, own in group.groupby("gene_id")}
        width = len(group[vector].iloc[0])
        mask = [gene in parts for gene in genes or []]
        whole = np.concatenate([parts.get(gene, np.zeros(width)) for gene in genes or []])
        found[key] = (whole, len(group), mask)
    return found


def slow_vector(group: pd.DataFrame, vector: str, how: str) -> np.ndarray:
    vectors = np.array([np.asarray(one, np.float64) for one in group[vector]])
    if how == "max":
        return vectors.max(axis=0)
    return np.average(vectors, axis=0, weights=group["bases"] if how == "length" else None)


def slow_join(pooled: dict, partners: dict[str, dict[str, tuple]], how: str) -> dict[tuple, dict[str, Any]]:
    """{key: {modality: (vector, rows) or None}}; `partners` has {name: {subject: (vector, rows)}}."""
    found = {}
    for key, (vector, rows, mask) in pooled.items():
        row: dict[str, Any] = {"dna": (vector, rows), "mask": mask}
        row |= {name: own.get(key[0]) for name, own in partners.items()}
        if how != "inner" or all(row[name] is not None for name in partners):
            found[key] = row
    if how == "outer":
        known = {key[0] for key in pooled}
        for subject in {subject for own in partners.values() for subject in own} - known:
            further = len(next(iter(pooled))) - 1
            row = {"dna": None, "mask": None, **{name: own.get(subject) for name, own in partners.items()}}
            found[(subject, *[None] * further)] = row
    return found


def compare(joined: pa.Table, wanted: dict[tuple, dict[str, Any]], keys: list[str], partners: list[str]) -> None:
    """Every row of a joined table is the slow one, and there is no other."""
    rows = {tuple(row[key] for key in keys): row for row in joined.to_pylist()}
    assert len(rows) == len(joined)
    assert rows.keys() == wanted.keys()
    for key, want in wanted.items():
        row = rows[key]
        assert row.get("dna_mask") == want["mask"]
        for name in ("dna", *partners):
            assert row[f"has_{name}"] == (want[name] is not None)
            if want[name] is None:
                assert row[name] is None
                assert row[f"{name}_rows"] == 0
            else:
                np.testing.assert_allclose(row[name], want[name][0], rtol=1e-6, atol=1e-6)
                assert row[f"{name}_rows"] == want[name][1]

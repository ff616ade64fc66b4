"""A made-up cohort around real genes: haplotypes with variants, families, and brain vectors in which the variants of some genes count.

What is real are the letters of the genes. Who carries which variant, who is related to whom, ages, sites, scores and all brain vectors
are drawn from a seed.
"""

from __future__ import annotations

import csv
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

_LETTERS = np.frombuffer(b"ACGT", np.uint8)
_SITES = ("Aarhus", "Berlin", "Cali")


@dataclass(frozen=True, kw_only=True)
class Cohort:
    """What is drawn.

    Attributes
    ----------
    subjects : int
    founders : int
        Haplotypes of each gene that there are.
    share : float
        Of a founder's positions that differ from the real gene.
    causal : int
        Genes, the first ones, whose variants count in the brain.
    factors : int
        Directions in which they do.
    width : int
        Of brain vectors.
    noise : float
        Standard deviation of what else varies in a brain vector, that of the planted part being 1.
    seed : int
    """

    subjects: int = 600
    founders: int = 24
    share: float = 0.02
    causal: int = 3
    factors: int = 12
    width: int = 96
    noise: float = 0.5
    seed: int = 0


def simulate(folder: Path, genes: Mapping[str, str], cohort: Cohort) -> tuple[str, str]:
    """Writes `sequences.csv` (two haplotypes of every gene of every subject) and `brain.parquet` (two sessions of most subjects).

    Of ten subjects six are single, two are siblings, and two are identical twins. The brain's table has `subject_id`, `session`,
    `vector`, `age`, `sex`, `site`, `family_id` and `score`, of which a part is
    in the last gene and not in the brain, and a part in the brain alone.

    Parameters
    ----------
    genes : mapping of str to str
        Letters of each gene.

    Returns
    -------
    (str, str)
        Paths of both.
    """
    rng = np.random.default_rng(cohort.seed)
    founders = {gene: _founders(letters, cohort, rng) for gene, letters in genes.items()}
    carried, family = _people(cohort, len(genes), rng)
    folder.mkdir(parents=True, exist_ok=True)
    names = [f"S{i:05}" for i in range(cohort.subjects)]
    with (folder / "sequences.csv").open("w", newline="") as file:
        table = csv.writer(file)
        table.writerow(["sequence_id", "subject_id", "haplotype", "gene_id", "sequence"])
        for i, name in enumerate(names):
            for number, (gene, own) in enumerate(founders.items()):
                for haplotype in (0, 1):
                    letters = own[carried[i, number, haplotype]]
                    table.writerow([f"{name}.{gene}.{haplotype + 1}", name, haplotype + 1, gene, letters])
    _brain(folder / "brain.parquet", names, carried, family, cohort, rng)
    return str(folder / "sequences.csv"), str(folder / "brain.parquet")


def _founders(letters: str, cohort: Cohort, rng: np.random.Generator) -> list[str]:
    """Haplotypes of a gene: each has its own variants."""
    found = []
    for _ in range(cohort.founders):
        own = np.frombuffer(letters.encode(), np.uint8).copy()
        at = rng.choice(len(own), max(1, int(len(own) * cohort.share)), replace=False)
        code = np.searchsorted(_LETTERS, own[at])
        own[at] = _LETTERS[(code + rng.integers(1, 4, len(at))) % 4]
        found.append(own.tobytes().decode())
    return found


def _people(cohort: Cohort, genes: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Which founder each subject has on each haplotype of each gene, (subjects, genes, 2), and families, (subjects,)."""
    carried = rng.integers(cohort.founders, size=(cohort.subjects, genes, 2))
    family = np.arange(cohort.subjects)
    for i in range(0, cohort.subjects - 9, 10):
        # Siblings have one haplotype of each parent's two; twins the same.
        parents = rng.integers(cohort.founders, size=(2, genes, 2))
        for child in (i, i + 1):
            carried[child] = np.take_along_axis(parents, rng.integers(2, size=(2, genes, 1)), 2)[:, :, 0].T
        carried[i + 3], family[[i + 1, i + 3]] = carried[i + 2], [i, i + 2]
    return carried, family


def _brain(
    file: Path, names: list[str], carried: np.ndarray, family: np.ndarray, cohort: Cohort, rng: np.random.Generator
) -> None:
    effects = rng.normal(size=(cohort.causal, cohort.founders, cohort.factors))
    planted = sum(effects[gene][carried[:, gene]].sum(axis=1) for gene in range(cohort.causal))
    planted = (planted - planted.mean(axis=0)) / planted.std(axis=0)
    age, sex = rng.uniform(20, 80, len(names)), rng.choice(["f", "m"], len(names))
    site = rng.integers(len(_SITES), size=len(names))
    clean = planted @ rng.normal(size=(cohort.factors, cohort.width)) / np.sqrt(cohort.factors)
    clean += np.outer((age - 50) / 17, rng.normal(size=cohort.width)) + rng.normal(size=(len(_SITES), cohort.width))[site]
    own = rng.normal(size=(len(names), cohort.width))
    of_dna = rng.normal(size=cohort.founders)[carried[:, -1]].sum(axis=1)
    score = of_dna / of_dna.std() + own[:, :4].sum(axis=1) / 2 + 0.5 * rng.normal(size=len(names))
    rows = []
    for i, name in enumerate(names):
        for session in range(1 + (i % 4 > 0)):
            vector = clean[i] + cohort.noise * (own[i] + 0.3 * rng.normal(size=cohort.width))
            rows.append(
                (name, session + 1, vector.astype(np.float32), age[i], sex[i], _SITES[site[i]], f"F{family[i]:05}", score[i])
            )
    columns = ("subject_id", "session", "vector", "age", "sex", "site", "family_id", "score")
    pq.write_table(pa.table({name: list(values) for name, values in zip(columns, zip(*rows, strict=True), strict=True)}), file)

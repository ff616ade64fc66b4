"""An encoder that was fine-tuned on a planted motif finds the variants that break it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import polars as pl
import pytest
from people import vcf_text, write_genome, write_vcf

from dnafeat.effects import EffectsConfig, effects
from dnafeat.finetune.config import FinetuneConfig
from dnafeat.finetune.job import finetune

MOTIF = "TGACGTCA"  # the cAMP response element
WINDOW, VARIANTS, BREAKERS = 30, 1000, 40


def letters(rng: np.random.Generator, bases: int) -> str:
    return "".join(rng.choice(list("ACGT"), bases))


def broken(rng: np.random.Generator, motif: str) -> str:
    at = int(rng.integers(len(motif)))
    return motif[:at] + rng.choice([base for base in "ACGT" if base != motif[at]]) + motif[at + 1 :]


def planted(rng: np.random.Generator, motif: str) -> str:
    """Random letters with the motif anywhere about the middle."""
    at = int(rng.integers(WINDOW // 2 - len(motif) + 1, WINDOW // 2 + 1))
    return letters(rng, at) + motif + letters(rng, WINDOW - at - len(motif))


@pytest.mark.long
def test_breakers_of_a_motif_are_in_the_top_5_percent(tmp_path: Path) -> None:
    rng = np.random.default_rng(11)
    rows = [(planted(rng, MOTIF), "yes") for _ in range(6000)]
    rows += [(planted(rng, broken(rng, MOTIF)), "no") for _ in range(4800)] + [(letters(rng, WINDOW), "no") for _ in range(1200)]
    train = tmp_path / "train.csv"
    train.write_text("sequence,label\n" + "".join(f"{one},{label}\n" for one, label in rng.permutation(rows)))
    tuning = {
        "train": str(train),
        "output": str(tmp_path / "motif"),
        "steps": 2400,
        "baselines": False,
        "eval_steps": 600,
        "runner": "local",
    }
    about = finetune(
        FinetuneConfig.make(
            {**tuning, "lora_rank": 32, "lora_alpha": 64, "group_similar": False, "dropout": 0.0, "lora_dropout": 0.0}
        ),
        show=False,
    )
    assert about["metrics"]["test"]["accuracy"] > 0.9

    sites = [150 * (at + 1) for at in range(BREAKERS)]
    genome = letters(rng, 150 * (BREAKERS + 1) + 20_000)
    for site in sites:
        genome = genome[:site] + MOTIF + genome[site + len(MOTIF) :]
    breakers = {site + int(rng.integers(len(MOTIF))) for site in sites}
    others = set(rng.choice(np.arange(150 * (BREAKERS + 1), len(genome) - 100), VARIANTS - BREAKERS, replace=False).tolist())
    records = []
    for at in sorted(breakers | others):
        records.append(("c", at + 1, genome[at], rng.choice([base for base in "ACGT" if base != genome[at]])))
    done = effects(
        EffectsConfig.make(
            store=str(tmp_path / "store"),
            genome=write_genome(tmp_path / "g.fa", {"c": genome}),
            vcf=(write_vcf(tmp_path / "v.vcf.gz", vcf_text({"c": len(genome)}, [], records)),),
            adapter=str(tmp_path / "motif"),
            window=WINDOW,
            output=str(tmp_path / "effects.parquet"),
            runner="local",
        ),
        show=False,
    )
    assert done.variants == VARIANTS
    found = pl.read_parquet(done.output)
    hits = {}
    for vector in ("cls", "mean", "max", "projected"):
        top = found.filter(pl.col("vector") == vector).sort("cosine_distance", descending=True).head(VARIANTS // 20)
        hits[vector] = len(breakers & {position - 1 for position in top["position"]})
    assert hits["mean"] == len(breakers) == BREAKERS

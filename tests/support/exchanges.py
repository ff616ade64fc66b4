"""Cohorts of random numbers for permutation tests of alignment: relatives, common haplotypes, covariates that act on both sides."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch

from dnafeat.align import kinship
from dnafeat.align.artifact import Side
from dnafeat.align.config import AlignConfig
from dnafeat.align.job import measure, unremoved
from dnafeat.align.model import Alignment
from dnafeat.align.prepare import prepared
from dnafeat.align.subjects import Subjects
from dnafeat.errors import UsageError

PEOPLE, WIDTH = 240, 12
SHARES = {"dev": 0.15, "test": 0.2, "train": 0.65}
TESTS = ("CKA of the vectors", "CKA of the projected", "CCA of the vectors")


def texts(values: np.ndarray) -> list[str]:
    return [str(one) for one in values.tolist()]


def cohort(kind: str, seed: int, signal: float = 0.0) -> tuple[np.ndarray, np.ndarray, dict[str, list[str]], np.ndarray]:
    """DNA and partner vectors, (240, 12) each, columns of covariates, and families.

    Both sides have noise of variance 1 and what `kind` says: `sites-N` (an effect of each site), `square` (of age), `product` (of age and
    iq), `families` (of 1 to 3, most of a vector being that of the family), `haplotypes` (24 common DNA vectors). The partner has `signal`
    times a map of the DNA. Without it nothing links the two.
    """
    rng = np.random.default_rng([seed, 99])
    x, y = rng.normal(size=(2, PEOPLE, WIDTH))
    families = np.arange(PEOPLE)
    age, iq = rng.normal(size=(2, PEOPLE))
    columns: dict[str, list[str]] = {"age": texts(age)}
    if kind.startswith("sites-"):
        sites = int(kind.removeprefix("sites-"))
        site = rng.integers(0, sites, PEOPLE)
        columns = {"site": [f"site {one}" for one in site]}
        x, y = x + rng.normal(size=(sites, WIDTH))[site], y + rng.normal(size=(sites, WIDTH))[site]
    elif kind in ("square", "product"):
        effect = age**2 if kind == "square" else age * iq
        columns |= {} if kind == "square" else {"iq": texts(iq)}
        x, y = x + np.outer(effect, rng.normal(size=WIDTH)), y + np.outer(effect, rng.normal(size=WIDTH))
    elif kind == "families":
        families = np.repeat(np.arange(PEOPLE), rng.choice([1, 2, 3], PEOPLE))[:PEOPLE]
        x, y = x + 1.5 * rng.normal(size=(PEOPLE, WIDTH))[families], y + 1.5 * rng.normal(size=(PEOPLE, WIDTH))[families]
    elif kind == "haplotypes":
        columns = {}
        x = rng.normal(size=(24, WIDTH))[rng.integers(0, 24, PEOPLE)]
    return x, y + signal * x @ rng.normal(size=(WIDTH, WIDTH)), columns, families


def subjects(
    x: np.ndarray, y: np.ndarray, columns: Mapping[str, Sequence[str | None]], families: np.ndarray, seed: int
) -> Subjects:
    """Subjects without a store, split as `gather` splits them."""
    keys = [f"S{i:04}" for i in range(len(x))]
    names = [f"F{one}" for one in families]
    groups = kinship.together(families, kinship.identical(x), kinship.identical(y))
    side = kinship.sides(keys, groups, SHARES, seed, names)
    about = {"aggregate": "mean", "genes": None, "on": "subject_id", "dna": {"feature_version": "v", "vector": "mean"}}
    about |= {"level": "subject", "within": None, "partners": [{"name": "brain"}]}
    own = {name: list(values) for name, values in columns.items()}
    dna, partner = x.astype(np.float32), y.astype(np.float32)
    return Subjects(keys, dna, partner, None, own, groups, side, "brain", about, [], families)


def measured(found: Subjects, seed: int = 0, **changes: Any) -> dict[str, Any]:
    """All measures of some subjects by projectors that are not trained."""
    given = {"store": "s", "partner": ("brain=b",), "output": "o", "covariates": tuple(found.columns), "permutations": 99}
    config = AlignConfig.make({**given, "resamples": 20, "seed": seed, **changes})
    ready = prepared(config, found)
    torch.manual_seed(seed)
    model = Alignment(ready.steps["dna"].width, ready.steps["brain"].width)
    sides = {"dna": Side(ready.steps["dna"], model.dna.eval()), "brain": Side(ready.steps["brain"], model.partner.eval())}
    told = measure(config, ready, sides).told
    return {**told, "notes": [*ready.notes, *unremoved(ready, told)]}


def p_values(kind: str, seeds: range, signal: float = 0.0, **changes: Any) -> np.ndarray:
    """p of the three tests for cohorts of a kind, (seeds, 3); a few may be refused, whose test side is too small."""
    found = []
    for seed in seeds:
        with contextlib.suppress(UsageError):
            told = measured(subjects(*cohort(kind, seed, signal), seed), seed, **changes)
            found.append([told["tests"][name]["p"] for name in TESTS])
    assert len(found) >= 0.95 * len(seeds)
    return np.array(found)

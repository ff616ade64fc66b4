"""A cohort whose partner vectors are a linear map of its DNA vectors, and alignments of it that are trained in this process."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from stores import Entry, fill

from dnafeat.align import job as align
from dnafeat.align.config import AlignConfig
from dnafeat.align.prepare import PreparedAlignment
from dnafeat.align.worker import AlignJob, align_loop
from dnafeat.store.catalog import Store
from dnafeat.training.local import LocalContext
from dnafeat.training.loop import Loop
from dnafeat.training.worker import TrainingAttempt

QUICK: dict[str, Any] = {
    "permutations": 49,
    "resamples": 20,
    "steps": 60,
    "eval_steps": 20,
    "warmup_steps": 0,
    "learning_rate": 3e-3,
}
GENES = ("g0", "g1", "g2")


def entries(subjects: int, seed: int = 0) -> list[Entry]:
    """Two haplotypes of three genes each. Of ten subjects the first two are twins, the next two cousins."""
    draw = np.random.default_rng(seed)
    found = []
    for i in range(subjects):
        source = i - 1 if i % 10 == 1 else i
        own = np.random.default_rng([seed, source])
        for gene in GENES:
            for haplotype in "12":
                letters = "".join(own.choice(list("ACGT"), int(own.integers(8, 30))))
                keys = {"subject_id": f"S{i:04}", "haplotype": haplotype, "gene_id": gene}
                found.append(Entry(f"{i:04}.{gene}.{haplotype}", letters, keys))
    return [found[i] for i in draw.permutation(len(found))]


def cohort(
    folder: Path, subjects: int = 160, vector: str = "cls+mean+max", noise: float = 0.05, width: int = 9
) -> tuple[str, str]:
    """A store and a partner's Parquet file: store, partner.

    The partner has a column for each kind of covariate, a family, and phenotypes that its vectors tell.
    """
    store = str(folder / "store")
    fill(store, entries(subjects), folder, source="cohort")
    table = Store(store).read(columns=[vector]).to_pandas()
    names = sorted(set(table["subject_id"]))
    dna = np.stack([np.mean(np.stack(list(table[table["subject_id"] == name][vector])), axis=0) for name in names])
    draw = np.random.default_rng(1)
    scored = (dna - dna.mean(axis=0)) / dna.std(axis=0)
    brain = scored @ draw.normal(size=(scored.shape[1], width)) + noise * draw.normal(size=(len(names), width))
    number = scored[:, 0] + 0.3 * draw.normal(size=len(names))
    columns: dict[str, Any] = {
        "subject_id": names,
        "vector": brain.astype(np.float32).tolist(),
        "age": draw.integers(20, 80, len(names)).tolist(),
        "site": draw.choice(["A", "B", "C"], len(names)).tolist(),
        "family": [f"F{i - 1 if i % 10 == 3 else i}" for i in range(len(names))],
        "number": number.tolist(),
        "kind": np.where(number > 0, "high", "low").tolist(),
    }
    partner = str(folder / "brain.parquet")
    pq.write_table(pa.table(columns), partner)
    return store, partner


def settings(place: tuple[str, str], output: Path | str, **changes: Any) -> dict[str, Any]:
    store, partner = place
    given = {"store": store, "partner": (f"brain={partner}",), "output": str(output), "vector": "cls+mean+max", "dropout": 0.0}
    return {**given, **QUICK, **changes}


def config(place: tuple[str, str], output: Path | str, **changes: Any) -> AlignConfig:
    return AlignConfig.make({name: value for name, value in settings(place, output, **changes).items() if value is not None})


def attempt(config: AlignConfig, ready: PreparedAlignment, scratch: Path, resume: Path | None = None) -> TrainingAttempt:
    """The attempt of one worker in this process."""
    job = AlignJob(config=config, pins=ready.source.pins) if ready.source else AlignJob(config=config)
    data = ready.data(ready.tuning(config))
    return TrainingAttempt(context=LocalContext(scratch / "kept"), job=job, data=data, scratch=scratch, resume=resume)


def trained(config: AlignConfig, ready: PreparedAlignment, scratch: Path) -> Loop:
    """A loop that one worker has done."""
    loop = align_loop(attempt(config, ready, scratch))
    loop.run()
    return loop


def aligned(config: AlignConfig) -> dict[str, Any]:
    """`align` without Ray."""
    return align.align(config, show=False)


def write_csv(file: Path, rows: list[dict[str, Any]]) -> str:
    with file.open("w", newline="") as out:
        table = csv.DictWriter(out, list(rows[0]))
        table.writeheader()
        table.writerows(rows)
    return str(file)

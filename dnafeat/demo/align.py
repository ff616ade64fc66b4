"""`dnafeat demo-align`: a cohort with a planted signal, from letters to a common space, and the same with shuffled subjects.

Real: six genes of phage lambda (RefSeq NC_001416), and the bundled encoder. Made up: everything else, see `cohort`.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from dnafeat.align.config import AlignConfig
from dnafeat.align.job import align
from dnafeat.align.report import format_scores
from dnafeat.demo.cohort import Cohort, simulate
from dnafeat.embed.config import EmbedConfig
from dnafeat.embed.job import embed
from dnafeat.project.config import ProjectConfig
from dnafeat.project.job import project
from dnafeat.sources.bundled import LAMBDA
from dnafeat.sources.reader import ReadOptions, read
from dnafeat.store import Store, matrix
from dnafeat.text import aligned

_log = logging.getLogger(__name__)

# RefSeq NC_001416, 0-based, half-open; N, cI, cro, cII, O and P (Daniels et al. 1983). Each is read as it stands on the forward strand.
GENES = {
    "N": (35_037, 35_438),
    "cI": (37_226, 37_940),
    "cro": (38_040, 38_241),
    "cII": (38_359, 38_653),
    "O": (38_685, 39_585),
    "P": (39_581, 40_283),
}


def genes() -> dict[str, str]:
    """Letters of the genes, 201 to 900 bases."""
    genome = b"".join(one for batch in read([LAMBDA], ReadOptions()) for one in batch["sequence"].to_pylist()).decode()
    return {name: genome[start:end] for name, (start, end) in GENES.items()}


def demo(
    folder: str, cohort: Cohort | None = None, say: Callable[[str], None] = _log.info, *, show: bool = True, **settings: Any
) -> dict[str, Any]:
    """Simulates, embeds, aligns, aligns with shuffled subjects, projects by the result, and takes genes away.

    Parameters
    ----------
    settings
        Of `AlignConfig`, in place of its own.
    say : callable
        Takes what was done, step by step, with tables (default: the log).
    show : bool
        Whether to draw progress on standard error.

    Returns
    -------
    dict
        `dnafeat.json` of the three alignments, `aligned`, `shuffled` and `by_gene`, and `apart`: the largest difference between
        `projected` of the stored vectors and of those encoded again.
    """
    place, cohort = Path(folder), cohort or Cohort()
    causal = ", ".join(list(GENES)[: cohort.causal])
    say(
        f"1. A cohort of {cohort.subjects:,}. Real: {len(GENES)} genes of phage lambda and the bundled encoder. Made up: {cohort.founders} "
        f"haplotypes of each gene\n   with variants, who carries which, families and twins, ages, sites, scores, and brain vectors "
        f"({cohort.width} wide, one or two\n   sessions), in which the variants of {causal} count, and age and site; those of the other "
        f"genes do not.\n"
    )
    sequences, brain = simulate(place, genes(), cohort)
    store = str(place / "store")
    embedding: dict[str, Any] = {"sources": (sequences,), "store": store, "source_name": "cohort"}
    run = embed(EmbedConfig.make(**embedding), show=show)
    say(f"2. dnafeat embed: {run.read:,} entries, {run.distinct:,} distinct sequences, {run.encoded:,} encoded now.\n")
    given = {
        "store": store,
        "version": run.feature_version,
        "partner": (f"brain={brain}",),
        "family_column": "family_id",
        "covariates": ("age", "sex", "site"),
        "residualise": "partner",
        "phenotype": "score",
        **settings,
    }

    def aligned_as(name: str, **more: Any) -> dict[str, Any]:
        config = AlignConfig.make({**given, "output": str(place / name), **more})
        return align(config, show=show, say=lambda sentence: None)

    found = aligned_as("aligned")
    split = found["split"]
    say(
        f"3. dnafeat align --covariates age,sex,site --residualise partner --phenotype score: {split['train']:,} subjects to train on, "
        f"{split['dev']:,} to\n   choose by, {split['test']:,} held out; families whole. On those held out:\n"
    )
    say(format_scores(found["measures"]) + "\n")
    say("4. The same with every subject given a stranger's brain (--shuffle):\n")
    strange = aligned_as("shuffled", shuffle=True, phenotype=None)
    say(format_scores(strange["measures"]) + "\n")
    artifact = str(place / "aligned")
    child = project(ProjectConfig(store=store, projector=artifact, version=run.feature_version), show=show)
    beside = {**embedding, "store": str(place / "store-embedded")}
    again = embed(EmbedConfig.make(**beside, projector=artifact), show=show)
    apart = _apart(Store(store), Store(beside["store"]), child.feature_version)
    say(
        f"5. dnafeat project --projector {artifact}: version {child.feature_version}, whose column projected is the\n   aligned space; "
        f"{child.projected:,} sequences projected, none encoded. dnafeat embed --projector makes version {again.feature_version},\n   "
        f"whose numbers differ from those by {apart:.1g} at the most.\n"
    )
    (place / "genes.txt").write_text("\n".join(GENES) + "\n")
    by_gene = aligned_as("by-gene", aggregate="concat", genes=str(place / "genes.txt"))
    say("6. The same with genes end to end (--aggregate concat), and what it costs to take one away:\n")
    say(_costs(by_gene["measures"]) + "\n")
    one, other = (each["measures"]["retrieval"]["dna to brain"]["recall@1"] for each in (found, strange))
    say(
        f"So the brain of a subject whom training has not seen is the first of {found['measures']['subjects']} by its DNA in "
        f"{100 * one['value']:.1f} % of cases, where chance has\n{100 * one['chance']:.1f} %; with strangers' brains in "
        f"{100 * other['value']:.1f} %. The signal was planted: this shows that the way is sound, not that DNA tells brains.\n"
        f"Pictures: {place}/aligned/alignment.png, shuffled/alignment.png, by-gene/alignment.png"
    )
    return {"aligned": found, "shuffled": strange, "by_gene": by_gene, "apart": apart}


def _apart(one: Store, other: Store, version: str) -> float:
    a, b = (store.read(version, columns=["projected"]).sort_by("sequence_id") for store in (one, other))
    return float(np.abs(matrix(a["projected"]) - matrix(b["projected"])).max())


def _costs(told: Mapping[str, Any]) -> str:
    rows = [["without", "recall@5 lost", "95 % interval", "median rank", "CCA lost", "R² of score by DNA lost"]]
    for one in told["genes"]:
        cost = one["cost"]
        recall = cost["recall@5"]
        interval = "" if recall["low"] is None else f"{100 * recall['low']:.1f} to {100 * recall['high']:.1f} %"
        ranks = f"{-cost['median_rank']['value']:+g}"
        rows.append(
            [
                one["gene"],
                f"{100 * recall['value']:.1f} %",
                interval,
                ranks,
                f"{cost['CCA']['value']:.3f}",
                f"{cost['r2']['value']:.3f}",
            ]
        )
    return aligned(rows, right=range(1, 6))

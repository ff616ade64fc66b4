"""`dnafeat demo`: the main job on the bundled encoder and real sequences, and a look at what it stored."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pyarrow as pa
from sklearn.linear_model import LogisticRegression
from sklearn.neighbors import KNeighborsClassifier
from threadpoolctl import threadpool_limits

from dnafeat.embed.config import EmbedConfig
from dnafeat.embed.job import embed
from dnafeat.embed.report import describe_run
from dnafeat.finetune.config import FinetuneConfig
from dnafeat.finetune.job import finetune, format_result, prepare
from dnafeat.pretrain.probe import kmer_counts, one_hot
from dnafeat.sources import reader as sources
from dnafeat.sources.bundled import LAMBDA, SPLICE
from dnafeat.store import Store, matrix
from dnafeat.store.listings import format_versions

TILE = 300
_log = logging.getLogger(__name__)

# Genes of phage lambda by the direction they are read in (RefSeq NC_001416; Daniels et al. 1983): nu1 to orf-194 and cro to Rz to the
# right, ea47 to cI to the left. 0-based, half-open; what lies across a border or outside is left out.
RIGHTWARD = ((191, 22_686), (38_041, 46_427))
LEFTWARD = ((22_686, 37_940),)
# Tiles this near share genes, so they do not count as neighbours.
_FAR_BASES = 3_000
_NEIGHBOURS = 5


def demo(store: str, say: Callable[[str], None] = _log.info, *, show: bool = True) -> dict[str, Any]:
    """Fine-tune on splice junctions and fill `store` with and without the result, as the commands do.

    Parameters
    ----------
    store : str
    say : callable
        Takes what was done, step by step, with tables (default: the log).
    show : bool
        Whether to draw progress on standard error.

    Returns
    -------
    dict
        `store`, `artifact`, `metrics` (of the artifact) and `versions`: those of dnafeat-mini and of the adapter.
    """
    artifact = f"{store.rstrip('/')}-artifact"
    say("1. Fine-tuning dnafeat-mini on human splice junctions (UCI): dnafeat finetune --train uci_splice.csv.gz --epochs 2\n")
    tuning = FinetuneConfig.make(train=SPLICE, output=artifact, epochs=2)
    about = finetune(tuning, show=show, say=lambda sentence: say(f"  {sentence}"))
    say("\n" + format_result(about, artifact).partition("\n\n")[2].rpartition("\n\n")[0] + "\n")
    say("2. Embedding phage lambda in pieces of 300 bases, and the junctions, by dnafeat-mini and by the fine-tuned adapter.\n")
    configs = (
        EmbedConfig.make(sources=(LAMBDA,), store=store, source_name="lambda", tile=TILE, stride=TILE),
        EmbedConfig.make(sources=(SPLICE,), store=store, source_name="uci-splice"),
        EmbedConfig.make(sources=(SPLICE,), store=store, source_name="uci-splice", adapter=artifact),
    )
    summaries = []
    for config in configs:
        summaries.append(embed(config, show=show))
        say("\n".join(describe_run(summaries[-1]).splitlines()[:-2]) + "\n")
    if not any(summary.encoded for summary in summaries):
        say("Nothing was embedded again: every sequence had its vectors already.\n")
    held, base, tuned = Store(store), summaries[0].feature_version, summaries[2].feature_version
    held.point("production", base)
    say("What the store has (dnafeat versions):\n")
    say(format_versions(held.versions().to_pylist()) + "\n")
    say("A few rows (dnafeat.Store(…).read(columns=['mean'])):\n")
    say(_rows(held.read(base, columns=["mean"], source="uci-splice").slice(0, 3)))
    # The baselines' fits are so small that sharing them out over CPUs with other work takes ten times as long.
    with threadpool_limits(1):
        say("\n" + junctions(tuning, about, held, base, tuned))
    tiles = held.read(base, columns=["mean"], source="lambda")
    say("\n" + directions(tiles["sequence_id"].to_pylist(), matrix(tiles["mean"])) + "\n")
    say(f"next: dnafeat embed YOUR.fa --store {store}")
    say("      dnafeat finetune --train YOUR.csv --model zhihan1996/DNABERT-2-117M --output YOUR-artifact")
    say(f"      dnafeat read --store {store} --version {tuned} --columns mean --output splice.parquet")
    return {"store": store, "artifact": artifact, "metrics": about["metrics"], "versions": {"base": base, "tuned": tuned}}


def junctions(config: FinetuneConfig, about: Mapping[str, Any], held: Store, base: str, tuned: str) -> str:
    """How well held-out junctions are told apart, by vectors from before and after fine-tuning and by two baselines, in words."""
    splits = prepare(config).splits
    train, test = splits["train"], splits["test"]
    truth = np.array(test.labels)
    by_one_hot = LogisticRegression(max_iter=1000).fit(one_hot(train.sequences), train.labels)
    rows = {"always the most frequent kind": float(np.mean(truth == max(train.labels, key=train.labels.count)))}
    for name, version in (("dnafeat-mini", base), ("the fine-tuned adapter", tuned)):
        table = held.read(version, columns=["mean"], source="uci-splice")
        at = {name: i for i, name in enumerate(table["sequence_id"].to_pylist())}
        vectors = matrix(table["mean"])
        known, asked = (vectors[[at[name] for name in split.ids]] for split in (train, test))
        nearest = KNeighborsClassifier(_NEIGHBOURS).fit(known, train.labels)
        rows[f"the {_NEIGHBOURS} nearest mean vectors of {name}"] = float(np.mean(nearest.predict(asked) == truth))
    rows["the fine-tuned model itself"] = about["metrics"]["test"]["accuracy"]
    rows["logistic regression on the letters, position by position"] = float(
        np.mean(by_one_hot.predict(one_hot(test.sequences)) == truth)
    )
    lines = [f"What kind of junction is it? {len(test)} that training has not seen, correct by", ""]
    lines += [f"  {share:6.1%}  {name}" for name, share in rows.items()]
    lines += [
        "",
        "  Splice sites stand at a fixed place in these 60 bases, which letters by position know and mean vectors do not: a small encoder",
        "  does not beat that baseline (nor, in the table above, a regression on them). What the adapter shows is how far fine-tuning",
        "  moves the vectors.",
    ]
    return "\n".join(lines)


def _rows(table: pa.Table) -> str:
    lines = []
    vectors = matrix(table["mean"])
    for i, row in enumerate(table.drop(["mean"]).to_pylist()):
        numbers = ", ".join(f"{x:.3f}" for x in vectors[i][:4])
        lines.append(f"  {row['sequence_id']:<24} label {row['label']:<3} mean [{numbers}, …] ({vectors.shape[1]} wide)")
    return "\n".join(lines)


def directions(names: list[str], vectors: np.ndarray) -> str:
    """Whether pieces with like vectors are read in the same direction: the demo's result, in words.

    Parameters
    ----------
    names : list of str
        `<record>:<start>-<end>` of lambda's tiles.
    vectors : np.ndarray, shape=(n, hidden_size), float32
    """
    start, end = np.array([_bounds(name) for name in names]).T
    right = np.any([(start >= a) & (end <= b) for a, b in RIGHTWARD], axis=0)
    left = np.any([(start >= a) & (end <= b) for a, b in LEFTWARD], axis=0)
    chosen = np.flatnonzero(right | left)
    chosen = chosen[np.argsort(start[chosen])]
    start, right = start[chosen], right[chosen]
    share, nearest = _agreement(vectors[chosen], start, right)
    counted, _ = _agreement(_three_mers(start), start, right)
    sides = ("left", "right")
    lines = [
        f"Which way is a piece of lambda read? A vote of the {_NEIGHBOURS} most similar pieces that lie {_FAR_BASES:,} bases or more away:",
        "",
        f"  {share:6.1%}  correct by the nearest vectors ({len(chosen)} pieces of {TILE} bases)",
        f"  {counted:6.1%}  correct by the nearest counts of 3-mers, the baseline to know",
        f"  {max(right.mean(), 1 - right.mean()):6.1%}  correct by always saying {sides[int(right.mean() > 0.5)]}",
        "",
    ]
    for i in np.linspace(0, len(chosen) - 1, 4).astype(int):
        j = nearest[i]
        lines.append(
            f"  {start[i]:>6,}-{start[i] + TILE:<6,} is read to the {sides[int(right[i])]:<5}  most like "
            f"{start[j]:>6,}-{start[j] + TILE:<6,}, read to the {sides[int(right[j])]}"
        )
    return "\n".join(lines)


def _agreement(vectors: np.ndarray, start: np.ndarray, label: np.ndarray) -> tuple[float, np.ndarray]:
    """Share of rows whose nearest far rows vote for their label, and the nearest of each; cosine of standardised columns."""
    scaled = (vectors - vectors.mean(0)) / (vectors.std(0) + 1e-9)
    scaled /= np.linalg.norm(scaled, axis=1, keepdims=True)
    alike = scaled @ scaled.T
    alike[np.abs(start[:, None] - start[None, :]) < _FAR_BASES] = -np.inf
    nearest = np.argsort(-alike, axis=1)[:, :_NEIGHBOURS]
    return float(np.mean((label[nearest].mean(1) > 0.5) == label)), nearest[:, 0]


def _three_mers(start: np.ndarray) -> np.ndarray:
    """Counts of the 64 3-mers in the tiles that begin at `start`, (n, 64)."""
    letters: dict[int, str] = {}
    for batch in sources.read([LAMBDA], sources.ReadOptions(tile=TILE)):
        for name, sequence in zip(batch["sequence_id"].to_pylist(), batch["sequence"].to_pylist(), strict=True):
            letters[_bounds(name)[0]] = sequence.decode()
    return kmer_counts([letters[at] for at in start.tolist()], 3)


def _bounds(name: str) -> tuple[int, int]:
    """Start and end of the tile `<record>:<start>-<end>`."""
    start, end = name.rpartition(":")[2].split("-")
    return int(start), int(end)

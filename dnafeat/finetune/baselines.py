"""Baselines of a fine-tuning run: what plain counts of letters reach on the same split, with intervals. Neither torch nor Ray.

majority        the most frequent class, the mean of a regression, each label's share
3- to 6-mers    logistic or linear regression on counts of k-mers of the given strand
one-hot         the same on one base for each position; for labels per base on the 11 bases around each
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
from scipy.sparse import coo_matrix, csr_matrix
from threadpoolctl import threadpool_limits

from dnafeat.finetune import metrics as scores
from dnafeat.finetune.intervals import intervals
from dnafeat.finetune.labels import Labels, flatten
from dnafeat.finetune.regression import Solution, solve
from dnafeat.finetune.splits import Split

# Training rows, and letters of them, that a baseline is fitted on at most; bases for labels per base. Drawn by the seed.
ROWS, LETTERS = 20_000, 10_000_000
BASES = 200_000
# Outputs for which regressions are fitted; with more of them they would take hours.
WIDTH = 100
# Positions that one-hot takes, from the first base on.
POSITIONS = 2_000
_FLANK = 5
_KMERS = (3, 4, 5, 6)
_CHUNK = 2_000_000
_CODES = np.full(256, 4, np.int64)
_CODES[np.frombuffer(b"ACGT", np.uint8)] = range(4)

Encoded = np.ndarray | list[np.ndarray]
Featurise = Callable[[Sequence[str]], csr_matrix]


def measure(
    labels: Labels, splits: Mapping[str, Split], targets: Mapping[str, Encoded], groups: Mapping[str, np.ndarray], seed: int
) -> dict[str, dict[str, Any]]:
    """Fit the baselines on the training rows, choose their penalties on dev, and measure them on all other splits.

    Parameters
    ----------
    targets : mapping of str to what `Labels.encode` returned
    groups : mapping of str to np.ndarray, shape=(n,), int64
        What intervals draw, by split.

    Returns
    -------
    dict of str to dict
        By the baseline's name: `metrics` and `intervals`, by split, and `rows`, the training rows it was fitted on.
    """
    others = [name for name in splits if name != "train"]
    rows, dev_rows = (sample(splits[name], labels.task, seed) for name in ("train", "dev"))
    letters, dev_letters = (
        [splits[name].sequences[i] for i in some.tolist()] for name, some in (("train", rows), ("dev", dev_rows))
    )
    fitted, dev_targets = _chosen(targets["train"], rows), _chosen(targets["dev"], dev_rows)
    constant = _majority(labels, flatten(targets["train"]))
    found = {
        "majority": _measured(
            labels, {name: np.tile(constant, (len(flatten(targets[name])), 1)) for name in others}, targets, groups
        )
        | {"rows": len(splits["train"])}
    }
    # The fits are so small that sharing them out over CPUs with other work takes ten times as long.
    with threadpool_limits(1):
        for name, featurise in _kinds(labels).items():
            value = partial(_loss_of, labels, featurise(dev_letters), dev_targets)
            solution = solve(labels, featurise(letters), flatten(fitted), value)
            logits = {other: _logits(solution, featurise, splits[other].sequences) for other in others}
            found[name] = _measured(labels, logits, targets, groups) | {"rows": len(rows)}
    return found


def sample(split: Split, task: str, seed: int) -> np.ndarray:
    """Numbers of the training rows that baselines are fitted on, in order: all, or as many as the limits allow."""
    drawn = np.random.default_rng(seed).permutation(len(split))[:ROWS]
    letters = np.cumsum([len(split.sequences[i]) for i in drawn.tolist()])
    limit = BASES if task == "token" else LETTERS
    return np.sort(drawn[: max(1, int(np.searchsorted(letters, limit, side="right")))])


def loss(labels: Labels, logits: np.ndarray, encoded: Encoded) -> float:
    """Mean loss of logits (n, width): cross-entropy, of each label for multilabel, or the squared error of z-scored targets."""
    truth = flatten(encoded)
    if labels.task == "regression":
        return float(np.mean((logits[:, 0] - truth) ** 2))
    if labels.task == "multilabel":
        return float(np.mean(np.logaddexp(0, logits) - truth * logits))
    return float(np.mean(np.logaddexp.reduce(logits, axis=1) - logits[np.arange(len(truth)), truth]))


def kmer_counts(sequences: Sequence[str], k: int) -> csr_matrix:
    """Shares of the 4**k words over ACGT among those of each sequence, (n, 4**k) float64; words with other letters do not count."""
    row, code = _letters(sequences)
    size = max(0, len(code) - k + 1)
    words, whole = np.zeros(size, np.int64), row[:size] == row[len(row) - size :]
    for i in range(k):
        some = code[i : i + size]
        words = 4 * words + (some & 3)
        whole &= some < 4
    counts = coo_matrix((np.ones(int(whole.sum())), (row[:size][whole], words[whole])), shape=(len(sequences), 4**k)).tocsr()
    totals = np.maximum(np.asarray(counts.sum(axis=1)).ravel(), 1)
    counts.data /= np.repeat(totals, np.diff(counts.indptr))
    return counts


def one_hot(sequences: Sequence[str]) -> csr_matrix:
    """One base for each position from the first on, (n, 4 · positions) float64; other letters are all zeros."""
    lengths = np.array([len(sequence) for sequence in sequences])
    row, code = _letters(sequences)
    at = np.arange(len(code)) - np.repeat(np.cumsum(lengths) - lengths, lengths)
    kept = (code < 4) & (at < POSITIONS)
    columns = 4 * at[kept] + code[kept]
    return csr_matrix((np.ones(len(columns)), (row[kept], columns)), shape=(len(sequences), 4 * POSITIONS))


def flanks(sequences: Sequence[str]) -> csr_matrix:
    """One-hot of the 11 bases around each base, a row for each base, (bases, 44) float64; nothing beyond the ends."""
    row, code = _letters(sequences)
    columns, rows = [], []
    for i, offset in enumerate(range(-_FLANK, _FLANK + 1)):
        base = np.arange(max(0, -offset), len(code) - max(0, offset))
        there = base[(code[base + offset] < 4) & (row[base + offset] == row[base])]
        rows.append(there)
        columns.append(4 * i + code[there + offset])
    at = np.concatenate(rows)
    return csr_matrix((np.ones(len(at)), (at, np.concatenate(columns))), shape=(len(code), 4 * (2 * _FLANK + 1)))


def _kinds(labels: Labels) -> dict[str, Featurise]:
    if labels.width > WIDTH:
        return {}
    if labels.task == "token":
        return {"one-hot": flanks}
    return {**{f"{k}-mers": partial(kmer_counts, k=k) for k in _KMERS}, "one-hot": one_hot}


def _letters(sequences: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
    """Number of its sequence and code (A 0, C 1, G 2, T 3, others 4) of each letter, both (letters,) int64."""
    text = np.frombuffer("".join(sequences).encode(), np.uint8)
    return np.repeat(np.arange(len(sequences)), [len(sequence) for sequence in sequences]), _CODES[text]


def _majority(labels: Labels, truth: np.ndarray) -> np.ndarray:
    """The logits, (width,), that are the same for every row."""
    if labels.task == "regression":
        return np.zeros(1)
    if labels.task == "multilabel":
        have = truth.sum(axis=0, dtype=np.float64)
        return np.log((have + 0.5) / (len(truth) - have + 0.5))
    counts = np.bincount(truth[truth >= 0], minlength=labels.width)
    return np.log(np.maximum(counts, 0.5) / len(truth))


def _chosen(encoded: Encoded, rows: np.ndarray) -> Encoded:
    return encoded[rows] if isinstance(encoded, np.ndarray) else [encoded[i] for i in rows.tolist()]


def _chunks(sequences: Sequence[str]) -> Iterator[Sequence[str]]:
    begin = 0
    while begin < len(sequences):
        end, size = begin, 0
        while end < len(sequences) and (end == begin or size + len(sequences[end]) <= _CHUNK):
            size += len(sequences[end])
            end += 1
        yield sequences[begin:end]
        begin = end


def _loss_of(labels: Labels, features: csr_matrix, encoded: Encoded, solution: Solution) -> float:
    return loss(labels, solution.logits(features), encoded)


def _logits(solution: Solution, featurise: Featurise, sequences: Sequence[str]) -> np.ndarray:
    """Logits of a split, its features made and let go chunk by chunk."""
    return np.concatenate([solution.logits(featurise(some)) for some in _chunks(sequences)])


def _measured(
    labels: Labels, logits: Mapping[str, np.ndarray], targets: Mapping[str, Encoded], groups: Mapping[str, np.ndarray]
) -> dict[str, Any]:
    return {
        "metrics": {name: scores.compute(labels, values, targets[name]) for name, values in logits.items()},
        "intervals": {name: intervals(labels, values, targets[name], groups[name]) for name, values in logits.items()},
    }

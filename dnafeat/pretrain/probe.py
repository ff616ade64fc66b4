"""Linear probes of frozen vectors, beside baselines of plainer features. No Ray.

Each result stands beside the majority class, k-mer counts, one base per position, and the same vectors from an untrained encoder of
the same shape. Equal sequences and reverse complements stay on one side of every split.
"""

from __future__ import annotations

import io
import itertools
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedGroupKFold
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from dnafeat.encoder import Encoder
from dnafeat.errors import UsageError, one_line
from dnafeat.sequence import digest, normalise, reverse_complement, spelled_in_kmers
from dnafeat.sources.content import open_text

FOLDS = 5
SEEDS = (0, 1, 2)
_PENALTY = 0.1  # C of the logistic regression, the same for all features, which are standardised on the training folds


@dataclass(frozen=True)
class Labelled:
    """Labelled sequences.

    Attributes
    ----------
    sequences : list of str
        Normalised letters.
    labels : np.ndarray, shape=(n,), str
    groups : np.ndarray, shape=(n,), int64
        Equal for sequences that are the same on one strand or the other.
    """

    sequences: list[str]
    labels: np.ndarray
    groups: np.ndarray

    @classmethod
    def of(cls, sequences: Iterable[str], labels: Sequence[str]) -> Labelled:
        letters = [normalise(s.encode()) for s in sequences]
        names = [min(digest(s), digest(reverse_complement(s))) for s in letters]
        return cls([s.decode() for s in letters], np.array(labels, str), np.unique(names, return_inverse=True)[1])

    @property
    def repeated(self) -> int:
        """Rows beyond the first of their group."""
        return len(self.groups) - len(np.unique(self.groups))

    @property
    def conflicting(self) -> int:
        """Groups with more than one label."""
        pairs = np.unique(np.array([self.groups.astype(str), self.labels]), axis=1)
        return int((np.unique(pairs[0], return_counts=True)[1] > 1).sum())


def read_labelled(file: str) -> Labelled:
    """Read a CSV, compressed or not, with the columns `sequence` and `label`."""
    with open_text(file) as handle:
        try:
            table = pd.read_csv(io.BytesIO(handle.read()), dtype=str, keep_default_na=False)
        except ValueError as error:
            raise UsageError(f"{file} is not a CSV: {one_line(error)}") from error
    if missing := {"sequence", "label"} - set(table.columns):
        raise UsageError(f"{file} has no column {sorted(missing)[0]!r}; a probe needs sequence and label")
    for row, (letters, label) in enumerate(zip(table["sequence"], table["label"], strict=True), 1):
        fault = spelled_in_kmers(letters.encode()) if " " in letters else None
        if fault is None and "\n" in letters + label:
            fault = "a line end stands in a cell: close the quote before it, or take the quotes out"
        if fault is not None:
            raise UsageError(f"{file}, row {row}: {fault}")
    return Labelled.of(table["sequence"], table["label"].tolist())


def kmer_counts(sequences: Sequence[str], k: int) -> np.ndarray:
    """Count the 4**k words over ACGT on the given strand, float32 (n, 4**k); words with other letters are not counted."""
    place = {"".join(word): i for i, word in enumerate(itertools.product("ACGT", repeat=k))}
    counts = np.zeros((len(sequences), len(place)), np.float32)
    for row, letters in enumerate(sequences):
        for i in range(len(letters) - k + 1):
            if (word := place.get(letters[i : i + k])) is not None:
                counts[row, word] += 1
    return counts


def one_hot(sequences: Sequence[str]) -> np.ndarray:
    """Encode bases by position, float32 (n, 4 * length), for sequences of one length; other letters are all zeros."""
    letters = np.array([np.frombuffer(s.encode(), np.uint8) for s in sequences])
    return (letters[:, :, None] == np.frombuffer(b"ACGT", np.uint8)).astype(np.float32).reshape(len(sequences), -1)


def splits(data: Labelled, seed: int, folds: int = FOLDS) -> list[tuple[np.ndarray, np.ndarray]]:
    """Return train and test rows of each fold, classes balanced, groups whole."""
    splitter = StratifiedGroupKFold(folds, shuffle=True, random_state=seed)
    return list(splitter.split(np.zeros(len(data.labels)), data.labels, data.groups))


def accuracy(features: np.ndarray, data: Labelled, seed: int, folds: int = FOLDS) -> float:
    """Compute the share of rows classified correctly by a logistic regression on the other folds; everything is fitted on those."""
    right = 0
    for fit, test in splits(data, seed, folds):
        model = make_pipeline(StandardScaler(), LogisticRegression(C=_PENALTY, tol=1e-3, max_iter=2000))
        right += int((model.fit(features[fit], data.labels[fit]).predict(features[test]) == data.labels[test]).sum())
    return right / len(data.labels)


def frozen(folder: str | Path, sequences: Sequence[str]) -> dict[str, np.ndarray]:
    """Encode sequences in float32: `mean`, and `cls`, `mean` and `max` side by side."""
    vectors = Encoder.from_pretrained(str(folder), precision="float32").encode(sequences)
    return {"mean": vectors.mean, "cls, mean and max": np.hstack([vectors.cls, vectors.mean, vectors.max])}


def plain(data: Labelled, seeds: Sequence[int]) -> dict[str, list[float]]:
    """Measure baselines without an encoder, one accuracy a seed: majority class, 3-mer counts and, at one length, bases by position."""
    share = float(np.unique(data.labels, return_counts=True)[1].max() / len(data.labels))
    result = {"majority class": [share for _ in seeds]}
    features = {"3-mer counts": kmer_counts(data.sequences, 3)}
    if len({len(s) for s in data.sequences}) == 1:
        features["one-hot by position"] = one_hot(data.sequences)
    for name, x in features.items():
        result[name] = [accuracy(x, data, seed) for seed in seeds]
    return result

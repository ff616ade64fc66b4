"""Evaluation data of pretraining: held-out tokens free of shared k-mers, and the baselines."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import tokenizers

from dnafeat.pretrain.corpus import FIRST_CONTENT, Genomes, both_strands, token_spans, tokenise

SHARED = 31  # bases of a word that counts as shared between training and held-out parts
FLANK = 3  # bases on each side that the table predictor sees
# 0 to 3 for A C G T, 4 for every other byte.
_CODE = np.full(256, 4, np.uint8)
_CODE[list(b"ACGT")] = range(4)


def canonical_words(letters: bytes, k: int = SHARED) -> tuple[np.ndarray, np.ndarray]:
    """Encode the k-mer at each start as one number, the smaller of both strands' numbers, and whether it has no other letters than ACGT.

    Returns
    -------
    words : np.ndarray, shape=(len(letters) - k + 1,), uint64
        2 bits a base, so k is 31 at most. Empty when the sequence is shorter than k.
    valid : np.ndarray, same shape, bool
    """
    code = _CODE[np.frombuffer(letters, np.uint8)]
    n = max(len(code) - k + 1, 0)
    forward, reverse = np.zeros(n, np.uint64), np.zeros(n, np.uint64)
    valid = np.ones(n, bool)
    for i in range(k):  # over the word, not over the sequence
        base = code[i : i + n]
        valid &= base < 4
        base = (base & 3).astype(np.uint64)
        forward |= base << np.uint64(2 * (k - 1 - i))
        reverse |= (np.uint64(3) - base) << np.uint64(2 * i)
    return np.minimum(forward, reverse), valid


def shared_bases(train: Sequence[bytes], heldout: Sequence[bytes], k: int = SHARED) -> list[np.ndarray]:
    """Find, for each held-out stretch, which of its bases lie inside a k-mer that some training stretch has too, on either strand.

    Returns
    -------
    list of np.ndarray, shape=(bases,), bool
    """
    known = [words[valid] for words, valid in (canonical_words(s, k) for s in train)]
    table = np.unique(np.concatenate(known))
    covered = []
    for stretch in heldout:
        words, valid = canonical_words(stretch, k)
        at = np.minimum(np.searchsorted(table, words), max(len(table) - 1, 0))
        starts = np.flatnonzero(valid & (table[at] == words)) if len(table) else np.zeros(0, np.int64)
        edges = np.zeros(len(stretch) + 1, np.int64)
        np.add.at(edges, starts, 1)
        np.add.at(edges, starts + k, -1)
        covered.append(np.cumsum(edges)[:-1] > 0)
    return covered


def flanks(letters: bytes, starts: np.ndarray, ends: np.ndarray) -> np.ndarray:
    """Encode the `FLANK` bases on each side of each token as one number, int64; bases off the end and other letters count as A."""
    padding = np.zeros(FLANK, np.int64)
    code = np.concatenate([padding, _CODE[np.frombuffer(letters, np.uint8)] % 4, padding])
    key = np.zeros(len(starts), np.int64)
    for i in range(FLANK):
        key = key * 4 + code[starts + i]
    for i in range(FLANK):
        key = key * 4 + code[ends + FLANK + i]
    return key


@dataclass(frozen=True)
class Baselines:
    """Baselines without a network, fitted on the training part, both strands.

    Attributes
    ----------
    unigram : np.ndarray, shape=(vocab,), float64
        How often each token stands in the training part.
    table : np.ndarray, shape=(4 ** (2 * FLANK), vocab), float64
        The same given the `FLANK` bases on each side, drawn towards `unigram` by 100 pseudocounts a row.
    """

    unigram: np.ndarray
    table: np.ndarray

    def score(self, ids: np.ndarray, keys: np.ndarray) -> dict[str, float]:
        """Compute mean cross-entropy in nats and accuracy of both on tokens `ids` with flanks `keys`."""
        with np.errstate(divide="ignore"):
            return {
                "unigram_loss": float(-np.log(self.unigram[ids]).mean()),
                "most_frequent_accuracy": float((ids == self.unigram.argmax()).mean()),
                "table_loss": float(-np.log(self.table[keys, ids]).mean()),
                "table_accuracy": float((self.table.argmax(1)[keys] == ids).mean()),
            }


def fit_baselines(tokenizer: tokenizers.Tokenizer, letters: Sequence[bytes], frames: int = 1) -> Baselines:
    """Count tokens, and tokens by their flanks, over all stretches and their reverse complements, from `frames` starts each."""
    vocab = tokenizer.get_vocab_size()
    counts = np.zeros((4 ** (2 * FLANK), vocab))
    # The table sees all that the model is trained on, every frame included: with one frame it would be a weaker opponent.
    for stretch in (strand[frame:] for strand in both_strands(letters) for frame in range(frames)):
        ids, _ = tokenise(tokenizer, [stretch])
        keys = flanks(stretch, *token_spans(tokenizer, ids))
        content = ids >= FIRST_CONTENT
        counts += np.bincount(keys[content] * vocab + ids[content], minlength=counts.size).reshape(counts.shape)
    # One more of each content token: a piece that only the held-out part has must not cost infinity.
    unigram = counts.sum(0) + (np.arange(vocab) >= FIRST_CONTENT)
    unigram /= unigram.sum()
    return Baselines(unigram, (counts + 100 * unigram) / (counts.sum(1, keepdims=True) + 100))


@dataclass(frozen=True)
class PreparedCorpus:
    """Everything the workers and the evaluation need, made once by the driver.

    Attributes
    ----------
    tokenizer : tokenizers.Tokenizer
    stream, offsets : np.ndarray
        Training token ids, both strands in all frames, uint16, and the bounds of the stretches in them.
    heldout : dict of str to (ids, scored)
        Token ids of each held-out stretch, uint16, and which of them count: those without a base of a shared 31-mer.
    baselines : Baselines
    excluded : dict of str to float
        Share of each held-out stretch's bases that lie in a shared 31-mer.
    """

    tokenizer: tokenizers.Tokenizer
    stream: np.ndarray
    offsets: np.ndarray
    heldout: dict[str, tuple[np.ndarray, np.ndarray]]
    baselines: Baselines
    excluded: dict[str, float]


def prepare(genomes: Genomes, tokenizer: tokenizers.Tokenizer, frames: int = 1) -> PreparedCorpus:
    """Tokenise, fit the baselines, and find shared k-mers. `frames`: how many starts each strand is tokenised from, one base apart."""
    strands = both_strands(list(genomes.train.values()))
    stream, offsets = tokenise(tokenizer, [s[frame:] for s in strands for frame in range(frames)])
    shared = shared_bases(list(genomes.train.values()), list(genomes.heldout.values()))
    heldout = {}
    for (name, letters), covered in zip(genomes.heldout.items(), shared, strict=True):
        ids, _ = tokenise(tokenizer, [letters])
        starts, ends = token_spans(tokenizer, ids)
        before = np.concatenate([[0], np.cumsum(covered)])
        heldout[name] = (ids, (before[ends] == before[starts]) & (ids >= FIRST_CONTENT))
    baselines = fit_baselines(tokenizer, list(genomes.train.values()), frames)
    excluded = {name: float(covered.mean()) for name, covered in zip(genomes.heldout, shared, strict=True)}
    return PreparedCorpus(tokenizer, stream, offsets, heldout, baselines, excluded)

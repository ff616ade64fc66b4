"""Groups of similar DNA sequences, by the k-mers that they share, so that near copies stay on one side of a split. NumPy and scipy.

Two sequences are similar where they share a quarter or more of the distinct k-mers of the one that has fewer, on either strand: so do
windows that overlap by a third, and copies with some 10 % of their bases changed. Groups are the connected components of that.

Candidates are found as Linclust finds them (Steinegger and Söding 2018): of each k-mer the first sequence that has it is compared with
all others that do. Time and memory grow with the letters, not with the pairs.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from scipy.sparse import coo_matrix, csr_matrix
from scipy.sparse.csgraph import connected_components

SHARE = 0.25
# Among more letters 12-mers would be shared by chance.
_SHORT, _LONG, _LETTERS_OF_SHORT = 12, 16, 4_000_000
# Shared k-mers that make two sequences similar at the least, and k-mers of each that are asked who else has them.
_LEAST, _ROUNDS = 3, 32
# k-mers that are kept; of more, a sample by their hash, the same of each sequence.
_KEPT = 16_000_000
_PERIODS = range(1, 7)
_CHUNK = 4_000_000
_PAIRS = 20_000
# Code of each letter on the forward strand; 4: none, which no k-mer may hold.
_CODES = np.full(256, 4, np.uint8)
_CODES[np.frombuffer(b"ACGT", np.uint8)] = range(4)


def similar_groups(sequences: Sequence[str], *, kept: int = _KEPT) -> np.ndarray:
    """Number the groups of similar sequences, (n,) int64; a sequence without similar ones is alone in its group.

    Parameters
    ----------
    sequences : sequence of str
        Normalised letters. Their order can matter where a group hangs by few k-mers.
    kept : int
        k-mers that are kept in memory, 30 bytes each.
    """
    n = len(sequences)
    groups = np.arange(n)
    shared, sizes = _shared_kmers(sequences, kept)
    if not shared.nnz:
        return groups
    first = np.full(shared.shape[1], n)
    np.minimum.at(first, shared.indices, np.repeat(groups, np.diff(shared.indptr)))
    found: list[np.ndarray] = []
    for turn in range(_ROUNDS):
        asked = np.flatnonzero(np.diff(shared.indptr) > turn)
        pairs = np.stack([first[shared.indices[shared.indptr[asked] + turn]], asked])
        # Those that are together need no comparison.
        pairs = pairs[:, groups[pairs[0]] != groups[pairs[1]]]
        similar = pairs[:, _similar(shared, sizes, pairs)]
        if similar.size:
            found.append(similar)
            groups = components(n, *np.concatenate(found, axis=1))
    return groups


def components(n: int, one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """Number the connected components of `n` nodes with edges between `one` and `other`, (n,) int64."""
    edges = coo_matrix((np.ones(len(one), bool), (one, other)), shape=(n, n))
    return connected_components(edges, directed=False)[1].astype(np.int64)


def _similar(shared: csr_matrix, sizes: np.ndarray, pairs: np.ndarray) -> np.ndarray:
    """Whether each pair of rows shares enough k-mers, (pairs,) bool."""
    answers = [np.zeros(0, bool)]
    for at in range(0, pairs.shape[1], _PAIRS):
        one, other = pairs[:, at : at + _PAIRS]
        common = np.asarray(shared[one].multiply(shared[other]).sum(axis=1)).ravel()
        answers.append(common >= np.maximum(SHARE * np.minimum(sizes[one], sizes[other]), _LEAST))
    return np.concatenate(answers)


def _shared_kmers(sequences: Sequence[str], kept: int) -> tuple[csr_matrix, np.ndarray]:
    """Which sequence has which of the k-mers that several have, and how many distinct k-mers each has.

    Columns of the matrix, (n, k-mers) of ones, are in the order of the k-mers' hashes.
    """
    letters = sum(map(len, sequences))
    k = _SHORT if letters <= _LETTERS_OF_SHORT else _LONG
    limit = 2**32 // max(1, -(-letters // kept))
    parts = [np.zeros(0, np.uint64)]
    for row, hashes in _hashed(sequences, k):
        sampled = hashes < limit
        parts.append(np.unique((row[sampled].astype(np.uint64) << np.uint64(32)) | hashes[sampled]))
    entries = np.concatenate(parts)
    rows, hashes = (entries >> np.uint64(32)).astype(np.int64), entries.astype(np.uint32)
    sizes = np.bincount(rows, minlength=len(sequences))
    _, columns, counts = np.unique(hashes, return_inverse=True, return_counts=True)
    several = counts[columns] > 1
    rows, columns = rows[several], columns[several]
    ones = np.ones(len(rows), np.int32)
    matrix = csr_matrix((ones, (rows, columns)), shape=(len(sequences), len(counts)))
    matrix.sort_indices()
    return matrix, sizes


def _hashed(sequences: Sequence[str], k: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Numbers of sequences and hashes (uint32) of their k-mers, in chunks of whole sequences.

    A k-mer and its reverse complement have one hash; k-mers with other letters, or of one to six bases repeated, are left out.
    """
    begin = 0
    while begin < len(sequences):
        end, size = begin, 0
        while end < len(sequences) and (end == begin or size + len(sequences[end]) < _CHUNK):
            size += len(sequences[end]) + 1
            end += 1
        some = sequences[begin:end]
        text = np.frombuffer(" ".join(some).encode(), np.uint8)
        row = np.repeat(np.arange(begin, end), [len(sequence) + 1 for sequence in some])[: len(text)]
        begin = end
        if len(text) < k:
            continue
        code = _CODES[text]
        outside = np.concatenate([[0], np.cumsum(code == 4)])
        forward, backward, width = (code & 3).astype(np.uint32), ((3 - code) & 3).astype(np.uint32), 1
        base, turned = forward, backward
        # By doubling as far as it goes, then by what is missing (12: 8 and 4).
        tail = {1: (base, turned)}
        while width < k:
            step = min(width, k - width)
            more_forward, more_backward = tail[step]
            count = len(base) - width - step + 1
            shift, back = np.uint32(2 * step), np.uint32(2 * width)
            forward = (forward[:count] << shift) | more_forward[width : width + count]
            backward = (more_backward[width : width + count] << back) | backward[:count]
            width += step
            tail[width] = (forward, backward)
        kmers = np.minimum(forward, backward)
        whole = outside[k:] == outside[: len(outside) - k]
        for period in _PERIODS:
            same = np.uint32((1 << 2 * (k - period)) - 1)
            whole &= (forward >> np.uint32(2 * period)) != (forward & same)
        yield row[: len(kmers)][whole], _mixed(kmers[whole])


def _mixed(kmers: np.ndarray) -> np.ndarray:
    """A hash of each k-mer, another for another (Murmur3's finaliser), uint32."""
    for shift, factor in ((16, 0x85EBCA6B), (13, 0xC2B2AE35)):
        kmers = (kmers ^ (kmers >> np.uint32(shift))) * np.uint32(factor)
    return kmers ^ (kmers >> np.uint32(16))

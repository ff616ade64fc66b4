"""Groups of rows: those that stay on one side of a split, and the families that shuffles and resamples move as a whole.

Rows of one person, relatives, and people with the same vectors stay on one side. Only persons and families are exchanged: that two of
them have the same DNA makes neither a relative of the other.

A side is a seeded hash of the group's first family, or of its first key where it has no family. So a new member of a family moves
nobody. Who comes with the same vectors as others moves their group only if the own family, or key, is before all of theirs.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator, Mapping, Sequence

import numpy as np
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

# Sums over the same sequences in another order differ in the last bits of a float32.
_ROUNDING = 1e-6


def identical(vectors: np.ndarray) -> np.ndarray:
    """Numbers that are the same for rows that are the same up to rounding: (n,) int64.

    Two rows are the same where no entry differs by more than a millionth of the largest entry of either; what is the same as the
    same is the same.

    Parameters
    ----------
    vectors : np.ndarray, shape=(n, width)
    """
    every = np.ascontiguousarray(vectors)
    if not len(every):
        return np.empty(0, np.int64)
    _, first, copy = np.unique(every.view(f"V{every.itemsize * every.shape[1]}")[:, 0], return_index=True, return_inverse=True)
    rows = every[first].astype(np.float64)
    largest = np.abs(rows).max(axis=1)
    # Rows that are the same lie near each other along any direction: only neighbours along one are compared.
    direction = np.random.default_rng(0).normal(size=rows.shape[1])
    along, reach = rows @ direction, _ROUNDING * largest * np.abs(direction).sum()
    order = np.argsort(along, kind="stable")
    pairs = [np.empty((0, 2), np.int64)]
    for step in range(1, len(rows)):
        a, b = order[:-step], order[step:]
        near = along[b] - along[a] <= np.maximum(reach[a], reach[b])
        if not near.any():
            break
        a, b = a[near], b[near]
        for i, j in zip(np.array_split(a, 1 + len(a) // 1024), np.array_split(b, 1 + len(b) // 1024), strict=True):
            same = np.abs(rows[i] - rows[j]).max(axis=1, initial=0) <= _ROUNDING * np.maximum(largest[i], largest[j])
            pairs.append(np.stack([i[same], j[same]], axis=1))
    return _components(len(rows), np.concatenate(pairs))[copy]


def together(*labels: Sequence[object] | np.ndarray) -> np.ndarray:
    """Numbers of the groups that some labels make of rows: rows with the same label of any kind are in one. None is no label.

    Returns
    -------
    np.ndarray, shape=(n,), int64
    """
    pairs = []
    for column in labels:
        seen: dict[object, int] = {}
        pairs += [(seen.setdefault(value, i), i) for i, value in enumerate(column) if value is not None]
    return _components(len(labels[0]), np.array(pairs, np.int64).reshape(-1, 2))


def _components(count: int, pairs: np.ndarray) -> np.ndarray:
    graph = coo_array((np.ones(len(pairs), bool), (pairs[:, 0], pairs[:, 1])), shape=(count, count))
    return connected_components(graph, directed=False)[1].astype(np.int64)


def sides(
    keys: Sequence[str],
    groups: np.ndarray,
    shares: Mapping[str, float],
    seed: int,
    families: Sequence[str | None] | None = None,
) -> np.ndarray:
    """The side of each row: (n,) str, the same for all rows of a group.

    Parameters
    ----------
    keys : sequence of str, (n,)
    groups : np.ndarray, shape=(n,), int64
    shares : mapping of str to float
        Of each side, in their order; what is left of 1 goes to the last.
    seed : int
    families : sequence of (str | None), (n,), optional
        Names of families, None for a row without one. A group with names is hashed by the first of them, whatever its keys are.
    """
    # Families come before keys, and no key can be taken for a family's name.
    labels = [(1, key) for key in keys]
    if families is not None:
        labels = [own if name is None else (0, f"family:{name}") for own, name in zip(labels, families, strict=True)]
    smallest: dict[int, tuple[int, str]] = {}
    for label, group in zip(labels, groups.tolist(), strict=True):
        smallest[group] = min(label, smallest.get(group, label))
    first = {group: name for group, (_, name) in smallest.items()}
    names, ends = list(shares), np.cumsum(list(shares.values()))[:-1]
    place = {group: int(np.searchsorted(ends, _uniform(key, seed), side="right")) for group, key in first.items()}
    return np.array([names[place[group]] for group in groups.tolist()], dtype=str)


def _uniform(key: str, seed: int) -> float:
    return int.from_bytes(hashlib.sha256(f"{seed}:{key}".encode()).digest()[:8], "big") / 2**64


def shuffles(groups: np.ndarray, count: int, seed: int) -> Iterator[np.ndarray]:
    """Orders in which whole groups have changed places with groups of the same size, members in their order: (n,) int64 each.

    Relatives are alike, so that single ones of them cannot be exchanged for others (whole-block permutations: Winkler et al. 2015,
    doi:10.1016/j.neuroimage.2015.05.092). Where nobody has relatives these are plain permutations.
    """
    random = np.random.default_rng([seed, 1])
    classes = _exchanged(groups)
    for _ in range(count):
        order = np.empty(len(groups), np.int64)
        for own in classes:
            for to, source in enumerate(random.permutation(len(own))):
                order[own[to]] = own[source]
        yield order


def movable(groups: np.ndarray) -> int:
    """Count the rows that `shuffles` can move: those of groups that have another of their size."""
    return sum(len(own) * len(own[0]) for own in _exchanged(groups) if len(own) > 1)


def arrangements(groups: np.ndarray) -> float:
    """Count the different orders that `shuffles` can give; infinite where a float cannot hold it."""
    size = sum(math.lgamma(len(own) + 1) for own in _exchanged(groups))
    return round(math.exp(size)) if size < 30 else math.exp(size) if size < 700 else math.inf


def resamples(groups: np.ndarray, count: int, seed: int) -> Iterator[np.ndarray]:
    """Rows drawn with replacement, whole groups at a time, as many groups as there are: the bootstrap over families."""
    random = np.random.default_rng([seed, 2])
    members = _members(groups)
    for _ in range(count):
        yield np.concatenate([members[i] for i in random.integers(len(members), size=len(members))])


def _exchanged(groups: np.ndarray) -> list[list[np.ndarray]]:
    """Rows of each group, in classes of groups of one size."""
    members = _members(groups)
    return [[rows for rows in members if len(rows) == size] for size in sorted({len(rows) for rows in members})]


def _members(groups: np.ndarray) -> list[np.ndarray]:
    order = np.argsort(groups, kind="stable")
    return np.split(order, np.flatnonzero(np.diff(groups[order])) + 1)

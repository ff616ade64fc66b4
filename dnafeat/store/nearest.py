"""The nearest of a stream of vectors, exact: products in float32 choose candidates, and their distances are computed in float64.

A float32 product of unit vectors of w numbers is wrong by at most w * 2^-24 in whatever order it is summed (Higham, Accuracy and Stability
of Numerical Algorithms, 3.1). A vector whose product is further than twice that from the k-th nearest so far cannot be nearer; all others
are compared in float64. So the result is that of a comparison of all pairs in float64, and nothing but the k nearest so far is kept.

Of equal distances the smaller digest is the nearer one.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal, get_args

import numpy as np

from dnafeat.errors import StoreError, UsageError
from dnafeat.store import digests

Metric = Literal["cosine", "l2", "dot"]
METRICS: tuple[str, ...] = get_args(Metric)

_ROWS = 4_096  # compared at a time
_QUERIES = 1_024
_PAIR_BYTES = 32 * 2**20  # of vectors that are compared in float64 at a time
# Operations beside the sum itself: scaling, centring and rounding of both vectors.
_MORE = 16
# Between these norms squares of float32 neither overflow nor vanish.
_LEAST, _LARGEST = 1e-12, 1e12


@dataclass
class Nearest:
    """The k nearest of each query among all vectors that were added.

    Parameters
    ----------
    queries : np.ndarray
        (queries, width) float32.
    k : int
    metric : str
        `cosine` (1 - cosine), `l2` (Euclidean) or `dot` (minus the dot product, so that the smallest is the nearest, too).

    Attributes
    ----------
    distances : np.ndarray
        (queries, k) float64, ascending; infinite where there were fewer.
    names : np.ndarray
        (queries, k) of dtype S35, the digests.
    compared, without_direction : int
        Vectors that were added, and those of length zero that a cosine leaves out.
    """

    queries: np.ndarray
    k: int
    metric: Metric
    distances: np.ndarray = field(init=False)
    names: np.ndarray = field(init=False)
    compared: int = 0
    without_direction: int = 0

    def __post_init__(self) -> None:
        check_queries(self.queries, self.metric)
        n = len(self.queries)
        self.distances, self.names = np.full((n, self.k), np.inf), np.zeros((n, self.k), digests.DTYPE)
        self._exact = self.queries.astype(np.float64)
        self._norms = np.sqrt((self._exact**2).sum(axis=1))
        self._centre: np.ndarray | None = None

    def add(self, names: np.ndarray, vectors: np.ndarray) -> None:
        """Compare vectors, (n, width) float32, and their digests, (n,) of dtype S35. Raises StoreError for a number that is not finite."""
        for first in range(0, len(vectors), _ROWS):
            self._add(names[first : first + _ROWS], vectors[first : first + _ROWS])

    def _add(self, names: np.ndarray, vectors: np.ndarray) -> None:
        self.compared += len(vectors)
        norms = _norms(vectors)
        if self.metric == "cosine" and not norms.all():
            some = norms > 0
            self.without_direction += int((~some).sum())
            names, vectors, norms = names[some], vectors[some], norms[some]
        if not len(vectors):
            return
        left, right, reach = self._prepared(vectors, norms)
        for first in range(0, len(left), _QUERIES):
            part = slice(first, min(first + _QUERIES, len(left)))
            scores = left[part] @ right.T
            at, rows = np.nonzero(scores >= self._least(scores, part, reach[part])[:, None])
            self._take(at + first, rows, names, vectors)

    def _prepared(self, vectors: np.ndarray, norms: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Queries and vectors whose products order the distances, and the largest error of a product for each query."""
        width = vectors.shape[1] + 1
        if self.metric == "l2":
            if self._centre is None:
                # Vectors of one model point in one direction: without what they share, products are less wrong.
                self._centre = vectors.mean(axis=0, dtype=np.float64).astype(np.float32)
            centred = vectors - self._centre
            of_rows, own = _norms(centred), (self.queries - self._centre)
            of_queries = _norms(own)
            kind, unit = _precision(of_rows, of_queries)
            if kind is np.float64:
                centred, own = vectors - self._centre.astype(np.float64), self._exact - self._centre
            left: np.ndarray = np.concatenate([own, np.ones((len(own), 1))], axis=1).astype(kind)
            right: np.ndarray = np.concatenate([centred, -(of_rows[:, None] ** 2) / 2], axis=1).astype(kind)
            most = float(of_rows.max())
            return left, right, (width + _MORE) * unit * 1.01 * (of_queries * most + most**2 + 1e-30)
        kind, unit = _precision(norms, self._norms)
        scale = 1 / norms if self.metric == "cosine" else np.ones(len(norms))
        own = self._exact / np.where(self._norms > 0, self._norms, 1)[:, None]
        right = vectors * scale[:, None].astype(kind) if self.metric == "cosine" else vectors.astype(kind, copy=False)
        most = 1.0 if self.metric == "cosine" else float(norms.max())
        return own.astype(kind), right, np.full(len(own), (width + _MORE) * unit * 1.01 * most + 1e-30)

    def _least(self, scores: np.ndarray, part: slice, reach: np.ndarray) -> np.ndarray:
        """The least score of each query with which a vector may be among the nearest."""
        worst = self.distances[part, -1]
        full = np.isfinite(worst)
        least = np.full(len(scores), -np.inf)
        if not full.all() and scores.shape[1] > self.k:
            # As many as are wanted have this score or more, and each is wrong by its reach at most.
            k_th = np.partition(scores[~full], scores.shape[1] - self.k, axis=1)[:, scores.shape[1] - self.k]
            least[~full] = k_th.astype(np.float64) - 2 * reach[~full]
        with np.errstate(invalid="ignore"):
            known = self._score(worst[full], part, full) - reach[full]
        least[full] = known
        # Rounded down, so that nothing is lost where it is compared in float32.
        return np.nextafter(least.astype(scores.dtype), scores.dtype.type(-np.inf))

    def _score(self, distance: np.ndarray, part: slice, some: np.ndarray) -> np.ndarray:
        """The score that a distance stands for."""
        if self.metric == "cosine":
            return 1 - distance
        if self.metric == "dot":
            norms = self._norms[part][some]
            return -distance / np.where(norms > 0, norms, 1)
        own = self._exact[part][some] - self._centre
        return ((own**2).sum(axis=1) - distance**2) / 2

    def _take(self, at: np.ndarray, rows: np.ndarray, names: np.ndarray, vectors: np.ndarray) -> None:
        step = max(1, _PAIR_BYTES // (16 * vectors.shape[1]))
        for first in range(0, len(at), step):
            some, others = at[first : first + step], rows[first : first + step]
            self._merge(some, exact(self._exact[some], vectors[others], self.metric), names[others])

    def _merge(self, at: np.ndarray, distances: np.ndarray, names: np.ndarray) -> None:
        hit = distances <= self.distances[at, -1]
        at, distances, names = at[hit], distances[hit], names[hit]
        if not len(at):
            return
        touched, place = np.unique(at, return_inverse=True)
        whose = np.concatenate([np.repeat(np.arange(len(touched)), self.k), place])
        every = np.concatenate([self.distances[touched].ravel(), distances])
        called = np.concatenate([self.names[touched].ravel(), names])
        order = np.lexsort((called, every, whose))
        rank = np.arange(len(order)) - np.searchsorted(whose[order], whose[order])
        kept = order[rank < self.k]
        self.distances[touched], self.names[touched] = every[kept].reshape(-1, self.k), called[kept].reshape(-1, self.k)


def exact(queries: np.ndarray, vectors: np.ndarray, metric: str) -> np.ndarray:
    """Distances of pairs, (n,) float64, of queries, (n, width) float64, and vectors, (n, width). The same pair gives the same bits."""
    others = vectors.astype(np.float64)
    if metric == "l2":
        return np.sqrt(((queries - others) ** 2).sum(axis=1))
    products = (queries * others).sum(axis=1)
    if metric == "dot":
        return -products
    # Of a vector and itself the square root is the product, and the distance 0.
    lengths = np.sqrt((queries**2).sum(axis=1) * (others**2).sum(axis=1))
    return np.maximum(1 - products / lengths, 0)


def check_queries(queries: np.ndarray, metric: str, labels: list[str] | None = None) -> None:
    """Raise UsageError for a metric or queries that have no nearest vectors: none at all, not finite, or zero under a cosine."""
    if metric not in METRICS:
        raise UsageError(f"metric {metric!r} is not known: use {', '.join(METRICS)}")
    if queries.ndim != 2 or not queries.size:
        raise UsageError("there is no query: give one or more")
    for fault, bad in (
        ("holds a number that is not finite", ~np.isfinite(queries).all(axis=1)),
        ("is a vector of zeros, which has no direction: use --metric l2 or dot", ~queries.any(axis=1)),
    ):
        if bad.any() and (metric == "cosine" or fault.startswith("holds")):
            at = int(np.argmax(bad))
            raise UsageError(f"query {labels[at] if labels else at} {fault}")


def _norms(vectors: np.ndarray) -> np.ndarray:
    """Lengths, (n,) float64. Raises StoreError where one is not finite."""
    with np.errstate(over="ignore"):
        norms = np.sqrt(np.einsum("ij,ij->i", vectors, vectors).astype(np.float64))
    odd = ~((norms > _LEAST) & (norms < _LARGEST))
    if odd.any():
        norms[odd] = np.sqrt((vectors[odd].astype(np.float64) ** 2).sum(axis=1))
        if not np.isfinite(norms).all():
            raise StoreError("the store is damaged: vectors hold numbers that are not finite")
    return norms


def _precision(*norms: np.ndarray) -> tuple[type, float]:
    """The type in which vectors of these lengths are multiplied, and its unit of rounding."""
    usual = all(not len(one) or ((one == 0) | ((one > _LEAST) & (one < _LARGEST))).all() for one in norms)
    return (np.float32, 2.0**-24) if usual else (np.float64, 2.0**-53)

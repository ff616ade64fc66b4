"""Measures of how well two modalities of the same held-out subjects fit: retrieval, CKA and CCA. NumPy alone.

Nothing here is fitted on the subjects that it is measured on. Tests shuffle whole families and intervals draw whole families (`kinship`).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from dnafeat.statistics import principal_axes_of
from dnafeat.statistics import rank as rank_of

# Cosines that are nearer than this count as equal: those of the same vectors differ by rounding.
_TIE = 1e-6
_ROWS = 1024  # of a similarity matrix at a time
_CONFIDENCE = (2.5, 97.5)
_CCA_COMPONENTS, _CCA_ROWS, _CCA_RIDGE = 50, 4, 0.1


@dataclass(frozen=True)
class Estimate:
    """A number with the interval that 95 of 100 resamples gave; None where it is not defined."""

    value: float | None
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True)
class Tested:
    """A measured value with its permutation test: p = (1 + b) / (1 + n), where b of n shuffles give as much or more.

    Attributes
    ----------
    value, p : float
    null : np.ndarray, shape=(n,)
    """

    value: float
    p: float
    null: np.ndarray

    @classmethod
    def of(cls, value: float, null: Sequence[float]) -> Tested:
        found = np.asarray(null, np.float64)
        return cls(value, float((1 + np.sum(found >= value)) / (1 + len(found))), found)


# -- who is found by whom ------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Ranks:
    """Counts of candidates before each query's own, and of ties with it.

    Attributes
    ----------
    above, beside : np.ndarray, shape=(n,), int64
        Other candidates whose cosine is larger by more than 1e-6, and those within 1e-6 of it.
    """

    above: np.ndarray
    beside: np.ndarray

    def ranks(self) -> np.ndarray:
        """The mid-rank of each query's own candidate, 1 being the first: (n,) float64."""
        return 1 + self.above + self.beside / 2

    def recalled(self, k: int) -> np.ndarray:
        """The probability that each query's own is among the first k, ties broken at random: (n,) float64."""
        return np.clip((k - self.above) / (1 + self.beside), 0, 1)


def rank(queries: np.ndarray, candidates: np.ndarray) -> Ranks:
    """Ranks of candidates by cosine: row i of `candidates` is query i's own. Both (n, width)."""
    q, c = (_unit(np.asarray(x, np.float64)) for x in (queries, candidates))
    own = np.sum(q * c, axis=1)
    above, beside = np.empty(len(q), np.int64), np.empty(len(q), np.int64)
    for a in range(0, len(q), _ROWS):
        more = q[a : a + _ROWS] @ c.T - own[a : a + _ROWS, None]
        above[a : a + _ROWS] = np.sum(more > _TIE, axis=1)
        beside[a : a + _ROWS] = np.sum(np.abs(more) <= _TIE, axis=1) - 1
    return Ranks(above, beside)


def ceiling(k: int, same_query: np.ndarray, same_candidate: np.ndarray) -> float:
    """The most that recall@k can be: of c queries that are the same at most k find their own, and of c candidates likewise.

    Parameters
    ----------
    same_query, same_candidate : np.ndarray, shape=(n,), int64
        As of `kinship.identical`.
    """
    copies = np.bincount(same_candidate)[same_candidate]
    of_class = np.bincount(same_query, np.minimum(1, k / copies))
    return float(np.minimum(k, of_class).sum() / len(same_query))


def mean_of(values: np.ndarray, draws: Iterable[np.ndarray]) -> Estimate:
    """The mean over queries, and its interval over resampled subjects; the candidates stay."""
    return estimate(float(values.mean()), [float(values[rows].mean()) for rows in draws])


def median_of(values: np.ndarray, draws: Iterable[np.ndarray]) -> Estimate:
    return estimate(float(np.median(values)), [float(np.median(values[rows])) for rows in draws])


def _unit(x: np.ndarray) -> np.ndarray:
    return x / np.maximum(np.linalg.norm(x, axis=1, keepdims=True), 1e-30)


def estimate(value: float | None, drawn: Sequence[float]) -> Estimate:
    """A value with the interval of those that resamples gave; those that are not defined do not count."""
    known = [one for one in drawn if np.isfinite(one)]
    if value is None or not np.isfinite(value):
        return Estimate(None)
    if not known:
        return Estimate(value)
    low, high = np.percentile(known, _CONFIDENCE)
    return Estimate(value, float(low), float(high))


# -- whether the same subjects are alike in both -------------------------------------------------------------------------


def cka(x: np.ndarray, y: np.ndarray, orders: Iterable[np.ndarray] = ()) -> Tested:
    """Linear centred kernel alignment of (n, a) and (n, b), from the unbiased estimator of HSIC: 0 on average for what is unrelated.

    It can be below 0, and is 1 at most but for the estimator's noise. Kornblith et al. 2019 (arXiv:1905.00414), with HSIC as in Song
    et al. 2012 (JMLR 13), eq. 5; `orders` are rows of y in place of its own. Raises ValueError for fewer than 4 rows.
    """
    if len(x) < 4:
        raise ValueError(f"{len(x)} rows, and the unbiased estimator needs 4")
    k, m = _kernel(x), _kernel(y)
    scale = np.sqrt(_hsic(k, k) * _hsic(m, m)) if _hsic(k, k) > 0 < _hsic(m, m) else np.inf
    null = [_hsic(k, m, order) / scale for order in orders]
    return Tested.of(_hsic(k, m) / scale, null)


def _kernel(x: np.ndarray) -> np.ndarray:
    wide = np.asarray(x, np.float64)
    wide = wide - wide.mean(axis=0)  # which changes nothing but rounding
    kernel = wide @ wide.T
    np.fill_diagonal(kernel, 0)
    return kernel


def _hsic(k: np.ndarray, m: np.ndarray, order: np.ndarray | None = None) -> float:
    n, rows = len(k), m.sum(axis=0)
    if order is not None:
        m, rows = m[np.ix_(order, order)], rows[order]
    both = np.vdot(k, m) + k.sum() * rows.sum() / ((n - 1) * (n - 2)) - 2 * (k.sum(axis=0) @ rows) / (n - 2)
    return float(both / (n * (n - 3)))


# -- what they have in common ----------------------------------------------------------------------------------------------


class Whitened:
    """One side of a regularised CCA: principal components of the training rows, whitened with a ridge.

    As many components as 50, a quarter of the rows and the width allow; the ridge is a tenth of their mean variance.

    Attributes
    ----------
    mean : np.ndarray, shape=(width,)
    map : np.ndarray, shape=(width, components)
        From centred rows to whitened components.
    """

    def __init__(self, train: np.ndarray) -> None:
        wide = np.asarray(train, np.float64)
        self.mean = wide.mean(axis=0)
        sizes, axes = principal_axes_of(wide - self.mean, min(wide.shape))
        count = max(1, min(_CCA_COMPONENTS, len(wide) // _CCA_ROWS, rank_of(sizes)))
        variance = sizes[:count] / max(1, len(wide) - 1)
        self.map = axes[:count].T / np.sqrt(variance + _CCA_RIDGE * max(float(variance.mean()), 1e-30))

    def __call__(self, rows: np.ndarray) -> np.ndarray:
        return (np.asarray(rows, np.float64) - self.mean) @ self.map


def cca(
    train: tuple[np.ndarray, np.ndarray],
    test: tuple[np.ndarray, np.ndarray],
    train_orders: Iterable[np.ndarray] = (),
    test_orders: Iterable[np.ndarray] = (),
) -> Tested:
    """The correlation on `test` of the first pair of canonical variates that was fitted on `train`; each a pair of (n, a) and (n, b).

    For each shuffle of partners, in training and test alike, it is fitted anew: shuffling rows changes neither side's components, only
    how they go together. 0 where a variate does not vary.
    """
    left, right = Whitened(train[0]), Whitened(train[1])
    x, y, u, v = left(train[0]), right(train[1]), left(test[0]), right(test[1])

    def fitted(order: np.ndarray, shown: np.ndarray) -> float:
        common = x.T @ y[order]
        if not common.any():
            return 0.0
        a, _, b = np.linalg.svd(common, full_matrices=False)
        return correlation(u @ a[:, 0], v[shown] @ b[0])

    null = [fitted(one, other) for one, other in zip(train_orders, test_orders, strict=True)]
    return Tested.of(fitted(np.arange(len(x)), np.arange(len(u))), null)


def correlation(a: np.ndarray, b: np.ndarray) -> float:
    """Pearson's r; 0 where one of both does not vary."""
    a, b = a - a.mean(), b - b.mean()
    size = np.linalg.norm(a) * np.linalg.norm(b)
    return float(a @ b / size) if size > 1e-12 else 0.0

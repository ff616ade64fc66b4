"""Removal of covariates within the subjects of a permutation test, so that what is left can be exchanged.

Vectors from which covariates were removed by the fit on training subjects still carry them on held-out subjects: the coefficients have
errors, which all subjects of a level share, and curved effects stay. A permutation test takes both for a signal. Here the covariates of
the tested subjects themselves are projected out, and as many subjects are left out as that costs degrees of freedom: the residuals of
the others are best linear unbiased with a scalar covariance matrix (BLUS: Theil 1965, doi:10.1080/01621459.1965.10480851), so that
their rows are exchangeable again. As in Winkler et al. 2020, doi:10.1016/j.neuroimage.2020.117065, section 2.4.

A residual mixes the errors of subjects, of relatives, too, so that families could not be exchanged afterwards. So each family becomes
one row before: the mean of its members, scaled to the variance of a single subject. NumPy and SciPy alone.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.linalg import qr

# Of the degrees of freedom that the plain columns leave, a third at most goes to curves and products.
_SHARE = 3
_RANK = 1e-8  # of the largest singular value, below which a direction is rounding


@dataclass(frozen=True)
class Families:
    """The map of subjects' rows, (n, width), to a row of each family, all of like variance.

    Attributes
    ----------
    unit : np.ndarray, shape=(n,), int64
        The row of each subject's family.
    weight : np.ndarray, shape=(n,)
        1 / √(m (1 + (m − 1) ρ)) for a member of a family of m, ρ being the correlation of relatives; 1 for who has none.
    """

    unit: np.ndarray
    weight: np.ndarray

    @classmethod
    def of(cls, families: np.ndarray, correlation: float) -> Families:
        unit, size = np.unique(families, return_inverse=True, return_counts=True)[1:]
        members = size[unit].astype(np.float64)
        return cls(unit.astype(np.int64), 1 / np.sqrt(members * (1 + (members - 1) * correlation)))

    def __call__(self, values: np.ndarray) -> np.ndarray:
        if len(np.unique(self.unit)) == len(self.unit):
            return np.asarray(values, np.float64)[np.argsort(self.unit)]
        total = np.zeros((int(self.unit.max()) + 1, values.shape[1]))
        np.add.at(total, self.unit, self.weight[:, None] * values)
        return total


@dataclass(frozen=True)
class Residuals:
    """The map of the rows of subjects to rows that a permutation test can exchange.

    Attributes
    ----------
    groups : np.ndarray, shape=(rows,), int64
        Rows of the result that are exchanged together are equal.
    families : Families | None
        Comes first; None: no covariates, the map changes nothing, and families are exchanged as they are.
    basis : np.ndarray, shape=(families, k)
        Orthonormal columns that are projected out; the first is the constant.
    kept : np.ndarray, shape=(families − k,), int64
        The families whose residuals stay.
    left_out : int
        Columns that were asked for and for which there are too few families.
    """

    groups: np.ndarray
    families: Families | None
    basis: np.ndarray
    kept: np.ndarray
    left_out: int = 0

    @classmethod
    def none(cls, groups: np.ndarray) -> Residuals:
        """The map that changes nothing."""
        return cls(groups, None, np.empty((len(groups), 0)), np.arange(len(groups)))

    @classmethod
    def of(cls, families: Families, plain: np.ndarray, further: np.ndarray) -> Residuals:
        """Project out a constant, columns `plain` (n, a), and of `further` (n, b) the largest components that there is room for."""
        constant = families(np.ones((len(plain), 1)))
        constant /= np.linalg.norm(constant)
        basis = np.hstack([constant, _orthonormal(families(plain), beside=constant)])
        rest = _orthonormal(families(further), beside=basis)
        room = max(0, (len(basis) - basis.shape[1]) // _SHARE)
        whole = np.hstack([basis, rest[:, :room]])
        # Those that depend on the covariates most are left out: the residuals of the others then have full rank.
        order = qr(whole.T, pivoting=True, mode="r")[1]
        kept = np.sort(order[whole.shape[1] :]).astype(np.int64)
        return cls(np.arange(len(kept)), families, whole, kept, max(0, rest.shape[1] - room))

    @property
    def columns(self) -> int:
        """Columns of covariates that are projected out."""
        return max(0, self.basis.shape[1] - 1)

    def __call__(self, values: np.ndarray) -> np.ndarray:
        """Rows (rows, width) of (n, width) values: residuals in float64, or the values themselves where nothing is projected out."""
        if self.families is None:
            return values
        wide = self.families(values)
        left = (wide - self.basis @ (self.basis.T @ wide))[self.kept]
        # (S R Sᵀ)^(−1/2) S R, R being 1 − basis basisᵀ and S the choice of rows: by the singular vectors of the chosen rows of the basis.
        vectors, sizes, _ = np.linalg.svd(self.basis[self.kept], full_matrices=False)
        grown = 1 / np.sqrt(np.maximum(1 - sizes**2, _RANK)) - 1
        return np.asarray(left + vectors @ (grown[:, None] * (vectors.T @ left)))

    def explained(self, values: np.ndarray, orders: list[np.ndarray]) -> tuple[float, list[float]]:
        """The share of the variance of all columns of (n, width) values that the covariates explain, adjusted for their number.

        It is 0 on average for what has nothing to do with them, and can be below 0.

        Returns
        -------
        (value, null)
            Of the values, and for each order of families.
        """
        if self.families is None or not self.columns or not len(self.kept):
            return 0.0, [0.0] * len(orders)
        wide = self.families(values)
        wide -= self.basis[:, :1] @ (self.basis[:, :1].T @ wide)
        total = float(np.sum(wide**2)) or 1.0
        free = (len(wide) - 1) / len(self.kept)

        def adjusted(rows: np.ndarray) -> float:
            return 1 - free * (1 - float(np.sum((self.basis[:, 1:].T @ rows) ** 2)) / total)

        return adjusted(wide), [adjusted(wide[order]) for order in orders]


def correlation_of(families: np.ndarray, values: np.ndarray) -> float:
    """The correlation of relatives in the columns of (n, width) values, from 0 to 1: the intraclass correlation by analysis of variance.

    0.5 where nobody has a relative.
    """
    unit, size = np.unique(families, return_inverse=True, return_counts=True)[1:]
    count, groups = len(families), len(size)
    if not 1 < groups < count:
        return 0.5
    wide = np.asarray(values, np.float64)
    means = np.zeros((groups, wide.shape[1]))
    np.add.at(means, unit, wide)
    means /= size[:, None]
    within = float(np.sum((wide - means[unit]) ** 2)) / (count - groups)
    between = float(np.sum(size[:, None] * (means - wide.mean(axis=0)) ** 2)) / (groups - 1)
    typical = (count - float(np.sum(size**2)) / count) / (groups - 1)
    return float(np.clip((between - within) / max(between + (typical - 1) * within, 1e-300), 0, 1))


def _orthonormal(columns: np.ndarray, beside: np.ndarray) -> np.ndarray:
    """Orthonormal columns for what some columns have beside others, which are orthonormal; the largest component first."""
    if not columns.shape[1]:
        return np.empty((len(columns), 0))
    vectors, sizes, _ = np.linalg.svd(columns - beside @ (beside.T @ columns), full_matrices=False)
    return np.asarray(vectors[:, sizes > _RANK * max(float(np.linalg.norm(columns)), 1e-300)])

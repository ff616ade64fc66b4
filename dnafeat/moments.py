"""Means and second moments of rows that stream by, in float64: batches are centred on their own mean and merged pairwise.

Chan, Golub and LeVeque, Updating formulae and a pairwise algorithm for computing sample variances (1979).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Moments:
    """Of weighted rows.

    Attributes
    ----------
    weight : float
        The sum of the rows' weights: how many they count as.
    mean : np.ndarray, shape=(width,), float64
    squares : np.ndarray, shape=(width,) or (width, width), float64
        Weighted sum of squared deviations from the mean, or of the products of all pairs of them.
    """

    weight: float
    mean: np.ndarray
    squares: np.ndarray

    @classmethod
    def of(cls, rows: np.ndarray, weights: np.ndarray, *, pairs: bool) -> Moments:
        """Of (n, width) numbers, n of 1 or more, with (n,) weights; `pairs` says whether products of all pairs are wanted."""
        values, weights = rows.astype(np.float64), weights.astype(np.float64)
        weight = float(weights.sum())
        mean = weights @ values / weight
        values -= mean
        values *= np.sqrt(weights)[:, None]
        return cls(weight, mean, values.T @ values if pairs else np.einsum("ij,ij->j", values, values))

    def __add__(self, other: Moments) -> Moments:
        weight = self.weight + other.weight
        apart = other.mean - self.mean
        products = np.outer(apart, apart) if self.squares.ndim == 2 else apart * apart
        return Moments(
            weight,
            self.mean + apart * (other.weight / weight),
            self.squares + other.squares + products * (self.weight * other.weight / weight),
        )

    def deviation(self) -> np.ndarray:
        """Standard deviations over the rows there are (divided by their weight), (width,) float64."""
        squares = np.diagonal(self.squares) if self.squares.ndim == 2 else self.squares
        return np.sqrt(squares / self.weight)

"""Moments, z-scores and principal axes of vectors, in float64. NumPy alone."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

CONSTANT = 1e-5
"""Share of its mean's size below which the deviation of a number is rounding: vectors of one sequence agree to 1e-5 in float32."""

_NOTHING = 1e-30  # a deviation below this is none, whatever the mean


@dataclass(frozen=True)
class Moments:
    """Mean and second moments of weighted rows, which add up over parts of them.

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

    def scale(self, of_constant: float) -> np.ndarray:
        """What makes each number's standard deviation 1, (width,) float64; `of_constant` for a number that does not differ."""
        deviation = self.deviation()
        differs = deviation > np.maximum(CONSTANT * np.abs(self.mean), _NOTHING)
        return np.where(differs, 1 / np.where(differs, deviation, 1), of_constant)


def principal_axes(products: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """All principal axes of what has these sums of products, (width, width): the largest variance first.

    Returns
    -------
    (sizes, axes)
        Sums of squares along each axis, (width,) and not negative, and the axes, (width, width), a row each, whose loading that is largest
        in size (the first of several) is positive.
    """
    sizes, vectors = np.linalg.eigh(products)
    return np.maximum(sizes[::-1], 0), _signed(vectors.T[::-1])


def principal_axes_of(rows: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
    """The first `count` principal axes of centred rows (n, width), as of `principal_axes`; `count` is at most n and at most width.

    The smaller of both products of the rows is decomposed, since the two have the same axes.
    """
    if rows.shape[1] <= len(rows):
        sizes, axes = principal_axes(rows.T @ rows)
        return sizes[:count], axes[:count]
    sizes, left = np.linalg.eigh(rows @ rows.T)
    axes = (rows.T @ (left / np.sqrt(np.maximum(sizes, 1e-12 * max(sizes[-1], 1e-300))))).T
    return np.maximum(sizes[::-1], 0)[:count], _signed(axes[::-1][:count])


def rank(sizes: np.ndarray) -> int:
    """How many of some sums of squares, the largest first, float64 tells from nothing beside the largest."""
    return int((sizes > sizes[0] * len(sizes) * np.finfo(np.float64).eps).sum())


def _signed(axes: np.ndarray) -> np.ndarray:
    largest = axes[np.arange(len(axes)), np.abs(axes).argmax(1)]
    return axes * np.sign(largest)[:, None]

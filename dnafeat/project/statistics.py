"""What statistics make: z-scores and principal components, as steps and maps of a projection."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch

from dnafeat.encoder.projection import LinearMap, ZScore
from dnafeat.errors import UsageError
from dnafeat.vectors import PROJECTED_WIDTH

# Of the mean's size: numbers are float32, and what differs by less than their rounding does not differ.
_CONSTANT = 1e-7


def zscore(moments: Moments) -> ZScore:
    """The step that makes each number's mean 0 and its standard deviation 1 over what the moments are of.

    The deviation is that of the entries there are (divided by n). A number that does not differ among them is only centred.
    """
    deviation = moments.deviation()
    differs = deviation > _CONSTANT * np.abs(moments.mean)
    scale = np.where(differs, 1 / np.where(differs, deviation, 1), 1)
    return ZScore(_float32(moments.mean), _float32(scale))


class Principal(NamedTuple):
    """Principal components as a map.

    Attributes
    ----------
    map : LinearMap
        The largest variance first, rows of zeros behind the last component.
    components : int
        How many there are: 512, or as many as there is variance along.
    explained : float
        Share of the variance that they hold.
    """

    map: LinearMap
    components: int
    explained: float


def principal_components(moments: Moments, *, whiten: bool = False) -> Principal:
    """Up to 512 directions of the largest variance of what the moments, of all pairs, are of.

    Of each the loading that is largest in size is positive (the first of several). What has less variance than float64 tells from none
    (the largest times width times 2.2e-16) is no component: `projected` has zeros in its place. With `whiten` each has variance 1 (divided
    by n - 1). Raises UsageError where there is no variance at all.
    """
    values, vectors = np.linalg.eigh(moments.squares / max(1.0, moments.weight - 1))
    values, vectors = np.maximum(values[::-1], 0), vectors.T[::-1]
    kept = values > values[0] * len(values) * np.finfo(np.float64).eps
    count = min(PROJECTED_WIDTH, int(kept.sum()))
    if not count:
        raise UsageError("the training entries do not differ, so that they have no principal components: name others")
    rows = vectors[:count]
    largest = rows[np.arange(count), np.abs(rows).argmax(1)]
    rows = rows * np.sign(largest)[:, None]
    if whiten:
        rows = rows / np.sqrt(values[:count])[:, None]
    components = np.zeros((PROJECTED_WIDTH, rows.shape[1]))
    components[:count] = rows
    explained = float(values[:count].sum() / values.sum())
    return Principal(LinearMap(_float32(moments.mean), _float32(components)), count, explained)


def _float32(values: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(values.astype(np.float32))


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

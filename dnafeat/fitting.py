"""What statistics make: z-scores and principal components, as steps and maps of a projection."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch

from dnafeat.errors import UsageError
from dnafeat.moments import Moments
from dnafeat.projection import LinearMap, ZScore
from dnafeat.schema import PROJECTED_WIDTH

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

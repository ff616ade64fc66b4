"""What statistics make: z-scores and principal components, as steps and maps of a projection."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch

from dnafeat.encoder.projection import LinearMap, ZScore
from dnafeat.errors import UsageError
from dnafeat.statistics import Moments, principal_axes, rank
from dnafeat.vectors import PROJECTED_WIDTH


def zscore(moments: Moments) -> ZScore:
    """The step that makes each number's mean 0 and its standard deviation 1 over what the moments are of.

    The deviation is that of the entries there are (divided by n). A number that does not differ among them is only centred.
    """
    return ZScore(_float32(moments.mean), _float32(moments.scale(of_constant=1.0)))


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
    values, axes = principal_axes(moments.squares / max(1.0, moments.weight - 1))
    count = min(PROJECTED_WIDTH, rank(values))
    if not count:
        raise UsageError("the training entries do not differ, so that they have no principal components: name others")
    rows = axes[:count]
    if whiten:
        rows = rows / np.sqrt(values[:count])[:, None]
    components = np.zeros((PROJECTED_WIDTH, rows.shape[1]))
    components[:count] = rows
    explained = float(values[:count].sum() / values.sum())
    return Principal(LinearMap(_float32(moments.mean), _float32(components)), count, explained)


def _float32(values: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(values.astype(np.float32))

"""Preparation of a modality's vectors before they are projected: covariates removed, z-scores, principal components.

Every number is fitted on training rows, once, and is kept with the artifact.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from dnafeat.align.covariates import coefficients
from dnafeat.statistics import Moments, principal_axes_of


@dataclass(frozen=True)
class Preparation:
    """The steps of one modality, in their order.

    Attributes
    ----------
    coef : np.ndarray | None, shape=(covariate columns, width)
        What is taken out; None: nothing.
    mean, gain : np.ndarray, shape=(width,)
        z = (x − mean) · gain; the gain of a constant column is 0. Float32 holds both exactly, so that z is the same in either precision.
    axes : np.ndarray | None, shape=(width, components)
        Principal axes of z, each with its largest entry positive, over a number that gives the components a mean variance of 1.
    """

    coef: np.ndarray | None
    mean: np.ndarray
    gain: np.ndarray
    axes: np.ndarray | None

    @classmethod
    def fit(cls, train: np.ndarray, design: np.ndarray | None = None, components: int | None = None) -> Preparation:
        """Fit the steps on training rows (n, width) and their covariates (n, columns); at most n − 1 components."""
        rows = np.asarray(train, np.float64)
        coef = None if design is None else coefficients(design, rows)
        if design is not None and coef is not None:
            rows = rows - design @ coef
        moments = Moments.of(rows, np.ones(len(rows)), pairs=False)
        mean, gain = _float32(moments.mean), _float32(moments.scale(of_constant=0.0))
        return cls(coef, mean, gain, None if components is None else _axes((rows - mean) * gain, components))

    @property
    def varies(self) -> bool:
        return bool(self.gain.any())

    @property
    def width(self) -> int:
        """The width of prepared rows."""
        return len(self.mean) if self.axes is None else self.axes.shape[1]

    def __call__(self, rows: np.ndarray, design: np.ndarray | None = None, without: slice | None = None) -> np.ndarray:
        """Rows (n, width) as they go into a projector, float32; the columns `without` as if they had their training means."""
        wide = np.asarray(rows, np.float64)
        if self.coef is not None:
            assert design is not None
            wide = wide - design @ self.coef
        scored = (wide - self.mean) * self.gain
        if without is not None:
            scored[:, without] = 0
        return (scored if self.axes is None else scored @ self.axes).astype(np.float32)

    def arrays(self) -> dict[str, np.ndarray]:
        found = {"coef": self.coef, "mean": self.mean, "gain": self.gain, "axes": self.axes}
        return {name: value for name, value in found.items() if value is not None}

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, np.ndarray]) -> Preparation:
        return cls(arrays.get("coef"), arrays["mean"], arrays["gain"], arrays.get("axes"))


def _float32(numbers: np.ndarray) -> np.ndarray:
    """The nearest numbers that float32 holds, as float64."""
    return numbers.astype(np.float32).astype(np.float64)


def _axes(scored: np.ndarray, components: int) -> np.ndarray:
    count = max(1, min(components, len(scored) - 1, scored.shape[1]))
    sizes, axes = principal_axes_of(scored, count)
    spread = np.sqrt(sizes.sum() / (count * len(scored)))
    return axes.T / (spread or 1.0)

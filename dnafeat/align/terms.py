"""Terms of covariates beyond their plain columns: squares and splines of numbers, products of two covariates. NumPy alone."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np

Curves = Literal["linear", "squares", "splines"]
"""How a number enters: as it is, with its square, or as a restricted cubic spline."""
# Quantiles of the knots: Harrell, Regression Modeling Strategies, 2nd ed., table 2.3.
_KNOTS = (0.05, 0.275, 0.5, 0.725, 0.95)
_LEAST_KNOTS = 3


@dataclass(frozen=True)
class Term:
    """Columns made of the plain columns of one or two covariates, centred and scaled on the training subjects.

    Attributes
    ----------
    of : tuple of str
        One covariate, which is a number, for its curve; two for their products.
    knots : tuple of float
        Of a spline, in z-scores; none for a square.
    mean, scale : tuple of float
        Of each column; a column with scale 0 did not vary.
    """

    of: tuple[str, ...]
    knots: tuple[float, ...]
    mean: tuple[float, ...]
    scale: tuple[float, ...]

    @property
    def width(self) -> int:
        return len(self.mean)

    def __call__(self, blocks: Mapping[str, np.ndarray]) -> np.ndarray:
        """Columns (n, width) of some subjects by the plain columns of covariates; 0 where one has a level that training has not."""
        own = [blocks[name] for name in self.of]
        # A number's plain column is 0 for the mean, and its level is never unknown.
        known = np.all([one.any(axis=1) | (one.shape[1] == 1) for one in own], axis=0)
        return np.where(known[:, None], (_raw(own, self.knots) - np.array(self.mean)) * np.array(self.scale), 0.0)

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Term:
        return cls(*(tuple(values[name]) for name in ("of", "knots", "mean", "scale")))


def curve(name: str, block: np.ndarray, curves: Curves) -> Term | None:
    """Fit the curve of a number to its z-scores (n, 1); None where it is linear, or has two values, which have no curve."""
    distinct = np.unique(block)
    if curves == "linear" or len(distinct) < _LEAST_KNOTS:
        return None
    knots = np.unique(np.quantile(block, _KNOTS))
    if curves == "squares" or len(knots) < _LEAST_KNOTS:
        knots = np.empty(0)
    return _fitted((name,), tuple(knots.tolist()), [block])


def interaction(a: str, b: str, blocks: Mapping[str, np.ndarray]) -> Term:
    """Fit the products of two covariates' plain columns (n, width of each)."""
    return _fitted((a, b), (), [blocks[a], blocks[b]])


def _fitted(of: tuple[str, ...], knots: tuple[float, ...], own: list[np.ndarray]) -> Term:
    raw = _raw(own, knots)
    mean, deviation = raw.mean(axis=0), raw.std(axis=0)
    scale = np.where(deviation > 1e-9, 1 / np.maximum(deviation, 1e-9), 0.0)
    return Term(of, knots, tuple(mean.tolist()), tuple(scale.tolist()))


def _raw(own: list[np.ndarray], knots: tuple[float, ...]) -> np.ndarray:
    """Columns before they are centred: products of two blocks, or the spline or square of one."""
    if len(own) == 2:
        return (own[0][:, :, None] * own[1][:, None, :]).reshape(len(own[0]), -1)
    return _spline(own[0][:, 0], np.array(knots)) if knots else own[0] ** 2


def _spline(values: np.ndarray, knots: np.ndarray) -> np.ndarray:
    """The curved columns of a restricted cubic spline, (n, knots − 2): linear beyond the outer knots (Harrell, eq. 2.25)."""
    last, before = knots[-1], knots[-2]

    def above(knot: float) -> np.ndarray:
        return np.asarray(np.maximum(values - knot, 0) ** 3)

    return np.stack(
        [
            above(knot) - above(before) * (last - knot) / (last - before) + above(last) * (before - knot) / (last - before)
            for knot in knots[:-2]
        ],
        axis=1,
    )

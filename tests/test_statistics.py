"""Moments of parts, z-scores and principal axes."""

from __future__ import annotations

import numpy as np
import pytest

from dnafeat.statistics import CONSTANT, Moments, principal_axes, principal_axes_of, rank


@pytest.mark.parametrize("cuts", [[], [1], [100, 101, 350], list(range(1, 500))])
@pytest.mark.parametrize("pairs", [True, False])
def test_moments_of_parts_are_those_of_the_whole(cuts: list[int], pairs: bool) -> None:
    draw = np.random.default_rng(0)
    # Sums of plain squares would lose all of the variance beside this mean.
    rows, weights = draw.standard_normal((500, 6)) + 1e6, draw.integers(1, 4, 500)
    total: Moments | None = None
    for part, weight in zip(np.split(rows, cuts), np.split(weights, cuts), strict=True):
        one = Moments.of(part, weight, pairs=pairs)
        total = one if total is None else total + one
    assert total is not None
    repeated = np.repeat(rows, weights, axis=0)
    assert total.weight == len(repeated)
    np.testing.assert_allclose(total.mean, repeated.mean(0), rtol=1e-14)
    deviations = repeated - repeated.mean(0)
    expected = deviations.T @ deviations if pairs else (deviations**2).sum(0)
    np.testing.assert_allclose(total.squares, expected, rtol=1e-7, atol=1e-5)
    np.testing.assert_allclose(total.deviation(), repeated.std(0), rtol=1e-8)


def test_a_number_is_constant_where_its_deviation_is_rounding() -> None:
    spread = np.array([-1.0, 1.0])[:, None]
    rows = np.concatenate([100 + 100 * CONSTANT * spread * factor for factor in (0.9, 1.1)] + [0 * spread, spread], axis=1)
    scale = Moments.of(rows, np.ones(2), pairs=False).scale(of_constant=0.0)
    assert (scale == 0).tolist() == [True, False, True, False]
    np.testing.assert_allclose(scale[[1, 3]], [1 / (1.1 * 100 * CONSTANT), 1], rtol=1e-6)
    assert Moments.of(rows, np.ones(2), pairs=True).scale(of_constant=1.0)[[0, 2]].tolist() == [1, 1]


@pytest.mark.parametrize("shape", [(40, 7), (7, 40)])
def test_principal_axes_are_those_of_an_svd_from_either_side(shape: tuple[int, int]) -> None:
    rows = np.random.default_rng(4).normal(size=shape)
    rows -= rows.mean(0)
    _, size, expected = np.linalg.svd(rows, full_matrices=False)
    for sizes, axes in (principal_axes_of(rows, 5), [part[:5] for part in principal_axes(rows.T @ rows)]):
        np.testing.assert_allclose(sizes, size[:5] ** 2, rtol=1e-8)
        np.testing.assert_allclose(np.abs(axes @ expected[:5].T), np.eye(5), atol=1e-8)
        assert (axes[np.arange(5), np.abs(axes).argmax(1)] > 0).all()


def test_the_rank_leaves_out_rounding() -> None:
    rows = np.random.default_rng(5).normal(size=(30, 3)) @ np.random.default_rng(6).normal(size=(3, 8))
    assert rank(principal_axes(rows.T @ rows)[0]) == 3
    assert rank(np.zeros(4)) == 0

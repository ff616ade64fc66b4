"""Measures against slow ways, against what is known of them, and against subjects that have nothing in common."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from scipy.stats import pearsonr
from sklearn.cross_decomposition import CCA

from dnafeat.align import kinship, measures


def drawn(rows: int, *widths: int, seed: int = 0, shared: int = 4, noise: float = 1.0) -> list[np.ndarray]:
    """Modalities that are random maps of shared numbers, and noise."""
    rng = np.random.default_rng(seed)
    common = rng.normal(size=(rows, shared))
    return [common @ rng.normal(size=(shared, width)) + noise * rng.normal(size=(rows, width)) for width in widths]


def singles(rows: int, count: int = 99, seed: int = 0) -> list[np.ndarray]:
    return list(kinship.shuffles(np.arange(rows), count, seed))


def test_ranks_are_those_of_a_sort_and_ties_share_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(measures, "_ROWS", 7)
    q, c = drawn(50, 6, 6, seed=1)
    c[10:13] = c[10] * [[1.0], [2.0], [0.5]]
    found = measures.rank(q, c)
    cosine = (q / np.linalg.norm(q, axis=1, keepdims=True)) @ (c / np.linalg.norm(c, axis=1, keepdims=True)).T
    for i in range(50):
        others = np.delete(cosine[i], i)
        ties = np.isclose(others, cosine[i, i], atol=1e-7, rtol=0).sum()
        assert found.above[i] == (others > cosine[i, i] + 1e-6).sum()
        assert found.beside[i] == ties == (2 if i in (10, 11, 12) else 0)
        assert found.ranks()[i] == 1 + found.above[i] + ties / 2


def test_recall_with_ties_is_what_breaking_them_at_random_gives() -> None:
    above, beside = np.array([0, 0, 2, 9, 3]), np.array([0, 3, 2, 0, 4])
    found = measures.Ranks(above, beside)
    for k in (1, 3, 5, 10):
        wanted = [np.mean([a + place < k for place in range(b + 1)]) for a, b in zip(above, beside, strict=True)]
        assert found.recalled(k) == pytest.approx(wanted)


def test_copies_bring_the_ceiling_down_and_it_is_reached() -> None:
    rng = np.random.default_rng(2)
    vectors = rng.normal(size=(20, 8))
    vectors[1] = vectors[2] = vectors[0]
    vectors[4] = vectors[3]
    same, own = kinship.identical(vectors), np.arange(20)
    for queries, candidates in ((same, own), (own, same), (same, same)):
        assert measures.ceiling(1, queries, candidates) == pytest.approx((15 + 1 + 1) / 20)
        assert measures.ceiling(2, queries, candidates) == pytest.approx((15 + 2 + 2) / 20)
    assert measures.ceiling(1, own, own) == 1
    assert measures.rank(vectors, vectors).recalled(1).mean() == pytest.approx(measures.ceiling(1, same, same))


def test_what_has_nothing_in_common_is_found_by_chance() -> None:
    x, y = np.random.default_rng(3).normal(size=(2, 400, 16))
    found = measures.rank(x, y)
    for k in (1, 10, 100):
        assert found.recalled(k).mean() == pytest.approx(k / 400, abs=3.5 * np.sqrt(k / 400 / 400))
    assert np.median(found.ranks()) == pytest.approx(200.5, abs=25)


def slow_hsic(k: np.ndarray, m: np.ndarray) -> float:
    """Song et al. 2012, eq. 4: over all ordered quadruples of different rows."""
    total = 0.0
    for i, j, q, r in itertools.permutations(range(len(k)), 4):
        total += k[i, j] * (m[i, j] + m[q, r] - 2 * m[i, q])
    n = len(k)
    return total / (n * (n - 1) * (n - 2) * (n - 3))


def test_cka_is_what_a_loop_over_quadruples_gives_also_when_shuffled() -> None:
    x, y = drawn(9, 3, 5, seed=4)
    orders = singles(9, 5)
    found = measures.cka(x, y, orders)
    k, m = x @ x.T, y @ y.T
    scale = np.sqrt(slow_hsic(k, k) * slow_hsic(m, m))
    assert found.value == pytest.approx(slow_hsic(k, m) / scale)
    assert found.null == pytest.approx([slow_hsic(k, m[np.ix_(order, order)]) / scale for order in orders])
    assert found.p == (1 + (found.null >= found.value).sum()) / 6


def test_cka_is_one_for_a_turned_copy_and_about_nothing_for_strangers_however_wide() -> None:
    rng = np.random.default_rng(5)
    x = rng.normal(size=(60, 12))
    turn = np.linalg.qr(rng.normal(size=(12, 12)))[0]
    assert measures.cka(x, 3 * x @ turn + 1).value == pytest.approx(1)
    # The biased estimator has 0.9 here.
    found = [measures.cka(*np.random.default_rng(i).normal(size=(2, 30, 300))).value for i in range(40)]
    assert abs(np.mean(found)) < 0.02
    assert measures.cka(x, np.ones((60, 3))).value == 0
    with pytest.raises(ValueError, match="needs 4"):
        measures.cka(x[:3], x[:3])


def test_p_is_uniform_where_there_is_nothing_and_small_where_there_is_something() -> None:
    found = []
    for seed in range(60):
        x, y = np.random.default_rng(seed).normal(size=(2, 40, 5))
        found.append(measures.cka(x, y, singles(40, 99, seed)).p)
    assert 0.35 < np.mean(found) < 0.65
    assert np.mean(np.array(found) <= 0.05) < 0.15
    x, y = drawn(80, 10, 12, seed=6)
    assert measures.cka(x, y, singles(80)).p == 0.01


def test_cca_finds_on_others_what_was_planted_and_is_fitted_anew_for_each_shuffle() -> None:
    x, y = drawn(300, 20, 30, seed=7)
    train, test = (x[:200], y[:200]), (x[200:], y[200:])
    orders = singles(200, 20, 1), singles(100, 20, 2)
    found = measures.cca(train, test, *orders)
    assert found.value > 0.9
    assert found.p == pytest.approx(1 / 21)
    for i in (0, 7):
        shuffled = measures.cca((train[0], train[1][orders[0][i]]), (test[0], test[1][orders[1][i]]))
        assert shuffled.value == pytest.approx(found.null[i], abs=1e-9)
    strangers = np.random.default_rng(8).normal(size=(2, 300, 20))
    assert abs(measures.cca(tuple(strangers[:, :200]), tuple(strangers[:, 200:])).value) < 0.3


def test_cca_without_its_ridge_is_that_of_scikit_learn(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(measures, "_CCA_RIDGE", 0.0)
    x, y = drawn(400, 6, 8, seed=9, shared=2)
    a, b = CCA(n_components=1, max_iter=5000, tol=1e-12).fit(x[:300], y[:300]).transform(x[300:], y[300:])
    found = measures.cca((x[:300], y[:300]), (x[300:], y[300:]))
    assert found.value == pytest.approx(pearsonr(a[:, 0], b[:, 0]).statistic, abs=1e-3)


def test_statistics_of_cca_do_not_know_the_test_rows() -> None:
    x, y = drawn(100, 5, 6, seed=10)
    fitted = measures.Whitened(x[:80])
    x[90] = 1e6
    again = measures.Whitened(x[:80])
    assert (fitted.mean == again.mean).all()
    assert (fitted.map == again.map).all()
    assert measures.cca((np.ones((20, 3)), y[:20]), (x[20:40, :3], y[20:40])).value == 0

"""Probes: both modalities tell more than either, intervals hold the value, and what nobody has is still measured."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import pearsonr
from sklearn.linear_model import Ridge
from sklearn.metrics import roc_auc_score

from dnafeat.align import kinship
from dnafeat.align.measures import Estimate
from dnafeat.align.probe import probe


def folds(x: np.ndarray, at: int) -> tuple[np.ndarray, np.ndarray]:
    return x[:at], x[at:]


def test_both_modalities_tell_more_of_a_number_than_either_and_intervals_hold_the_value() -> None:
    rng = np.random.default_rng(11)
    x, y = rng.normal(size=(2, 400, 10))
    target = x[:, 0] + y[:, 0] + 0.5 * rng.normal(size=400)
    groups = folds(np.arange(400), 300)
    draws = list(kinship.resamples(groups[1], 200, 0))
    told = {
        name: probe([folds(one, 300) for one in blocks], folds(target, 300), groups, draws)
        for name, blocks in {"x": [x], "y": [y], "both": [x, y]}.items()
    }
    assert told["both"]["r2"].value > max(told["x"]["r2"].value, told["y"]["r2"].value) + 0.2  # type: ignore[operator, type-var]
    for one in told.values():
        for estimate in one.values():
            assert estimate.low < estimate.value < estimate.high  # type: ignore[operator]
    z = (x - x[:300].mean(0)) / x[:300].std(0)
    plain = Ridge(alpha=1.0).fit(z[:300], target[:300]).predict(z[300:])
    assert told["x"]["pearson"].value == pytest.approx(pearsonr(plain, target[300:]).statistic, abs=0.02)


@pytest.mark.parametrize("classes", [2, 3])
def test_texts_are_told_by_logistic_regression(classes: int) -> None:
    rng = np.random.default_rng(12)
    x = rng.normal(size=(360, 8))
    target = np.array(["cab"[int(c)] for c in np.digitize(x[:, 0] + 0.4 * rng.normal(size=360), [-0.5, 0.5][: classes - 1])])
    groups = folds(np.arange(360) // 2, 260)
    draws = list(kinship.resamples(groups[1], 100, 0))
    found = probe([folds(x, 260)], folds(target, 260), groups, draws)
    # Shuffled labels are not told.
    nothing = probe([folds(x, 260)], folds(rng.permutation(target), 260), groups, draws)
    assert found["auroc"].value > 0.8  # type: ignore[operator]
    assert nothing["auroc"].value == pytest.approx(0.5, abs=0.12)
    assert found["auroc"].low < found["auroc"].value < found["auroc"].high  # type: ignore[operator]
    if classes == 2:
        assert found["auroc"].value == pytest.approx(roc_auc_score(target[260:] == "c", -x[260:, 0]), abs=0.05)


def test_a_phenotype_that_hardly_anybody_has_is_still_measured() -> None:
    rng = np.random.default_rng(13)
    x, target = rng.normal(size=(60, 4)), np.array(["no"] * 60)
    target[[0, 50]] = "yes"
    groups = folds(np.arange(60), 40)
    found = probe([folds(x, 40)], folds(target, 40), groups, list(kinship.resamples(groups[1], 30, 0)))
    assert found["auroc"].value is not None
    target[50] = "no"
    found = probe([folds(x, 40)], folds(target, 40), groups, [])
    assert found["auroc"] == Estimate(None)

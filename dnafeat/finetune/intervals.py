"""Intervals of metrics by a bootstrap over groups of rows, for each task of fine-tuning.

Every metric here is a function of sums over rows. So the sums are taken once for each group, and a resample adds up those of the
groups that it drew: rows that stand together are drawn together, and memory does not grow with the resamples.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from scipy.sparse import coo_matrix, csr_matrix

from dnafeat.finetune.labels import Labels, flatten

RESAMPLES = 1000
LEVEL = 0.95
# Numbers that the draws of one turn may take.
_NUMBERS = 2_000_000
Interval = tuple[float, float]


def intervals(
    labels: Labels,
    logits: np.ndarray,
    encoded: np.ndarray | Sequence[np.ndarray],
    groups: np.ndarray,
    *,
    seed: int = 0,
) -> dict[str, Interval | None]:
    """Bound metrics by the 2.5th and 97.5th percentile of 1,000 resamples of groups.

    Classes: accuracy, f1 and mcc; multilabel: accuracy, f1 and f1_micro; regression: pearson, r2 and rmse; each as
    `metrics.compute` defines it.

    Parameters
    ----------
    logits, encoded
        As of `metrics.compute`.
    groups : np.ndarray, shape=(sequences,), int64
        The group of each sequence.

    Returns
    -------
    dict of str to (float, float) or None
        None for all metrics where there are fewer than two groups, and for one that some resample leaves undefined for more than
        half of them, or where logits are not finite.
    """
    if not isinstance(encoded, np.ndarray):
        groups = np.repeat(groups, [len(classes) for classes in encoded])
    truth, wide = flatten(encoded), np.asarray(logits, np.float64)
    kept: Any = ~np.isnan(wide).any(axis=1) if labels.task == "token" else slice(None)
    truth, wide, groups = truth[kept], wide[kept], np.unique(groups[kept], return_inverse=True)[1]
    names = _NAMES.get(labels.task, _NAMES["classes"])
    count = int(groups.max(initial=-1)) + 1
    if count < 2 or not np.isfinite(wide).all():
        return dict.fromkeys(names)
    sums = _sums(labels, truth, wide, groups, count)
    random, turn = np.random.default_rng(seed), max(1, _NUMBERS // count)
    found: list[Mapping[str, np.ndarray]] = []
    for at in range(0, RESAMPLES, turn):
        draws = np.zeros((count, min(turn, RESAMPLES - at)))
        for column in draws.T:
            column += np.bincount(random.integers(0, count, count), minlength=count)
        found.append(_values(labels, np.asarray(sums.T @ draws).T))
    return {name: _percentiles(np.concatenate([values[name] for values in found])) for name in names}


_NAMES = {
    "classes": ("accuracy", "f1", "mcc"),
    "multilabel": ("accuracy", "f1", "f1_micro"),
    "regression": ("pearson", "r2", "rmse"),
}


def _sums(labels: Labels, truth: np.ndarray, logits: np.ndarray, groups: np.ndarray, count: int) -> csr_matrix:
    """What each group adds to the sums that metrics are made of, (groups, sums)."""
    chosen = labels.choices(logits)
    if labels.task == "regression":
        target = truth.astype(np.float64) * labels.std + labels.mean
        # Around one place, so that squares lose no digits.
        t, p = target - target.mean(), chosen - target.mean()
        columns = np.stack([np.ones(len(t)), t, p, t * t, p * p, t * p], axis=1)
    elif labels.task == "multilabel":
        both, either = truth * chosen, truth + chosen
        right = (truth == chosen).all(axis=1, keepdims=True)
        columns = np.hstack([np.ones((len(truth), 1)), right, both, either])
    else:
        k = labels.width
        return coo_matrix((np.ones(len(truth)), (groups, truth * k + chosen)), shape=(count, k * k)).tocsr()
    member = coo_matrix((np.ones(len(groups)), (groups, np.arange(len(groups)))), shape=(count, len(groups))).tocsr()
    return csr_matrix(member @ columns)


def _values(labels: Labels, sums: np.ndarray) -> dict[str, np.ndarray]:
    """Metrics of each row of sums, NaN where one is not defined."""
    with np.errstate(divide="ignore", invalid="ignore"):
        if labels.task == "regression":
            n, t, p, tt, pp, tp = sums.T
            vary_t, vary_p, vary = tt - t * t / n, pp - p * p / n, tp - t * p / n
            lost = tt + pp - 2 * tp
            return {"pearson": vary / np.sqrt(vary_t * vary_p), "r2": 1 - lost / vary_t, "rmse": np.sqrt(np.maximum(lost, 0) / n)}
        if labels.task == "multilabel":
            n, right, w = sums[:, 0], sums[:, 1], labels.width
            both, either = sums[:, 2 : 2 + w], sums[:, 2 + w :]
            micro = 2 * both.sum(axis=1) / np.maximum(either.sum(axis=1), 1)
            return {"accuracy": right / n, "f1": (2 * both / np.maximum(either, 1)).mean(axis=1), "f1_micro": micro}
        table = sums.reshape(len(sums), labels.width, labels.width)
        n, right = table.sum(axis=(1, 2)), np.trace(table, axis1=1, axis2=2)
        true, told = table.sum(axis=2), table.sum(axis=1)
        there = true + told > 0
        of_class = 2 * np.diagonal(table, axis1=1, axis2=2) / np.where(there, true + told, 1)
        spread = np.sqrt((n * n - (true * true).sum(axis=1)) * (n * n - (told * told).sum(axis=1)))
        return {
            "accuracy": right / n,
            "f1": of_class.sum(axis=1) / there.sum(axis=1),
            "mcc": (right * n - (true * told).sum(axis=1)) / spread,
        }


def _percentiles(values: np.ndarray) -> Interval | None:
    defined = values[np.isfinite(values)]
    if 2 * len(defined) < len(values):
        return None
    low, high = np.quantile(defined, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return float(low), float(high)

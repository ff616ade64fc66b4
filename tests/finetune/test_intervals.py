"""Intervals are those of metrics as scikit-learn has them, over resamples of groups."""

from __future__ import annotations

import numpy as np
import pytest

from dnafeat.finetune import intervals as module
from dnafeat.finetune import metrics
from dnafeat.finetune.intervals import intervals
from dnafeat.finetune.labels import Labels

RNG = np.random.default_rng(0)
CLASSES = Labels("multiclass", ("a", "b", "c"))


def made(task: str, count: int = 300) -> tuple[Labels, np.ndarray, np.ndarray | list[np.ndarray]]:
    rng = np.random.default_rng(1)
    if task == "regression":
        truth = rng.standard_normal(count).astype(np.float32)
        return Labels(task, mean=1000.0, std=3.0), (truth + rng.standard_normal(count))[:, None], truth
    if task == "multilabel":
        have = (rng.random((count, 3)) < [0.2, 0.5, 0.7]).astype(np.float32)
        return Labels(task, ("a", "b", "c")), 2 * have - 1 + rng.standard_normal((count, 3)), have
    classes = rng.integers(0, 3, count)
    logits = np.eye(3)[classes] + rng.standard_normal((count, 3))
    if task == "token":
        logits[::7] = np.nan
        return Labels(task, ("a", "b", "c")), logits, np.split(classes, [10, 60, 61, 200])
    return CLASSES, logits, classes


@pytest.mark.parametrize("task", ["multiclass", "multilabel", "regression", "token"])
def test_a_resample_has_the_metrics_of_its_rows(task: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of one resample, so that both ends of an interval are its value."""
    labels, logits, encoded = made(task)
    sequences = len(encoded)
    groups = np.arange(sequences) // (1 if task == "token" else 4)
    monkeypatch.setattr(module, "RESAMPLES", 1)
    found = intervals(labels, logits, encoded, groups, seed=3)
    count = groups.max() + 1
    drawn = np.random.default_rng(3).integers(0, count, count)
    if isinstance(encoded, list):
        ends = np.cumsum([len(part) for part in encoded])
        rows = np.concatenate([np.arange(ends[g] - len(encoded[g]), ends[g]) for g in drawn])
        wanted = metrics.compute(labels, logits[rows], [encoded[g] for g in drawn])
    else:
        rows = np.concatenate([np.flatnonzero(groups == g) for g in drawn])
        wanted = metrics.compute(labels, logits[rows], encoded[rows])
    assert set(found) < set(wanted)
    for name, bounds in found.items():
        assert bounds == pytest.approx((wanted[name], wanted[name]), abs=1e-6), name


def test_groups_and_not_rows_are_drawn() -> None:
    """Forty copies of each row say no more than the row."""
    labels, logits, encoded = made("multiclass", 40)
    assert isinstance(encoded, np.ndarray)
    alone = intervals(labels, logits, encoded, np.arange(40))["accuracy"]
    many = np.repeat(np.arange(40), 40)
    assert intervals(labels, logits[many], encoded[many], many)["accuracy"] == pytest.approx(alone)
    narrow = intervals(labels, logits[many], encoded[many], np.arange(1600))["accuracy"]
    assert alone is not None
    assert narrow is not None
    assert narrow[1] - narrow[0] < (alone[1] - alone[0]) / 4


def test_what_is_not_defined_is_none() -> None:
    labels, logits, encoded = made("multiclass")
    assert set(intervals(labels, logits, encoded, np.zeros(300, np.int64)).values()) == {None}
    assert intervals(labels, np.tile([1.0, 0, 0], (300, 1)), encoded, np.arange(300))["mcc"] is None
    logits[0, 0] = np.inf
    assert set(intervals(labels, logits, encoded, np.arange(300)).values()) == {None}

"""Metrics of predictions for each task of fine-tuning, by scikit-learn and scipy. They need logits and targets alone.

What is not defined (one class in the split, constant predictions, logits that are not finite) is None: never NaN, never a warning.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
from scipy.stats import pearsonr, spearmanr
from sklearn.metrics import (
    average_precision_score,
    matthews_corrcoef,
    precision_recall_fscore_support,
    r2_score,
    roc_auc_score,
    root_mean_squared_error,
)

from dnafeat.finetune.labels import Labels, flatten
from dnafeat.finetune.tasks import LOWER_IS_BETTER, METRICS
from dnafeat.text import aligned

_SHARES = {name for names in METRICS.values() for name in names} - {"rmse"}


def compute(labels: Labels, logits: np.ndarray, encoded: np.ndarray | Sequence[np.ndarray]) -> dict[str, float | None]:
    """The task's `METRICS`.

    Classes: accuracy, macro F1, precision and recall over the classes that truth or prediction has, 0 for a class never predicted
    (as DNABERT-2's training script), MCC, AUROC and average precision: of the second class if binary, else the mean over the classes
    that the split has, one against the rest. multilabel: the share of rows with every label right, F1 as mean over labels and over
    all decisions, and means of MCC, AUROC and average precision over the labels that some rows of the split have and others not;
    a label predicted for all rows or none has MCC 0 in that mean. regression: on the original scale.

    Parameters
    ----------
    logits : np.ndarray, shape=(n, width)
        For token a row for each base, sequence after sequence; rows with NaN are left out.
    encoded : what `Labels.encode` returned
    """
    logits, truth = _scored(labels, logits, encoded)
    if not len(truth) or not np.isfinite(logits).all():
        return dict.fromkeys(METRICS[labels.task])
    if labels.task == "regression":
        return _regression(truth * labels.std + labels.mean, labels.choices(logits))
    if labels.task == "multilabel":
        return _multilabel(truth, labels.choices(logits), logits)
    return _classes(labels, truth, logits)


def confusion(labels: Labels, logits: np.ndarray, encoded: np.ndarray | Sequence[np.ndarray]) -> np.ndarray:
    """Counts, (k, k) int64, a row for each true class and a column for each predicted one; parameters as for `compute`.

    Rows with NaN are not counted. Raises ValueError for multilabel and regression.
    """
    if "precision" not in METRICS[labels.task]:
        raise ValueError(f"task {labels.task} has no confusion matrix")
    logits, truth = _scored(labels, logits, encoded)
    chosen, k = labels.choices(logits), labels.width
    return np.bincount((truth * k + chosen)[chosen >= 0], minlength=k * k).reshape(k, k)


def better(metric: str, a: float | None, b: float | None) -> bool:
    """Return whether `a` is better than `b`, an equal one not; None and NaN are worse than any number."""
    if a is None or math.isnan(a):
        return False
    if b is None or math.isnan(b):
        return True
    return a < b if metric in LOWER_IS_BETTER else a > b


def format_table(splits: Mapping[str, Mapping[str, float | None]]) -> str:
    """A row for each split and a column for each metric that any has, aligned; shares and correlations in percent, None as `-`."""
    metrics = list(dict.fromkeys(name for values in splits.values() for name in values))
    rows = [["", *metrics], *([split, *(cell(name, values.get(name)) for name in metrics)] for split, values in splits.items())]
    return aligned(rows, right=range(1, len(rows[0])))


def cell(metric: str, value: float | None) -> str:
    """Format a value of a metric: shares and correlations in percent, None as `-`."""
    if value is None:
        return "-"
    if metric in _SHARES:
        return f"{100 * value:.1f} %"
    return f"{value:.4g}" if abs(value) < 10_000 else f"{value:,.0f}"


def _scored(labels: Labels, logits: np.ndarray, encoded: np.ndarray | Sequence[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """Logits and targets of what counts, in float64 where they are not classes."""
    truth, wide = flatten(encoded), np.asarray(logits, np.float64)
    if wide.shape != (len(truth), labels.width):
        raise ValueError(f"logits of shape {wide.shape} for {len(truth)} targets and {labels.width} outputs")
    if labels.task == "regression":
        return wide, truth.astype(np.float64)
    if labels.task == "multilabel":
        return wide, truth.astype(np.int64)
    if labels.task == "token":
        covered = ~np.isnan(wide).any(axis=1)
        return wide[covered], truth[covered]
    return wide, truth


def _classes(labels: Labels, truth: np.ndarray, logits: np.ndarray) -> dict[str, float | None]:
    chosen = labels.choices(logits)
    precision, recall, f1, _ = precision_recall_fscore_support(truth, chosen, average="macro", zero_division=0)
    kinds = [1] if labels.task == "binary" else list(range(labels.width))
    there = np.stack([truth == kind for kind in kinds], axis=1)
    return {
        "accuracy": float(np.mean(chosen == truth)),
        "f1": float(f1),
        "mcc": float(matthews_corrcoef(truth, chosen)) if _varies(truth) and _varies(chosen) else None,
        "precision": float(precision),
        "recall": float(recall),
        **_rankings(there, _against_the_rest(logits)[:, kinds]),
    }


def _against_the_rest(logits: np.ndarray) -> np.ndarray:
    """Log-odds of each class against all others, (n, k): ranked as probabilities, but without the ties that those have near 0 and 1."""
    none = np.full((len(logits), 1), -np.inf)
    before = np.hstack([none, np.logaddexp.accumulate(logits[:, :-1], axis=1)])
    behind = np.hstack([np.logaddexp.accumulate(logits[:, :0:-1], axis=1)[:, ::-1], none])
    return logits - np.logaddexp(before, behind)


def _multilabel(truth: np.ndarray, chosen: np.ndarray, logits: np.ndarray) -> dict[str, float | None]:
    right, either = (truth & chosen).sum(axis=0), truth.sum(axis=0) + chosen.sum(axis=0)
    both = np.flatnonzero(truth.min(axis=0) < truth.max(axis=0))
    mccs = [float(matthews_corrcoef(truth[:, i], chosen[:, i])) if _varies(chosen[:, i]) else None for i in both]
    return {
        "accuracy": float((truth == chosen).all(axis=1).mean()),
        "f1": float(np.mean(2 * right / np.maximum(either, 1))),
        "f1_micro": float(2 * right.sum() / max(either.sum(), 1)),
        "mcc": float(np.mean([mcc or 0.0 for mcc in mccs])) if any(mcc is not None for mcc in mccs) else None,
        **_rankings(truth, logits),
    }


def _regression(truth: np.ndarray, predicted: np.ndarray) -> dict[str, float | None]:
    both = _varies(truth) and _varies(predicted)
    return {
        "pearson": float(pearsonr(truth, predicted).statistic) if both else None,
        "spearman": float(spearmanr(truth, predicted).statistic) if both else None,
        "r2": float(r2_score(truth, predicted)) if _varies(truth) else None,
        "rmse": float(root_mean_squared_error(truth, predicted)),
    }


def _rankings(truth: np.ndarray, scores: np.ndarray) -> dict[str, float | None]:
    """Mean AUROC and average precision over columns of truth (n, k) with both values; None if there are none."""
    columns = [i for i in range(truth.shape[1]) if truth[:, i].min() < truth[:, i].max()]
    if not columns:
        return {"auroc": None, "auprc": None}
    return {
        "auroc": float(np.mean([roc_auc_score(truth[:, i], scores[:, i]) for i in columns])),
        "auprc": float(np.mean([average_precision_score(truth[:, i], scores[:, i]) for i in columns])),
    }


def _varies(values: np.ndarray) -> bool:
    """Return whether values differ by more than rounding, so that a correlation means something."""
    return bool(np.ptp(values) > 1e-12 * np.abs(values).max())

"""Names of the tasks of fine-tuning and of the metrics of each. Apart, because a command line should not need scikit-learn."""

from __future__ import annotations

from typing import Literal, get_args

Task = Literal["binary", "multiclass", "multilabel", "regression", "token"]
TASKS: tuple[str, ...] = get_args(Task)
Metric = Literal[
    "accuracy",
    "auprc",
    "auroc",
    "f1",
    "f1_micro",
    "loss",
    "mcc",
    "pearson",
    "precision",
    "r2",
    "recall",
    "rmse",
    "spearman",
]
_CLASSES = ("accuracy", "f1", "mcc", "precision", "recall", "auroc", "auprc")
METRICS = {
    "binary": _CLASSES,
    "multiclass": _CLASSES,
    "multilabel": ("accuracy", "f1", "f1_micro", "mcc", "auroc", "auprc"),
    "regression": ("pearson", "spearman", "r2", "rmse"),
    "token": _CLASSES,
}
LOWER_IS_BETTER = ("loss", "rmse")

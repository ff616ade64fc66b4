"""Names of the tasks of fine-tuning and of the metrics each has. Apart, because a command line should not need scikit-learn."""

from __future__ import annotations

TASKS = ("binary", "multiclass", "multilabel", "regression", "token")
_CLASSES = ("accuracy", "f1", "mcc", "precision", "recall", "auroc", "auprc")
METRICS = {
    "binary": _CLASSES,
    "multiclass": _CLASSES,
    "multilabel": ("accuracy", "f1", "f1_micro", "mcc", "auroc", "auprc"),
    "regression": ("pearson", "spearman", "r2", "rmse"),
    "token": _CLASSES,
}
LOWER_IS_BETTER = ("loss", "rmse")

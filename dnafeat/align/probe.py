"""What a linear model reads out of vectors of subjects: a phenotype, by either modality and by both. NumPy and scikit-learn alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.metrics import log_loss, r2_score, roc_auc_score
from sklearn.model_selection import GroupKFold, StratifiedGroupKFold
from sklearn.preprocessing import StandardScaler

from dnafeat.align.measures import Estimate, correlation, estimate

_ALPHAS = tuple(10.0**power for power in range(-1, 7))
_PENALTIES = (1e-4, 1e-3, 1e-2, 1e-1)
_FOLDS = 3


def probe(
    blocks: Sequence[tuple[np.ndarray, np.ndarray]],
    target: tuple[np.ndarray, np.ndarray],
    groups: tuple[np.ndarray, np.ndarray],
    draws: Sequence[np.ndarray],
) -> Mapping[str, Estimate]:
    """How well a linear model on some blocks of vectors, end to end, tells a phenotype.

    Numbers by ridge regression: R² and Pearson's r. Texts by logistic regression: area under the ROC curve, of several classes the mean
    of one against the rest, and accuracy. The penalty is that which loses least in three folds of the training subjects, families
    whole. Each column of each block is z-scored on the training subjects.

    Parameters
    ----------
    blocks : sequence of (np.ndarray, np.ndarray)
        Training and test rows of each: (n, width), (m, width).
    target : (np.ndarray, np.ndarray)
        Of float64 or of str.
    groups : (np.ndarray, np.ndarray)
        Families of both.
    draws : sequence of np.ndarray
        Tested rows of each resample.
    """
    train, test = (np.hstack([np.asarray(block[i], np.float64) for block in blocks]) for i in (0, 1))
    scaler = StandardScaler().fit(train)
    train, test = scaler.transform(train), scaler.transform(test)
    if target[0].dtype.kind == "f":
        told = _ridge(train, target[0], groups[0]).predict(test)
        scores = {"r2": _r2, "pearson": correlation}
        return {
            name: estimate(score(target[1], told), [score(target[1][rows], told[rows]) for rows in draws])
            for name, score in scores.items()
        }
    fitted = _logistic(train, target[0], groups[0])
    chances = fitted.predict_proba(test)
    classes = fitted.classes_

    def auroc(rows: np.ndarray) -> float:
        return _auroc(target[1][rows], chances[rows], classes)

    def accuracy(rows: np.ndarray) -> float:
        return float(np.mean(classes[chances[rows].argmax(axis=1)] == target[1][rows]))

    everybody = np.arange(len(test))
    return {
        name: estimate(score(everybody), [score(rows) for rows in draws])
        for name, score in {"auroc": auroc, "accuracy": accuracy}.items()
    }


def _r2(truth: np.ndarray, told: np.ndarray) -> float:
    return float(r2_score(truth, told)) if len(truth) > 1 and np.ptp(truth) > 0 else np.nan


def _auroc(truth: np.ndarray, chances: np.ndarray, classes: np.ndarray) -> float:
    there = [i for i, one in enumerate(classes) if 0 < np.sum(truth == one) < len(truth)]
    if len(classes) == 2:
        there = [i for i in there if i == 1]
    return float(np.mean([roc_auc_score(truth == classes[i], chances[:, i]) for i in there])) if there else np.nan


def _ridge(train: np.ndarray, target: np.ndarray, groups: np.ndarray) -> Ridge:
    """With the penalty that loses least in folds; as many as there are columns where families are too few for folds."""
    chosen = float(train.shape[1])
    if len(np.unique(groups)) >= _FOLDS:
        folds = list(GroupKFold(_FOLDS, shuffle=True, random_state=0).split(train, target, groups))
        lost = [
            sum(
                float(np.sum((Ridge(one).fit(train[fit], target[fit]).predict(train[out]) - target[out]) ** 2))
                for fit, out in folds
            )
            for one in _ALPHAS
        ]
        chosen = _ALPHAS[int(np.argmin(lost))]
    return Ridge(chosen).fit(train, target)


def _logistic(train: np.ndarray, target: np.ndarray, groups: np.ndarray) -> LogisticRegression:
    """With the penalty that loses least in folds; a hundredth where classes are too rare for folds."""

    def made(penalty: float) -> LogisticRegression:
        return LogisticRegression(C=penalty, tol=1e-3, max_iter=2000)

    chosen, classes = 1e-2, np.unique(target)
    if min(len(np.unique(groups[target == one])) for one in classes) >= _FOLDS:
        folds = list(StratifiedGroupKFold(_FOLDS).split(train, target, groups))
        if all(len(np.unique(target[fit])) == len(classes) for fit, _ in folds):
            lost = [
                sum(
                    log_loss(target[out], made(one).fit(train[fit], target[fit]).predict_proba(train[out]), labels=classes)
                    for fit, out in folds
                )
                for one in _PENALTIES
            ]
            chosen = _PENALTIES[int(np.argmin(lost))]
    return made(chosen).fit(train, target)

"""Linear and logistic regression, solved to the end, with the penalty that does best on dev: the probe, and every baseline.

scikit-learn solves them: few dense features by Newton steps, others by L-BFGS, and numbers in closed form. Features are brought to one
scale on the training rows, and the scale is folded into the weights, so that what comes out is a plain linear layer on the features as
they were.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from scipy.linalg import LinAlgWarning
from scipy.sparse import csr_matrix, issparse
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.preprocessing import StandardScaler

from dnafeat.finetune.labels import Labels

# Inverse penalties that are tried, the strongest penalty first.
PENALTIES = (1e-4, 1e-3, 1e-2, 1e-1, 1.0, 10.0)
# Penalties in a row that dev finds worse than the best before.
_WORSE = 2
_ITERATIONS = 2000
# Weights of a regression up to which Newton steps are taken. Each solves as many linear equations: a handful of steps for which L-BFGS,
# on the correlated features of an encoder, needs hundreds of iterations.
_NEWTON_WEIGHTS = 2500
_ABSENT = -20.0  # how far below the others the logit of a class without training rows is
Features: TypeAlias = np.ndarray | csr_matrix


@dataclass(frozen=True)
class Solution:
    """A linear layer on features as they were given.

    Attributes
    ----------
    weight : np.ndarray, shape=(width, features), float64
    bias : np.ndarray, shape=(width,), float64
    penalty : float
        The inverse penalty that dev chose.
    iterations : int
        Of L-BFGS or Newton's method, the most of any label; 1 in closed form.
    converged : bool
    tried : list of (float, float)
        Inverse penalties and dev's value for each, in order.
    """

    weight: np.ndarray
    bias: np.ndarray
    penalty: float
    iterations: int
    converged: bool
    tried: list[tuple[float, float]]

    def logits(self, features: Features) -> np.ndarray:
        """Logits of features (n, features) as the head of a network has them, (n, width) float64."""
        return np.asarray(features @ self.weight.T) + self.bias


def solve(
    labels: Labels,
    features: Features,
    targets: np.ndarray,
    value: Callable[[Solution], float | None],
    *,
    weights: np.ndarray | None = None,
    larger_is_better: bool = False,
) -> Solution:
    """Solve the regression of a task for each penalty, and return the solution that does best on dev.

    Parameters
    ----------
    features : np.ndarray or csr_matrix, shape=(n, features)
        z-scored where dense; sparse ones are divided by their standard deviation alone.
    targets : np.ndarray
        Of the training rows, as `Labels.encode` gives them for any task but token, and classes of tokens for that one.
    value : function
        Measures a solution on dev; None where that is not defined.
    weights : np.ndarray, shape=(n,) or (n, width), optional
        Of rows, for multilabel of rows and labels.
    """
    scaler = StandardScaler(with_mean=not issparse(features)).fit(features)
    scaled = scaler.transform(features)
    if _by_newton(labels, scaled):
        # In float32 the last steps, which are the precise ones, would be lost in rounding.
        scaled = scaled.astype(np.float64)
    best: Solution | None = None
    best_value, worse = -np.inf, 0
    tried: list[tuple[float, float]] = []
    for penalty in PENALTIES:
        weight, bias, iterations = _fit(labels, scaled, targets, penalty, weights)
        weight = weight / scaler.scale_
        if scaler.with_mean:
            bias = bias - weight @ scaler.mean_
        solution = Solution(weight, bias, penalty, iterations, iterations < _ITERATIONS, tried)
        measured = value(solution)
        worth = -np.inf if measured is None or not np.isfinite(measured) else measured if larger_is_better else -measured
        tried.append((penalty, np.nan if measured is None else measured))
        if best is None or worth > best_value:
            best, best_value, worse = solution, worth, 0
        else:
            # A plateau is none: under a strong penalty all rows get one class.
            worse += worth < best_value
        if worse == _WORSE:
            break
    assert best is not None
    return best


def _fit(
    labels: Labels, features: Features, targets: np.ndarray, penalty: float, weights: np.ndarray | None
) -> tuple[np.ndarray, np.ndarray, int]:
    """Weights (width, features), biases (width,) and iterations of one penalty."""
    if labels.task == "regression":
        ridge = Ridge(alpha=1 / penalty, solver="auto").fit(features, targets.astype(np.float64), sample_weight=weights)
        return ridge.coef_.reshape(1, -1), np.atleast_1d(ridge.intercept_), 1
    newton = _by_newton(labels, features)
    if labels.task == "multilabel":
        parts = [
            _logistic(features, column, penalty, None if weights is None else weights[:, i], newton)
            for i, column in enumerate(targets.astype(np.int64).T)
        ]
        return np.stack([w[0] for w, _, _ in parts]), np.array([b[0] for _, b, _ in parts]), max(n for _, _, n in parts)
    weight, bias, iterations = _logistic(features, targets, penalty, weights, newton)
    there = np.unique(targets)
    if len(weight) == 1 and len(there) == 2:
        # Two logits whose difference is the one of a binary regression.
        weight, bias = np.concatenate([-weight, weight]) / 2, np.concatenate([-bias, bias]) / 2
    whole = np.zeros((labels.width, features.shape[1]))
    biases = np.full(labels.width, bias.min() + _ABSENT)
    whole[there], biases[there] = weight, bias
    return whole, biases, iterations


def _by_newton(labels: Labels, features: Features) -> bool:
    """Whether the regressions of a task are small enough for Newton's method."""
    if labels.task == "regression" or issparse(features):
        return False
    # Each label of multilabel, and two classes, have one row of weights.
    rows = 1 if labels.task == "multilabel" or labels.width <= 2 else labels.width
    return rows * features.shape[1] <= _NEWTON_WEIGHTS


def _logistic(
    features: Features, classes: np.ndarray, penalty: float, weights: np.ndarray | None, newton: bool
) -> tuple[np.ndarray, np.ndarray, int]:
    """Coefficients as scikit-learn has them: one row for two classes. One class alone gets its smoothed log-odds."""
    if len(np.unique(classes)) < 2:
        odds = np.log((classes.sum() + 1) / (len(classes) - classes.sum() + 1))
        return np.zeros((1, features.shape[1])), np.array([odds]), 0
    # Newton's steps double the digits that are right: the closer end costs one of them.
    how = {"solver": "newton-cholesky", "tol": 1e-6} if newton else {"solver": "lbfgs", "tol": 1e-4}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # `converged` says it
        warnings.simplefilter("ignore", LinAlgWarning)  # scikit-learn then goes on by L-BFGS
        model = LogisticRegression(C=penalty, max_iter=_ITERATIONS, **how).fit(features, classes, sample_weight=weights)
    return model.coef_, model.intercept_, int(model.n_iter_.max())

"""Metrics: by hand, by definition and by scikit-learn used in another way; what is undefined is None and never warns."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn import metrics as sk

from dnafeat.finetune.labels import Labels
from dnafeat.finetune.metrics import METRICS, better, compute, confusion, format_table

pytestmark = pytest.mark.filterwarnings("error")
BINARY = Labels("binary", ("no", "yes"))
THREE = Labels("multiclass", ("a", "b", "c"))
MANY = Labels("multilabel", ("a", "b", "c"))
REGRESSION = Labels("regression", (), 10.0, 4.0)
TOKEN = Labels("token", ("exon", "intron", "none"))


def area(truth: np.ndarray, score: np.ndarray) -> float:
    """AUROC by its definition: the share of pairs in the right order, equal ones half."""
    pairs = [(a > b) + 0.5 * (a == b) for a in score[truth] for b in score[~truth]]
    return float(np.mean(pairs))


def precision_at_hits(truth: np.ndarray, score: np.ndarray) -> float:
    """Average precision by its definition, for scores without ties: mean over the hits of the precision down to each."""
    hits = truth[np.argsort(-score)]
    return float(np.mean((np.cumsum(hits) / np.arange(1, len(hits) + 1))[hits]))


# By hand


def test_binary_by_hand() -> None:
    # Truth against chosen: 3 of class 0 found, 1 not; 2 of class 1 found, 2 not.
    truth = np.array([0, 0, 0, 0, 1, 1, 1, 1])
    scores = np.array([-4.0, -3, -2, 3, 4, 1, -1, -5])
    found = compute(BINARY, np.stack([-scores, scores], axis=1).astype(np.float32), truth)
    assert found == pytest.approx(
        {
            "accuracy": 5 / 8,
            "f1": (6 / 9 + 4 / 7) / 2,
            "mcc": (3 * 2 - 2 * 1) / math.sqrt(5 * 3 * 4 * 4),
            "precision": (3 / 5 + 2 / 3) / 2,
            "recall": (3 / 4 + 2 / 4) / 2,
            "auroc": (4 + 3 + 3 + 0) / 16,
            "auprc": (1 + 2 / 3 + 3 / 4 + 4 / 8) / 4,
        }
    )
    assert tuple(found) == METRICS["binary"]


def test_multilabel_by_hand() -> None:
    truth = np.array([[1, 0, 0], [0, 1, 0], [1, 1, 0], [0, 0, 0]], np.float32)
    chosen = np.array([[1, 0, 0], [1, 1, 0], [1, 0, 0], [0, 0, 1]])
    found = compute(MANY, 2 * chosen - 1.0, truth)
    assert tuple(found) == METRICS["multilabel"]
    assert found == pytest.approx(
        {
            "accuracy": 1 / 4,
            "f1": (4 / 5 + 2 / 3 + 0) / 3,
            "f1_micro": 2 * 3 / (2 * 3 + 2 + 1),
            # The third label, which no row has, is left out.
            "mcc": (2 / math.sqrt(12) + 2 / math.sqrt(12)) / 2,
            "auroc": (3 / 4 + 3 / 4) / 2,
            "auprc": (2 / 3 + (1 / 2 * 1 + 1 / 2 * 2 / 4)) / 2,
        }
    )


def test_regression_by_hand_on_the_original_scale() -> None:
    # On the original scale truth is 2, 6, 10, 14 and predicted 6, 2, 10, 18: differences 4, -4, 0, 4.
    truth = np.array([-2, -1, 0, 1], np.float32)
    found = compute(REGRESSION, np.array([[-1], [-2], [0], [2]], np.float32), truth)
    assert tuple(found) == METRICS["regression"]
    assert found == pytest.approx(
        {"pearson": 88 / math.sqrt(80 * 140), "spearman": 1 - 6 * 2 / (4 * 15), "r2": 1 - 48 / 80, "rmse": math.sqrt(12)}
    )


# Against definitions and scikit-learn


@given(st.integers(0, 10_000), st.integers(2, 5), st.integers(2, 40))
def test_classes_are_as_defined(seed: int, k: int, n: int) -> None:
    rng = np.random.default_rng(seed)
    labels = Labels("multiclass", tuple("abcde"[:k]))
    truth, logits = rng.integers(0, k, n), rng.normal(size=(n, k)).astype(np.float32)
    found = compute(labels, logits, truth)
    chosen = logits.argmax(1)
    report = sk.classification_report(truth, chosen, output_dict=True, zero_division=0)
    assert found["accuracy"] == pytest.approx(np.trace(confusion(labels, logits, truth)) / n)
    for name, other in (("f1", "f1-score"), ("precision", "precision"), ("recall", "recall")):
        assert found[name] == pytest.approx(report["macro avg"][other])
    if len(set(truth)) > 1 and len(set(chosen)) > 1:
        # MCC is the correlation of both one-hot matrices (Gorodkin 2004).
        x, y = (np.eye(k)[one] - np.eye(k)[one].mean(0) for one in (truth, chosen))
        assert found["mcc"] == pytest.approx((x * y).sum() / math.sqrt((x * x).sum() * (y * y).sum()))
    wide = np.exp(logits.astype(np.float64))
    probabilities = wide / wide.sum(1, keepdims=True)
    there = [i for i in range(k) if 0 < (truth == i).sum() < n]
    if there:
        assert found["auroc"] == pytest.approx(np.mean([area(truth == i, probabilities[:, i]) for i in there]))
        assert found["auprc"] == pytest.approx(np.mean([precision_at_hits(truth == i, probabilities[:, i]) for i in there]))
    if len(there) == k > 2:
        assert found["auroc"] == pytest.approx(sk.roc_auc_score(truth, probabilities, multi_class="ovr"))


@given(st.integers(0, 10_000), st.integers(2, 30))
def test_binary_curves_are_those_of_the_second_class(seed: int, n: int) -> None:
    rng = np.random.default_rng(seed)
    logits = rng.normal(size=(n, 2))
    truth = np.array([0, 1, *rng.integers(0, 2, n - 2)])
    found = compute(BINARY, logits, truth)
    score = logits[:, 1] - logits[:, 0]
    assert found["auroc"] == pytest.approx(area(truth == 1, score))
    assert found["auprc"] == pytest.approx(precision_at_hits(truth == 1, score))


@given(st.integers(0, 10_000), st.integers(1, 4), st.integers(1, 20))
def test_multilabel_is_as_scikit_learn_has_it(seed: int, width: int, n: int) -> None:
    rng = np.random.default_rng(seed)
    labels = Labels("multilabel", tuple("abcd"[:width]))
    truth, logits = rng.integers(0, 2, (n, width)).astype(np.float32), rng.normal(size=(n, width))
    found = compute(labels, logits, truth)
    chosen = logits >= 0
    columns = [(truth[:, i].astype(int), chosen[:, i].astype(int), logits[:, i]) for i in range(width)]
    assert found["accuracy"] == pytest.approx(np.mean([(a == b).all() for a, b in zip(truth, chosen, strict=True)]))
    assert found["f1"] == pytest.approx(np.mean([sk.f1_score(a, b, zero_division=0) for a, b, _ in columns]))
    assert found["f1_micro"] == pytest.approx(sk.f1_score(truth.ravel().astype(int), chosen.ravel(), zero_division=0))
    both = [(a, b, c) for a, b, c in columns if 0 < a.sum() < n]
    if any(0 < b.sum() < n for _, b, _ in both):
        assert found["mcc"] == pytest.approx(np.mean([sk.matthews_corrcoef(a, b) for a, b, _ in both]))
    else:
        assert found["mcc"] is None
    if both:
        assert found["auroc"] == pytest.approx(np.mean([area(a == 1, c) for a, _, c in both]))
        assert found["auprc"] == pytest.approx(np.mean([precision_at_hits(a == 1, c) for a, _, c in both]))
    else:
        assert (found["auroc"], found["auprc"]) == (None, None)


@given(st.integers(0, 10_000), st.integers(3, 30), st.floats(-1e6, 1e6), st.floats(1e-3, 1e6))
def test_regression_does_not_depend_on_the_scale_but_for_rmse(seed: int, n: int, mean: float, std: float) -> None:
    rng = np.random.default_rng(seed)
    truth, logits = rng.normal(size=n).astype(np.float32), rng.normal(size=(n, 1)).astype(np.float32)
    found, plain = (compute(Labels("regression", (), *scale), logits, truth) for scale in ((mean, std), (0.0, 1.0)))
    x, y = truth.astype(np.float64), logits[:, 0].astype(np.float64)
    ranks_x, ranks_y = (np.argsort(np.argsort(values)) for values in (x, y))
    expected = {
        "pearson": np.corrcoef(x, y)[0, 1],
        "spearman": np.corrcoef(ranks_x, ranks_y)[0, 1],
        "r2": 1 - ((x - y) ** 2).sum() / (n * x.var()),
    }
    for name, value in expected.items():
        assert plain[name] == pytest.approx(value, rel=1e-6, abs=1e-9)
        assert found[name] == pytest.approx(value, rel=1e-4, abs=1e-5)
    assert found["rmse"] == pytest.approx(std * math.sqrt(((x - y) ** 2).mean()), rel=1e-4)


def test_token_counts_bases_of_all_sequences_and_leaves_out_the_uncovered() -> None:
    rng = np.random.default_rng(0)
    encoded = [rng.integers(0, 3, n) for n in (5, 1, 9)]
    logits = rng.normal(size=(15, 3))
    gone = [0, 5, 9]
    kept = np.delete(np.arange(15), gone)
    holes = logits.copy()
    holes[gone] = np.nan
    flat = np.concatenate(encoded)
    expected = compute(Labels("multiclass", TOKEN.names), logits[kept], flat[kept])
    assert compute(TOKEN, holes, encoded) == expected
    assert compute(TOKEN, holes, flat) == expected
    assert np.array_equal(
        confusion(TOKEN, holes, encoded), sk.confusion_matrix(flat[kept], logits[kept].argmax(1), labels=[0, 1, 2])
    )


def test_confusion_has_truth_in_rows_and_classes_that_are_not_there_too() -> None:
    logits = np.eye(3)[[0, 1, 1, 0]]
    found = confusion(THREE, logits, np.array([0, 0, 1, 1]))
    assert found.dtype == np.int64
    assert found.tolist() == [[1, 1, 0], [1, 1, 0], [0, 0, 0]]


def test_confusion_does_not_count_what_is_not_predicted() -> None:
    assert confusion(BINARY, np.array([[np.nan, 1], [0, 1]]), np.array([1, 0])).tolist() == [[0, 1], [0, 0]]


@pytest.mark.parametrize("labels", [MANY, REGRESSION])
def test_confusion_is_for_classes(labels: Labels) -> None:
    with pytest.raises(ValueError, match="has no confusion matrix"):
        confusion(labels, np.zeros((2, labels.width)), np.zeros(2))


@pytest.mark.parametrize("shape", [(3, 2), (2, 3), (2,), (1, 2)])
def test_logits_of_another_shape_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="logits of shape"):
        compute(BINARY, np.zeros(shape), np.zeros(2, np.int64))


# Undefined


def test_one_class_in_the_split_leaves_what_is_defined() -> None:
    found = compute(BINARY, np.array([[0, 1], [1, 0], [0, 1]]), np.array([1, 1, 1]))
    assert [name for name, value in found.items() if value is None] == ["mcc", "auroc", "auprc"]
    assert found["accuracy"] == pytest.approx(2 / 3)
    assert found["f1"] == pytest.approx((0.8 + 0) / 2)


def test_constant_predictions_have_no_mcc() -> None:
    found = compute(THREE, np.array([[0.1, 0, 0], [0.2, 0, 0], [0.3, 0, 0]]), np.array([0, 1, 2]))
    assert [name for name, value in found.items() if value is None] == ["mcc"]
    assert found["precision"] == pytest.approx(1 / 9)


def test_a_class_missing_from_the_split_is_left_out_of_the_curves() -> None:
    found = compute(THREE, np.array([[2, 0, 0], [0, 2, 0], [1, 0, 0]]), np.array([0, 1, 1]))
    assert found["auroc"] == pytest.approx((1 + 1) / 2)


def test_constant_labels_count_as_nothing_known_but_not_alone() -> None:
    truth = np.array([[1, 1, 0], [0, 0, 0]], np.float32)
    logits = np.array([[1, 1, 1], [-1, 1, 1]])
    assert compute(MANY, logits, truth)["mcc"] == pytest.approx((1 + 0) / 2)
    constant = compute(MANY, np.ones((2, 3)), truth)
    assert constant["mcc"] is None
    assert constant["auroc"] == pytest.approx(0.5)


@pytest.mark.parametrize(
    ("truth", "logits", "undefined"),
    [
        ([1, 1, 1], [1, 2, 3], ["pearson", "spearman", "r2"]),
        ([1, 2, 3], [0.1, 0.1, 0.1], ["pearson", "spearman"]),
        ([1, 2, 3], [1, 1 + 1e-15, 1 - 1e-15], ["pearson", "spearman"]),
        ([1], [2], ["pearson", "spearman", "r2"]),
        ([1, 2], [2, 3], []),
        ([0, 0], [0, 0], ["pearson", "spearman", "r2"]),
    ],
)
def test_correlations_need_values_that_differ(truth: list[float], logits: list[float], undefined: list[str]) -> None:
    for labels in (REGRESSION, Labels("regression", (), 0.0, 1.0)):
        found = compute(labels, np.array(logits)[:, None], np.array(truth, np.float32))
        assert [name for name, value in found.items() if value is None] == undefined


@pytest.mark.parametrize("labels", [BINARY, THREE, MANY, REGRESSION, TOKEN], ids=lambda labels: labels.task)
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_logits_that_are_not_finite_and_no_rows_leave_nothing(labels: Labels, bad: float) -> None:
    nothing = dict.fromkeys(METRICS[labels.task])
    shape = (2, labels.width) if labels.task == "multilabel" else (2,)
    truth = np.zeros(shape, np.float32 if labels.task in ("multilabel", "regression") else np.int64)
    logits = np.full((2, labels.width), bad, np.float32)
    assert compute(labels, logits, truth) == nothing
    assert compute(labels, logits[:0], truth[:0]) == nothing
    logits[1] = 0
    if not (labels.task == "token" and np.isnan(bad)):
        assert compute(labels, logits, truth) == nothing


@given(st.sampled_from([BINARY, THREE, MANY, REGRESSION, TOKEN]), st.integers(1, 4), st.data())
def test_metrics_of_anything_finite_are_none_or_finite(labels: Labels, n: int, data: st.DataObject) -> None:
    values = st.sampled_from([-1e30, -40.0, 0.0, 1e-30, 0.1, 40.0, 1e30])
    logits = np.array(data.draw(st.lists(values, min_size=n * labels.width, max_size=n * labels.width)), np.float32).reshape(
        n, -1
    )
    size = n * labels.width if labels.task == "multilabel" else n
    classes = np.array(data.draw(st.lists(st.integers(0, labels.width - 1), min_size=size, max_size=size)))
    truth = (classes > 0).astype(np.float32).reshape(n, -1) if labels.task == "multilabel" else classes
    found = compute(labels, logits, truth)
    assert tuple(found) == METRICS[labels.task]
    for value in found.values():
        assert value is None or (type(value) is float and math.isfinite(value))


# Comparing and showing


@pytest.mark.parametrize("metric", sorted({name for names in METRICS.values() for name in names} | {"loss"}))
def test_better_knows_the_direction(metric: str) -> None:
    low, high = (0.2, 0.1) if metric in ("rmse", "loss") else (0.1, 0.2)
    order: list[float | None] = [None, low, high]
    for (i, a), (j, b) in itertools.product(enumerate(order), repeat=2):
        assert better(metric, a, b) == (i > j)
    assert better(metric, low, math.nan)
    assert not better(metric, math.nan, None)


def test_the_table_is_aligned() -> None:
    splits: dict[str, dict[str, float | None]] = {
        "dev": {"loss": 0.51237, "accuracy": 0.9, "mcc": -0.0312},
        "test": {"loss": 12345.6, "accuracy": 1.0, "mcc": None, "rmse": 0.000123456},
    }
    assert format_table(splits).split("\n") == [
        "        loss  accuracy     mcc       rmse",
        "dev   0.5124    90.0 %  -3.1 %          -",
        "test  12,346   100.0 %       -  0.0001235",
    ]


@pytest.mark.parametrize("width", [2, 3])
def test_confident_logits_are_ranked_where_their_probabilities_are_all_one(width: int) -> None:
    """exp(-40) is lost beside 1, and a network in float32 is that sure soon."""
    margins = np.array([40.0, 45, 50, 55, 60, 65])
    truth = np.array([0, 0, 0, 1, 1, 1])
    logits = np.zeros((6, width))
    logits[:, 1] = margins
    labels = Labels("binary" if width == 2 else "multiclass", ("a", "b", "c")[:width])
    found = compute(labels, logits, truth)
    assert (found["auroc"], found["auprc"]) == (1.0, 1.0)
    # Down at the other end, too.
    assert compute(labels, logits - 2 * margins[:, None] * np.eye(width)[1], truth[::-1])["auroc"] == 1.0

"""Baselines are solved, see what they say they see, and use no more than the training rows."""

from __future__ import annotations

import itertools
import random

import numpy as np
import pytest
from scipy.sparse import csr_matrix
from scipy.special import expit, softmax

from dnafeat.finetune import baselines, regression
from dnafeat.finetune.labels import Labels
from dnafeat.finetune.regression import Solution, solve
from dnafeat.finetune.splits import Split


def letters(count: int, bases: int = 40, seed: int = 0) -> list[str]:
    rng = random.Random(seed)
    return ["".join(rng.choices("ACGT", k=bases)) for _ in range(count)]


def split(name: str, sequences: list[str]) -> Split:
    count = len(sequences)
    return Split(name, sequences, ["x"] * count, [str(i) for i in range(count)], [name] * count, list(range(count)))


def measured(labels: Labels, target: baselines.Callable, sizes: tuple[int, ...] = (300, 80, 80)) -> dict:
    splits = {
        name: split(name, letters(size, seed=i))
        for i, (name, size) in enumerate(zip(("train", "dev", "test"), sizes, strict=True))
    }
    targets = {name: target(part.sequences) for name, part in splits.items()}
    groups = {name: np.arange(len(part)) for name, part in splits.items()}
    return baselines.measure(labels, splits, targets, groups, seed=0)


def test_each_baseline_learns_what_it_can_see() -> None:
    binary = Labels("binary", ("no", "yes"))
    composition = measured(binary, lambda some: np.array([s.count("G") > s.count("C") for s in some], np.int64))
    assert list(composition) == ["majority", "3-mers", "4-mers", "5-mers", "6-mers", "one-hot"]
    accuracy = {name: found["metrics"]["test"]["accuracy"] for name, found in composition.items()}
    assert accuracy["3-mers"] > 0.85 > accuracy["majority"] + 0.1
    place = measured(binary, lambda some: np.array([s[20] in "AG" for s in some], np.int64))
    accuracy = {name: found["metrics"]["test"]["accuracy"] for name, found in place.items()}
    assert accuracy["one-hot"] == 1
    assert max(accuracy[f"{k}-mers"] for k in (3, 4, 5, 6)) < 0.75
    low, high = place["one-hot"]["intervals"]["test"]["accuracy"]
    assert low == high == 1
    assert place["one-hot"]["rows"] == 300


@pytest.mark.parametrize("task", ["regression", "multilabel", "token"])
def test_every_task_has_baselines(task: str) -> None:
    targets = {
        "regression": lambda some: np.array([s.count("G") - 10 for s in some], np.float32) / 3,
        "multilabel": lambda some: np.array([[s[0] == "A", s[1] in "GC", False] for s in some], np.float32),
        "token": lambda some: [np.array([c in "GT" for c in s], np.int64) for s in some],
    }
    names = {"regression": (), "multilabel": ("a", "b", "c"), "token": ("x", "y")}
    found = measured(Labels(task, names[task]), targets[task])
    score = {"regression": "r2", "multilabel": "f1_micro", "token": "accuracy"}[task]
    best = {name: known["metrics"]["test"][score] for name, known in found.items()}
    assert best["one-hot"] > 0.95
    assert best["one-hot"] > best["majority"] + 0.3
    if task == "regression":
        assert best["majority"] == pytest.approx(0, abs=0.1)
        assert best["3-mers"] > 0.8


def test_rows_and_letters_are_capped_and_the_cap_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    part = split("train", letters(200))
    monkeypatch.setattr(baselines, "ROWS", 50)
    assert len(baselines.sample(part, "binary", 0)) == 50
    monkeypatch.setattr(baselines, "LETTERS", 400)
    rows = baselines.sample(part, "binary", 0)
    assert len(rows) == 10
    assert (np.diff(rows) > 0).all()
    assert not np.array_equal(rows, baselines.sample(part, "binary", 1))
    found = measured(Labels("binary", ("no", "yes")), lambda some: np.array([s.count("G") > 9 for s in some], np.int64))
    assert (found["majority"]["rows"], found["4-mers"]["rows"]) == (300, 10)


@pytest.mark.parametrize("k", [1, 3])
def test_features_are_those_of_their_definition(k: int, monkeypatch: pytest.MonkeyPatch) -> None:
    some = ["ACGTN", "", "GGGGACG", "NN", "T"]
    words = ["".join(word) for word in itertools.product("ACGT", repeat=k)]
    counts = np.array([[sum(s[i : i + k] == word for i in range(len(s))) for word in words] for s in some], float)
    shares = counts / np.maximum(counts.sum(1, keepdims=True), 1)
    np.testing.assert_allclose(baselines.kmer_counts(some, k).toarray(), shares)
    monkeypatch.setattr(baselines, "POSITIONS", 5)
    wanted = [[float(i < len(s) and s[i] == base) for i in range(5) for base in "ACGT"] for s in some]
    assert baselines.one_hot(some).toarray().tolist() == wanted
    around = [
        [float(0 <= i + d < len(s) and s[i + d] == base) for d in range(-5, 6) for base in "ACGT"]
        for s in some
        for i in range(len(s))
    ]
    assert baselines.flanks(some).toarray().tolist() == around


@pytest.mark.parametrize("sparse", [True, False])
def test_a_regression_is_solved_whatever_the_scale_of_features(sparse: bool) -> None:
    """At the solution no weight gains by a step: the gradient of the penalised loss is zero. No epochs, no learning rate."""
    rng = np.random.default_rng(0)
    x = rng.standard_normal((400, 5)) * [1e-3, 1, 1e3, 1, 1] + [0, 0, 5e3, 0, 0]
    x[rng.random(x.shape) < 0.3] = 0
    y = (x @ [1000.0, 1, 0.001, 0, 0] + rng.standard_normal(400) > 5).astype(np.int64)
    features = csr_matrix(x) if sparse else x
    found = solve(
        Labels("binary", ("a", "b")), features[:300], y[:300], lambda s: baselines.loss(BINARY, s.logits(features[300:]), y[300:])
    )
    assert found.converged
    assert len(found.tried) > 1
    assert found.penalty == min(found.tried, key=lambda pair: pair[1])[0]
    logits = found.logits(features)
    std = x[:300].std(0)
    slope = (x[:300] - (0 if sparse else x[:300].mean(0))) / std
    weight = (found.weight[1] - found.weight[0]) * std
    wrong = expit(logits[:300, 1] - logits[:300, 0]) - y[:300]
    gradient = slope.T @ wrong + weight / found.penalty
    assert np.abs(gradient).max() < 0.05
    assert abs(wrong.sum()) < 0.05
    assert np.mean(logits[300:].argmax(1) == y[300:]) > 0.85


@pytest.mark.parametrize("task", ["multiclass", "multilabel"])
def test_few_dense_features_are_solved_closely_and_as_many_ones_are(task: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Newton's method and L-BFGS have one solution, also with weights and for features that nearly follow from one another."""
    rng = np.random.default_rng(0)
    shared = rng.standard_normal((500, 2))
    x = (np.concatenate([shared, shared + 0.1 * rng.standard_normal((500, 2))], axis=1) + 3).astype(np.float32)
    labels = Labels(task, ("a", "b", "c"))
    noisy = shared @ rng.standard_normal((2, 3)) + rng.standard_normal((500, 3))
    y = noisy.argmax(1) if task == "multiclass" else (noisy > 0).astype(np.float32)
    weights = rng.uniform(0.5, 2, 500 if task == "multiclass" else (500, 3))

    def solved() -> Solution:
        return solve(labels, x, y, lambda s: -s.penalty, weights=weights)

    newton = solved()
    monkeypatch.setattr(regression, "_NEWTON_WEIGHTS", 0)
    other = solved()
    assert newton.penalty == other.penalty == 10
    assert newton.iterations < 10 < other.iterations
    np.testing.assert_allclose(newton.logits(x), other.logits(x), atol=0.05)
    # At the end no weight gains by a step: the gradient of the weighted and penalised loss is zero.
    std = x.std(0, dtype=np.float64)
    scaled, weight = (x - x.mean(0, dtype=np.float64)) / std, newton.weight * std
    truth = np.eye(3)[y] if task == "multiclass" else y
    chance = softmax(newton.logits(x), axis=1) if task == "multiclass" else expit(newton.logits(x))
    wrong = (chance - truth) * (weights[:, None] if task == "multiclass" else weights)
    assert np.abs(wrong.T @ scaled + weight / newton.penalty).max() < 1e-2
    assert np.abs(wrong.sum(0)).max() < 1e-2


BINARY = Labels("binary", ("a", "b"))


def test_a_plateau_does_not_end_the_search_for_a_penalty() -> None:
    """Under the strongest penalties all rows get one class, and their MCC is not defined."""
    x = np.random.default_rng(0).standard_normal((80, 3))
    y = (x[:, 0] > 0.8).astype(np.int64)
    values = iter([None, None, 0.2, 0.2, 0.7, 0.6])
    found = solve(BINARY, x, y, lambda s: next(values), larger_is_better=True)
    assert found.penalty == 1.0
    worse = iter([0.5, 0.6, 0.7])
    assert len(solve(BINARY, x, y, lambda s: next(worse)).tried) == 3


def test_many_classes_are_left_to_the_majority(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(baselines, "WIDTH", 1)
    found = measured(Labels("binary", ("no", "yes")), lambda some: np.array([s.count("G") > 9 for s in some], np.int64))
    assert list(found) == ["majority"]


def test_a_class_without_training_rows_and_a_label_that_all_have() -> None:
    x = np.random.default_rng(0).standard_normal((60, 3))
    three = Labels("multiclass", ("a", "b", "c"))
    found = solve(three, x, 2 * (x[:, 0] > 0).astype(np.int64), lambda s: -s.penalty)
    assert set(found.logits(x).argmax(1)) == {0, 2}
    have = np.stack([x[:, 1] > 0, np.ones(60)], axis=1).astype(np.float32)
    logits = solve(Labels("multilabel", ("a", "b")), x, have, lambda s: -s.penalty).logits(x)
    assert (logits[:, 1] > 2).all()
    assert np.mean((logits[:, 0] > 0) == (x[:, 1] > 0)) > 0.9

"""Covariates: what is taken out is what least squares finds in training rows, and strangers' values are told."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
from sklearn.linear_model import LinearRegression

from dnafeat.align.covariates import Column, Covariates, as_numbers, coefficients
from dnafeat.align.preparation import Preparation
from dnafeat.errors import UsageError

AGES = ["20", "30.5", "1e1", "40", "55", "61", "70", "33"]
SITES: Column = ["b", "a", "b", "c", "a", "a", "c", "b"]


def keys(columns: dict[str, Any]) -> list[str]:
    return [f"S{i}" for i in range(len(next(iter(columns.values()))))]


def test_what_is_left_is_what_a_regression_on_training_rows_leaves_and_keeps_the_mean() -> None:
    rng = np.random.default_rng(0)
    age, site = rng.uniform(20, 80, 60), rng.choice(["a", "b", "c"], 60)
    y = (
        np.outer(age, rng.normal(size=5))
        + rng.normal(size=(3, 5))[np.searchsorted(["a", "b", "c"], site)]
        + rng.normal(size=(60, 5))
    )
    columns: dict[str, Column] = {"age": [str(one) for one in age], "site": site.tolist()}
    train = np.arange(60) < 40
    fitted = Covariates.fit(columns, train)
    design, strange = fitted.design(columns, keys(columns))
    assert not strange
    assert design.shape == (60, fitted.width) == (60, 4)
    assert design[train].mean(axis=0) == pytest.approx(np.zeros(4), abs=1e-12)
    left = y - design @ coefficients(design[train], y[train])
    plain = np.column_stack([age, site == "a", site == "b"])
    model = LinearRegression().fit(plain[train], y[train])
    assert left == pytest.approx(y - model.predict(plain) + y[train].mean(axis=0), abs=1e-8)
    assert left[train].mean(axis=0) == pytest.approx(y[train].mean(axis=0))
    # Nothing of the covariates is left where they were fitted.
    assert np.abs(np.corrcoef(left[train].T, age[train])[-1, :-1]).max() < 1e-10


def test_a_level_that_training_has_not_changes_nothing_and_is_counted() -> None:
    columns: dict[str, Column] = {"site": SITES, "age": AGES}
    fitted = Covariates.fit(columns, np.ones(8, bool))
    design, strange = fitted.design({"site": ["z", "a"], "age": ["20", "20"]}, ["S1", "S2"])
    assert strange == {"site": 1}
    assert (design[0, 1:] == 0).all()
    assert design[1, 1:].tolist() == [1 - 3 / 8, -3 / 8, -2 / 8]
    again = Covariates.from_dict(json.loads(json.dumps(fitted.to_dict())))
    assert again == fitted
    assert (again.design(columns, keys(columns))[0] == fitted.design(columns, keys(columns))[0]).all()


def test_terms_are_those_of_a_regression_with_them_and_come_back_as_they_were() -> None:
    rng = np.random.default_rng(4)
    age, iq, sex = rng.uniform(20, 80, 90), rng.normal(size=90), rng.choice(["f", "m"], 90)
    columns: dict[str, Column] = {"age": [str(one) for one in age], "iq": [str(one) for one in iq], "sex": sex.tolist()}
    train = np.arange(90) < 60
    y = rng.normal(size=(90, 3)) + np.outer(age**2 / 1000, [1, 2, 3]) + np.outer(iq * (sex == "f"), [3, 2, 1])
    fitted = Covariates.fit(columns, train, (), "squares", [("iq", "sex"), ("age", "iq")])
    design, _ = fitted.design(columns, keys(columns))
    assert design.shape == (90, fitted.width) == (90, 4 + 2 + 2 + 1)
    assert design[train].mean(axis=0) == pytest.approx(np.zeros(9), abs=1e-12)
    plain = np.column_stack([age, age**2, iq, iq**2, sex == "f", iq * (sex == "f"), age * iq])
    model = LinearRegression().fit(plain[train], y[train])
    left = y - design @ coefficients(design[train], y[train])
    assert left == pytest.approx(y - model.predict(plain) + y[train].mean(axis=0), abs=1e-8)
    again = Covariates.from_dict(json.loads(json.dumps(fitted.to_dict())))
    assert again == fitted
    assert (again.design(columns, keys(columns))[0] == design).all()
    # A level that training has not changes nothing of its products either.
    strange = fitted.design({"age": ["40"], "iq": ["1"], "sex": ["x"]}, ["S"])[0][0]
    assert (strange[2:4] == 0).all()
    assert (strange[6:8] == 0).all()


def test_splines_bend_between_their_knots_alone() -> None:
    rng = np.random.default_rng(5)
    ages = rng.normal(50, 10, 200)
    fitted = Covariates.fit({"age": [str(one) for one in ages]}, np.ones(200, bool), (), "splines")
    assert fitted.width == 1 + 3
    grid = np.linspace(0, 120, 241)
    design, _ = fitted.design({"age": [str(one) for one in grid]}, [""] * 241)
    bend = np.abs(np.diff(design, 2, axis=0)).max(axis=1)
    low, high = np.quantile(ages, [0.05, 0.95])
    outside = (grid[2:] < low) | (grid[:-2] > high)
    assert bend[outside].max() < 1e-9
    assert bend[~outside].max() > 1e-4
    wave = np.sin(ages / 8)
    left = (
        wave
        - fitted.design({"age": [str(one) for one in ages]}, [""] * 200)[0]
        @ coefficients(fitted.design({"age": [str(one) for one in ages]}, [""] * 200)[0], wave[:, None])[:, 0]
    )
    assert left.var() < 0.1 * wave.var()
    # Two values have no curve.
    assert Covariates.fit({"sex": ["0", "1"] * 9}, np.ones(18, bool), (), "splines").width == 1


def test_more_columns_than_half_of_the_training_subjects_are_refused() -> None:
    rng = np.random.default_rng(6)
    columns: dict[str, Column] = {name: [f"{name}{one}" for one in rng.integers(0, 8, 40)] for name in ("site", "scanner")}
    train = np.ones(40, bool)
    assert Covariates.fit(columns, train).width == 16
    with pytest.raises(
        UsageError, match=r"come to \d\d independent columns for 40 training subjects, and half as many can be fitted"
    ):
        Covariates.fit(columns, train, interactions=[("site", "scanner")])


def test_names_that_look_like_numbers_are_names_where_it_is_said() -> None:
    columns: dict[str, Column] = {"scanner": ["1", "2", "1", "3", "2", "1"]}
    assert Covariates.fit(columns, np.ones(6, bool)).width == 1
    assert Covariates.fit(columns, np.ones(6, bool), ["scanner"]).width == 3


@pytest.mark.parametrize(
    ("column", "sentence"),
    [
        (["7"] * 8, r"covariate 'x' is '7' for every training subject and explains nothing"),
        (list("abcdefgh"), r"covariate 'x' has 8 different texts for 8 training subjects, such as 'a': it names people"),
    ],
)
def test_what_explains_nothing_is_refused(column: Column, sentence: str) -> None:
    with pytest.raises(UsageError, match=sentence):
        Covariates.fit({"x": column}, np.ones(8, bool))


def test_a_number_that_is_none_is_named() -> None:
    fitted = Covariates.fit({"age": AGES}, np.ones(8, bool))
    with pytest.raises(UsageError, match=r"covariate 'age' of 'S1' is 'old', and it is a number for the training subjects"):
        fitted.design({"age": ["1", "old"]}, ["S0", "S1"])
    assert as_numbers(["1", "inf"]) is None
    assert as_numbers(["1", None]) is None


# -- what comes after covariates


def test_principal_components_are_those_of_an_svd_from_either_side_with_one_mean_variance() -> None:
    rng = np.random.default_rng(1)
    for shape in ((50, 12), (12, 50)):
        x = rng.normal(size=shape) @ np.diag(np.linspace(3, 0.1, shape[1]))
        steps = Preparation.fit(x, components=5)
        z = (x - x.mean(axis=0)) / x.std(axis=0)
        _, size, axes = np.linalg.svd(z, full_matrices=False)
        found = steps(x)
        wanted = z @ axes[:5].T
        scale = np.sqrt((size[:5] ** 2).sum() / (5 * shape[0]))
        assert np.abs(found) == pytest.approx(np.abs(wanted / scale), abs=1e-5)
        assert (found**2).mean() == pytest.approx(1, abs=1e-5)
        assert steps.width == 5
    assert Preparation.fit(rng.normal(size=(4, 50)), components=50).width == 3


def test_constant_columns_become_nothing_and_the_rest_is_z_scored() -> None:
    rng = np.random.default_rng(2)
    x = rng.normal(size=(30, 4)).astype(np.float32) + 100
    x[:, 1] = 5 + 1e-6 * rng.normal(size=30)
    steps = Preparation.fit(x)
    found = steps(x)
    assert (found[:, 1] == 0).all()
    assert found[:, [0, 2, 3]].std(axis=0) == pytest.approx([1, 1, 1], abs=1e-5)
    assert steps.varies
    assert not Preparation.fit(np.ones((5, 3))).varies
    again = Preparation.from_arrays(steps.arrays())
    assert (again(x) == found).all()


def test_columns_can_be_taken_away() -> None:
    x = np.random.default_rng(3).normal(size=(20, 6))
    steps = Preparation.fit(x)
    found = steps(x, without=slice(2, 4))
    assert (found[:, 2:4] == 0).all()
    assert (found[:, [0, 1, 4, 5]] == steps(x)[:, [0, 1, 4, 5]]).all()

"""Covariates within permutation tests: residuals are exchangeable, null cohorts have uniform p-values, and a true signal is found."""

from __future__ import annotations

from typing import Any

import exchanges
import numpy as np
import pytest
from sklearn.linear_model import LinearRegression

from dnafeat.align.covariates import Covariates
from dnafeat.align.nuisance import Families, Residuals, correlation_of
from dnafeat.errors import UsageError


def one_hot(labels: np.ndarray) -> np.ndarray:
    return (labels[:, None] == np.unique(labels)[None, :]).astype(np.float64)


@pytest.mark.parametrize("families", [np.arange(48), np.repeat(np.arange(30), [3] * 6 + [2] * 6 + [1] * 18)])
def test_residuals_have_nothing_of_the_covariates_and_a_scalar_covariance(families: np.ndarray) -> None:
    rng = np.random.default_rng(0)
    plain = np.hstack([one_hot(rng.integers(0, 8, 48)), rng.normal(size=(48, 1))])
    own = Families.of(families, 0.5)
    found = Residuals.of(own, plain, rng.normal(size=(48, 2)))
    units = len(np.unique(families))
    rows = found(np.eye(48))
    assert found.columns == 10
    assert found.left_out == 0
    assert len(rows) == units - 11 == len(found.groups)
    # Of independent families, each with the variance of a single subject, no two rows are correlated.
    relatives = 0.5 * (families[:, None] == families[None, :]) + 0.5 * np.eye(48)
    assert rows @ relatives @ rows.T == pytest.approx(np.eye(len(rows)), abs=1e-9)
    for covariates in (np.ones((48, 1)), plain):
        assert np.abs(found(covariates)).max() < 1e-9


def test_what_there_is_no_room_for_is_counted_and_nothing_changes_without_covariates() -> None:
    rng = np.random.default_rng(1)
    found = Residuals.of(Families.of(np.arange(20), 0.5), rng.normal(size=(20, 7)), rng.normal(size=(20, 9)))
    assert (found.columns, found.left_out, len(found.groups)) == (7 + 4, 5, 8)
    values, groups = rng.normal(size=(20, 3)), np.arange(20) // 2
    assert Residuals.none(groups)(values) is values
    assert Residuals.none(groups).groups is groups


def test_what_covariates_explain_is_the_adjusted_share_of_a_regression() -> None:
    rng = np.random.default_rng(2)
    plain = rng.normal(size=(60, 4))
    y = rng.normal(size=(60, 6)) + plain @ rng.normal(size=(4, 6))
    found = Residuals.of(Families.of(np.arange(60), 0.5), plain, np.empty((60, 0)))
    value, null = found.explained(y, [rng.permutation(60) for _ in range(200)])
    left = y - LinearRegression().fit(plain, y).predict(plain)
    assert value == pytest.approx(1 - (np.sum(left**2) / 55) / (np.sum((y - y.mean(0)) ** 2) / 59))
    assert value > 0.5 > max(null)
    assert np.mean(null) == pytest.approx(0, abs=0.02)


def test_the_correlation_of_relatives_is_found() -> None:
    rng = np.random.default_rng(3)
    families = np.repeat(np.arange(400), rng.choice([1, 2, 4], 400))
    values = np.sqrt(0.3) * rng.normal(size=(400, 20))[families] + np.sqrt(0.7) * rng.normal(size=(len(families), 20))
    assert correlation_of(families, values) == pytest.approx(0.3, abs=0.04)
    assert correlation_of(families, rng.normal(size=values.shape)) == pytest.approx(0, abs=0.04)
    assert correlation_of(np.arange(9), values[:9]) == 0.5


# -- through the whole of preparation and measures


@pytest.mark.parametrize("kind", ["sites-25", "sites-50", "square", "product", "families"])
def test_unlinked_cohorts_have_no_signal_whatever_covariates_do(kind: str) -> None:
    found = exchanges.p_values(kind, range(12))
    # Of uniform p-values so low a mean, or 4 of 12 below 0.05, come once in thousands.
    assert found.mean(axis=0).min() > 0.25
    assert (found <= 0.05).sum(axis=0).max() <= 3


@pytest.mark.parametrize("kind", ["haplotypes", "sites-25", "sites-50", "families"])
def test_a_true_signal_is_found_with_common_haplotypes_many_sites_and_families(kind: str) -> None:
    found = exchanges.p_values(kind, range(4), signal=0.5)
    assert found[:, [0, 2]].max() <= 0.05


@pytest.mark.long
@pytest.mark.parametrize(
    ("kind", "changes"),
    [
        *((kind, {}) for kind in ("sites-25", "sites-50", "square", "product", "families", "haplotypes")),
        ("square", {"covariate_terms": "splines"}),
        ("product", {"interactions": ("age:iq",)}),
        ("families", {"covariates": ()}),
    ],
)
def test_p_values_of_unlinked_cohorts_are_uniform(kind: str, changes: dict[str, Any]) -> None:
    found = exchanges.p_values(kind, range(100, 300), **changes)
    # A projector bends what is removed after it, so that a little stays in the projected vectors.
    assert ((found <= 0.05).mean(axis=0) < [0.09, 0.15, 0.09]).all()
    assert np.abs(found.mean(axis=0) - 0.5).max() < 0.09


@pytest.mark.parametrize(
    ("kind", "terms"), [("square", {"covariate_terms": "splines"}), ("product", {"interactions": ("age:iq",)})]
)
def test_what_was_not_removed_is_measured_and_reported_and_terms_remove_it(kind: str, terms: dict[str, Any]) -> None:
    found = exchanges.subjects(*exchanges.cohort(kind, 5), 5)
    plain, removed = (exchanges.measured(found, 5, **given) for given in ({}, terms))
    for side in ("dna", "brain"):
        assert plain["explained"][side]["value"] > 0.2
        assert plain["explained"][side]["p"] == 0.01
        assert abs(removed["explained"][side]["value"]) < 0.1
        assert removed["explained"][side]["p"] > 0.01
    value = "{:.1%}".format
    told = " and ".join(
        f"{value(plain['explained'][one]['value'])} of the held-out variance of {one}" for one in ("dna", "brain")
    )
    assert plain["notes"][-1].startswith(f"warning: covariates still explain {told} after their removal")
    assert "where it can pass for a signal between both. The tests take it out again. Try --covariate-terms" in plain["notes"][-1]
    assert not any(note.startswith("warning") for note in removed["notes"])
    # From a side that was left as it was, by choice, nothing is missed.
    one_side = exchanges.measured(found, 5, residualise="partner")
    assert one_side["explained"]["dna"]["p"] == 0.01
    assert "variance of brain after their removal: retrieval, projected vectors and probes carry it. The" in one_side["notes"][-1]


def test_held_out_subjects_that_are_too_few_are_refused_with_their_number_and_a_remedy() -> None:
    x, y, columns, _ = exchanges.cohort("plain", 0)
    columns["site"] = [f"s{i % 25}" for i in range(240)]
    sentence = (
        r"^\d+ (held-out|training) subjects in \d+ families, of which the covariates take \d+ degrees of freedom, are too few"
    )
    with pytest.raises(UsageError, match=sentence) as error:
        exchanges.measured(exchanges.subjects(x[:90], y[:90], {k: v[:90] for k, v in columns.items()}, np.arange(90), 0))
    assert "give another --test-share or --seed, more families, or fewer covariates or levels" in str(error.value)
    # Families of 5, 4, 3, 2 and 1 have no other of their size.
    families = np.repeat(np.arange(90), np.resize([5, 4, 3, 2, 1, 9, 8, 7, 6], 90))[:240]
    with pytest.raises(UsageError, match=r"^\d+ held-out subjects in \d families are too few to test: .*or one member of each$"):
        exchanges.measured(exchanges.subjects(x, y, {}, families, 1))
    told = exchanges.measured(exchanges.subjects(x, y, {}, np.arange(240) // 2, 1))
    count = told["subjects"]
    assert told["exchanged"] == {"rows": count, "groups": count // 2, "movable": count}
    assert f"permutation tests exchange {count} of {count} held-out subjects in {count // 2} families" in told["notes"][-1]


def test_a_group_of_equal_dna_moves_person_by_person() -> None:
    """With groups of equal DNA exchanged whole, each only for one of its size, the same signal was not found."""
    x, y, _, families = exchanges.cohort("haplotypes", 3, signal=0.5)
    found = exchanges.subjects(x, y, {}, families, 3)
    fields = {name: getattr(found, name) for name in type(found).__dataclass_fields__}
    whole = type(found)(**{**fields, "families": found.groups})
    told = exchanges.measured(found, 3)
    assert told["exchanged"]["movable"] == told["subjects"] == told["families"]
    assert told["tests"]["CKA of the vectors"]["p"] == 0.01
    with pytest.raises(UsageError, match="are too few to test"):
        exchanges.measured(whole, 3)


def test_old_coding_of_covariates_is_read_and_terms_come_back_as_they_were() -> None:
    old = Covariates.from_dict({"numbers": {"age": [40.0, 10.0]}, "levels": {"sex": {"f": 0.5, "m": 0.5}}})
    assert old.terms == ()
    assert old.design({"age": ["50"], "sex": ["f"]}, ["S"])[0].tolist() == [[1, 0.5, -0.5]]
    assert "terms" not in old.to_dict()

"""A label for each base: tokens to bases and back against slow loops, and classes as intervals."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dnafeat.finetune.per_base import IGNORED, base_values, intervals, read_per_base, token_classes

pytestmark = pytest.mark.filterwarnings("error")


def test_intervals() -> None:
    assert intervals(np.array([0, 0, 1, -1, -1, 1, 0]), ("a", "b")) == "0-2=a;2-3=b;5-6=b;6-7=a"
    assert intervals(np.array([1]), ("a", "b")) == "0-1=b"


@given(st.lists(st.integers(0, 2), min_size=1, max_size=12))
def test_intervals_read_back_are_the_same_classes(classes: list[int]) -> None:
    names, codes = read_per_base(intervals(np.array(classes), ("a", "b", "c")), len(classes), "here")
    assert [names[code] for code in codes] == ["abc"[one] for one in classes]


def test_a_token_has_the_class_of_most_of_its_bases() -> None:
    per_base = np.array([0, 1, 1, 2, 0, 0, 2, 1])
    #                    tie to 0 | 1 | tie of 1 and 2 | none | 0 | tie to 2
    starts, stops = np.array([0, 0, 2, 4, 3, 6]), np.array([2, 3, 4, 4, 6, 8])
    assert token_classes(per_base, starts, stops).tolist() == [0, 1, 1, IGNORED, 0, 2]


def test_a_tie_goes_to_the_earliest_base_even_of_a_later_class() -> None:
    assert token_classes(np.array([1, 2, 2, 1, 0, 0]), np.array([0, 1]), np.array([6, 6])).tolist() == [1, 2]


def test_a_base_has_the_mean_of_the_tokens_that_cover_it() -> None:
    values = np.array([[1, 10], [3, 30], [8, 80]], np.float32)
    found = base_values(values, np.array([0, 1, 5]), np.array([3, 4, 6]), 7)
    nan = [np.nan, np.nan]
    np.testing.assert_array_equal(found, [[1, 10], [2, 20], [2, 20], [3, 30], nan, [8, 80], nan])
    assert found.dtype == np.float32


@st.composite
def tokenised(draw: st.DrawFn) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Classes per base, and any tokens: in or out of order, overlapping, empty, none at all."""
    per_base = draw(st.lists(st.integers(0, 3), max_size=12))
    edge = st.integers(0, len(per_base))
    tokens = draw(st.lists(st.tuples(edge, edge), max_size=8))
    spans = np.array(tokens, np.int64).reshape(-1, 2)
    return np.array(per_base, np.int64), spans[:, 0], spans[:, 1]


@given(tokenised())
def test_token_classes_are_as_defined(case: tuple[np.ndarray, np.ndarray, np.ndarray]) -> None:
    per_base, starts, stops = case
    expected = []
    for start, stop in zip(starts, stops, strict=True):
        own = per_base[start:stop].tolist()
        # Counter.most_common keeps the order of first meeting among equal counts.
        expected.append(Counter(own).most_common(1)[0][0] if own else IGNORED)
    found = token_classes(per_base, starts, stops)
    assert found.dtype == np.int64
    assert found.tolist() == expected


@given(tokenised(), st.integers(1, 3), st.sampled_from([np.float32, np.float64]))
def test_base_values_are_as_defined(case: tuple[np.ndarray, np.ndarray, np.ndarray], k: int, dtype: type) -> None:
    per_base, starts, stops = case
    values: np.ndarray = np.random.default_rng(0).normal(size=(len(starts), k)).astype(dtype)
    found = base_values(values, starts, stops, len(per_base))
    assert found.shape == (len(per_base), k)
    assert found.dtype == dtype
    for base, row in enumerate(found):
        own = [value for value, start, stop in zip(values, starts, stops, strict=True) if start <= base < stop]
        if len(own) == 1:
            assert np.array_equal(row, own[0])
        elif own:
            np.testing.assert_allclose(row, np.mean(own, axis=0), rtol=1e-5, atol=1e-7)
        else:
            assert np.isnan(row).all()


@given(st.lists(st.integers(1, 5), min_size=1, max_size=8), st.data())
def test_classes_constant_within_tokens_survive_the_way_to_tokens_and_back(sizes: list[int], data: st.DataObject) -> None:
    classes = np.array(data.draw(st.lists(st.integers(0, 3), min_size=len(sizes), max_size=len(sizes))))
    stops = np.cumsum(sizes)
    per_base = np.repeat(classes, sizes)
    per_token = token_classes(per_base, stops - sizes, stops)
    assert np.array_equal(per_token, classes)
    assert np.array_equal(base_values(np.eye(4)[per_token], stops - sizes, stops, len(per_base)).argmax(1), per_base)

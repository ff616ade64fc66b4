"""The rule of keys: how they are spelled, what counts as missing, what is lossy, and the order that people mean."""

from __future__ import annotations

import pyarrow as pa
import pyarrow.dataset as ds
import pytest

from dnafeat.keys import as_number, digits_of_floats, forms, is_lossy, is_missing, lossy, missing, named, natural, ranks, spelled

SPELLED = [
    ("S1", "S1"),
    (" S1\t", "S1"),
    ("\u00a0S1 ", "S1"),
    ("1000017.0", "1000017"),
    ("1000017.00", "1000017"),
    ("-3.0", "-3"),
    ("0.0", "0"),
    ("999999999999999.0", "999999999999999"),
    ("1e+05", "100000"),
    ("1.2345e+10", "12345000000"),
    ("1.5e+00", "1.5e+00"),
    # Neither numbers nor floats of whole numbers.
    ("007", "007"),
    ("007.0", "007.0"),
    ("1.5", "1.5"),
    ("1.10", "1.10"),
    ("v1.0", "v1.0"),
    ("1E05", "1E05"),
    ("9007199254740993", "9007199254740993"),
    ("9007199254740993.0", "9007199254740993.0"),
]


@pytest.mark.parametrize(("text", "name"), SPELLED)
def test_a_key_has_one_spelling_in_arrays_expressions_and_texts(text: str, name: str) -> None:
    column = pa.array([text, None])
    assert spelled(column).to_pylist() == [name, None]
    assert named(pa.chunked_array([column])).to_pylist() == [name, None]
    found = spelled(ds.field("k")).isin(pa.array(forms(name)))
    assert ds.dataset(pa.table({"k": column})).to_table(filter=found).num_rows == 1
    assert forms(text)[0] == name


def test_missing_values_are_one_list_and_names_that_look_alike_stay() -> None:
    gone = ["", " ", "NA", " NA ", "N/A", "n/a", "nan", "NaN", "NULL", "null", "None", "<NA>", None]
    names = ["NAN", "none", "NA12878", "Nan", "0", "-", "NULL1"]
    assert missing(pa.array(gone + names)).to_pylist() == [True] * len(gone) + [False] * len(names)
    assert named(pa.array(gone + names)).to_pylist() == [None] * len(gone) + names
    assert all(map(is_missing, gone))
    assert not any(map(is_missing, names))


def test_floats_are_keys_as_long_as_each_is_one_whole_number() -> None:
    values = [1000017.0, None, float("nan"), 2.5, 2.0**53 - 1, 2.0**53, 1e300, float("inf"), -7.0]
    names, strange = digits_of_floats(pa.array(values))
    assert names.to_pylist() == ["1000017", None, None, None, "9007199254740991", None, None, None, "-7"]
    assert strange.tolist() == [False, False, False, True, False, True, True, True, False]
    # A float32 tells whole numbers apart up to 2^24 alone.
    names, strange = digits_of_floats(pa.array([16777215.0, 16777216.0], pa.float32()))
    assert (names.to_pylist(), strange.tolist()) == (["16777215", None], [False, True])


def test_texts_that_were_floats_of_several_whole_numbers_are_found() -> None:
    for text in ("9007199254740992.0", "9.007199254740992e+15", "1e+300"):
        assert is_lossy(text), text
        assert lossy(pa.array(["S1", None, text])) == text
    for text in ("1e+10", "1e+05", "9007199254740993", "1234.0", "S1e+99", None):
        assert not is_lossy(text), text
    assert lossy(pa.array(["S1", "1e+10", None])) is None


def test_a_long_number_is_found_as_older_stores_hold_it() -> None:
    assert forms("10000000000") == ["10000000000", "1e+10"]
    assert forms("12345000.0") == ["12345000", "1.2345e+07"]
    assert [forms(text) for text in ("S1 ", "0", "7", "007", "9" * 20)] == [["S1"], ["0"], ["7"], ["007"], ["9" * 20]]


def test_natural_order_is_by_numbers_and_texts_with_numbers() -> None:
    assert sorted(["10", "9", "1", "2"], key=natural) == ["1", "2", "9", "10"]
    assert sorted(["ses-10", "ses-9", "ses-2"], key=natural) == ["ses-2", "ses-9", "ses-10"]
    assert sorted(["0.5", "0.25", "-1", "b", "a"], key=natural) == ["-1", "0.25", "0.5", "a", "b"]
    assert sorted(["2024-10-01", "2024-9-30"], key=natural) == ["2024-9-30", "2024-10-01"]
    assert ranks(["10", "9", "1", "1.0", None, "x"]) == {"1": 0, "1.0": 0, "9": 1, "10": 2, "x": 3}
    assert natural("9" * 5000) > natural("1" * 5000)


def test_numbers_are_ascii_and_finite() -> None:
    assert [as_number(text) for text in ("1", " 2.5 ", "1e3", "-.5", "nan", "inf", "1_0", "x", "", "1e999")] == [
        *(1.0, 2.5, 1000.0, -0.5),
        *(None, None, None, None, None, None),
    ]

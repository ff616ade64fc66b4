"""Names of files taken apart, and ids as text."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from dnafeat.partners.names import Name, Unfit, apart, of_file, of_ids, texts, whole_numbers


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("1000017_20227_2_0", ("1000017", "2", None)),
        ("1000023_20227_3_0_fMRI_in_MNI_space", ("1000023", "3", None)),
        ("hcp_mmp1_1000023_20227_2_0", ("1000023", "2", None)),
        ("1000017_20227_2_0_window-12", ("1000017", "2", 12)),
        ("sub-01_ses-2_task-rest_run-1_bold", ("01", "2_run-1", None)),
        ("sub-NDARINV0A1B2C3D", ("NDARINV0A1B2C3D", None, None)),
        ("sub-01_run-2_window_3", ("01", "run-2", 3)),
        ("100307_rfMRI_REST1_LR", ("100307", "REST1_LR", None)),
        ("100307_tfMRI_WM_RL_hp2000", ("100307", "WM_RL", None)),
        ("100610_rfMRI_REST1_7T_PA", ("100610", "REST1_7T_PA", None)),
        ("100610_rfMRI_REST2_7T_AP_win-3", ("100610", "REST2_7T_AP", 3)),
        ("100610_tfMRI_MOVIE1_7T_AP_Atlas", ("100610", "MOVIE1_7T_AP", None)),
        ("100610_rfMRI_REST1_PA", ("100610", "REST1_PA", None)),
        ("0017", ("0017", None, None)),
        ("patient-a", ("patient-a", None, None)),
        ("patient-a_window3", ("patient-a", None, 3)),
        ("twin-3", ("twin-3", None, None)),
        ("a1000017_20227_2_0", ("a1000017_20227_2_0", None, None)),
    ],
)
def test_a_name_is_taken_apart(name: str, told: tuple[str, str | None, int | None]) -> None:
    assert apart(name, None) == Name(*told)


def test_a_pattern_takes_other_names_apart() -> None:
    pattern = r"(?P<subject>\d+)-visit(?P<session>\d)(?:-(?P<window>\w+))?"
    assert apart("x17-visit2-005", pattern) == ("17", "2", 5)
    assert apart("17-visit2", pattern) == ("17", "2", None)
    with pytest.raises(Unfit, match="does not match --id-pattern"):
        apart("1000017_20227_2_0", pattern)
    with pytest.raises(Unfit, match="no whole number"):
        apart("17-visit2-b", pattern)


def test_a_folder_names_its_files_and_they_number_its_windows() -> None:
    assert of_file("/data/1000017_20227_2_0/window_3.pt", "folder", None) == ("1000017", "2", 3)
    assert of_file("s3://b/sub-9/features.pt", "folder", None) == ("9", None, None)
    assert of_file("/data/1000017_20227_2_0/part7.pt", "name", None) == ("part7", None, None)


@pytest.mark.parametrize(
    ("values", "told"),
    [
        (np.array([1000017, 17]), ["1000017", "17"]),
        (np.array([1000017.0, np.nan]), ["1000017", None]),
        (np.array(["0017", "1000017.0", "0017.0", " a"]), ["0017", "1000017", "0017.0", "a"]),
        (np.array([b"0017"]), ["0017"]),
        (np.array([["a"], ["b"]]), ["a", "b"]),
        (np.array(1000017), ["1000017"]),
        ("0017", ["0017"]),
        (["a", "", "  ", None], ["a", None, None, None]),
        (pa.array([1000017.0, None, float("nan")]), ["1000017", None, None]),
        (pa.array(["a", "b"]).dictionary_encode(), ["a", "b"]),
        (pa.array([7, None], pa.int8()), ["7", None]),
    ],
)
def test_ids_become_text(values: Any, told: list[str | None]) -> None:
    assert texts(values, "ids") == told


@pytest.mark.parametrize(
    ("values", "reason"),
    [
        ([0.5, 2.0], "ids holds 0.5, which is no id"),
        ([float("inf")], "ids holds inf"),
        ([2.0**60], "which is no id"),
        (np.ones((2, 2)), r"ids is of shape \[2, 2\]; one id a row"),
        ([{}], "which is no id"),
        ([object()], "neither text nor a whole number"),
        (["a", 1], "neither text nor a whole number"),
        (pa.array([b"\xff"]), "not UTF-8"),
    ],
)
def test_what_is_no_id(values: Any, reason: str) -> None:
    with pytest.raises(Unfit, match=reason):
        texts(values, "ids")


def test_windows_are_whole_numbers() -> None:
    assert whole_numbers(np.array([0.0, 20.0]), "windows") == [0, 20]
    with pytest.raises(Unfit, match="windows holds what is no whole number"):
        whole_numbers(["first"], "windows")


def test_ids_stand_as_they_are_and_names_do_not() -> None:
    assert of_ids(["sub-01", None, "1000017_20227_2_0"], False, None) == [("sub-01", None, None), None, ("1000017", "2", None)]
    assert of_ids(["img/sub-01_ses-a_bold.nii.gz"], True, None) == [("01", "a", None)]
    assert of_ids(["X-17"], False, r"X-(?P<subject>\d+)") == [("17", None, None)]

"""Digests by the million: to NumPy and back, partitions in the digests' own order, and lookups."""

from __future__ import annotations

import base64
import hashlib
import random

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dnafeat.store import digests

MANY = [f"SQ.{base64.urlsafe_b64encode(hashlib.sha512(str(i).encode()).digest()[:24]).decode()}" for i in range(20_000)]
SOME = MANY[:9]


def columns(values: list[str]) -> dict[str, pa.Array | pa.ChunkedArray]:
    """The same digests in every shape they come in from Parquet, Delta and IPC."""
    plain = pa.array(values, pa.string())
    padded = pa.array(["x", *values, "a longer one"], pa.string())
    return {
        "plain": plain,
        "sliced": padded.slice(1, len(values)),
        "large": plain.cast(pa.large_string()),
        "large sliced": padded.cast(pa.large_string()).slice(1, len(values)),
        "dictionary": plain.dictionary_encode(),
        "dictionary sliced": padded.dictionary_encode().slice(1, len(values)),
        "view": plain.cast(pa.string_view()),
        "one chunk": pa.chunked_array([plain], pa.string()),
        "chunks": pa.chunked_array([plain.slice(0, 2), plain.slice(2, 0), plain.slice(2)], pa.string()),
        "dictionary chunks": pa.chunked_array([plain.slice(0, 3).dictionary_encode(), plain.slice(3).dictionary_encode()]),
        "no chunk": pa.chunked_array([plain] if values else [], pa.string()),
    }


@pytest.mark.parametrize("shape", columns(SOME))
@pytest.mark.parametrize("values", [SOME, []], ids=["some", "none"])
def test_digests_survive_the_way_to_numpy_and_back(shape: str, values: list[str]) -> None:
    found = digests.to_numpy(columns(values)[shape])
    assert found.dtype == digests.DTYPE
    assert found.tolist() == [value.encode() for value in values]
    back = digests.to_arrow(found)
    assert back.type == pa.string()
    back.validate(full=True)
    assert back.to_pylist() == values


def test_strided_numpy_digests_become_the_arrow_strings_they_show() -> None:
    found = digests.to_numpy(pa.array(SOME))
    assert digests.to_arrow(found[::2]).to_pylist() == SOME[::2]
    assert digests.to_arrow(found[::-1]).to_pylist() == SOME[::-1]


@pytest.mark.parametrize(
    "values",
    [
        ["SQ.short"],
        [MANY[0], "SQ." + "A" * 33],
        # Together as wide as two digests.
        [MANY[0] + "A", MANY[0][:-1]],
        [""],
        [None],
        [MANY[0], None],
        [MANY[0][:-1] + "é"],
    ],
)
@pytest.mark.parametrize("kind", [pa.string(), pa.large_string(), pa.dictionary(pa.int32(), pa.string())])
def test_what_is_no_digest_is_refused(values: list[str | None], kind: pa.DataType) -> None:
    array = pa.array(values, pa.string()).cast(kind)
    for column in (array, pa.chunked_array([pa.array(MANY[:1]).cast(kind), array])):
        with pytest.raises(ValueError, match="not a column of sequence digests"):
            digests.to_numpy(column)


@pytest.mark.parametrize("partitions", [1, 2, 3, 7, 64, 100, digests.MAX_PARTITIONS])
def test_partitions_are_ranges_in_digest_order_and_about_equally_full(partitions: int) -> None:
    ordered = np.sort(digests.to_numpy(pa.array(MANY)))
    found = digests.partition(ordered, partitions)
    assert found.dtype == np.int64
    assert (np.diff(found) >= 0).all()
    assert found.min() >= 0
    assert found.max() < partitions
    if partitions <= 100:
        counts = np.bincount(found, minlength=partitions)
        even = len(MANY) / partitions
        # Partitions differ by one in 4,096 of the range at most, and by chance: seven standard deviations.
        assert (np.abs(counts - even) < even * partitions / digests.MAX_PARTITIONS + 7 * even**0.5).all()


def test_the_ends_of_the_digest_range_fall_into_the_first_and_last_partition() -> None:
    ends = np.array([b"SQ." + b"-" * 32, b"SQ." + b"z" * 32], digests.DTYPE)
    for partitions in (1, 5, digests.MAX_PARTITIONS):
        assert digests.partition(ends, partitions).tolist() == [0, partitions - 1]


def test_numpy_arrow_and_python_put_digests_into_one_order() -> None:
    shuffled = random.Random(0).sample(MANY, len(MANY))
    wanted = sorted(shuffled)
    assert np.sort(digests.to_numpy(pa.array(shuffled))).tolist() == [value.encode() for value in wanted]
    assert pa.array(shuffled).sort().to_pylist() == wanted


@given(wanted=st.sets(st.integers(0, 60)), other=st.lists(st.integers(0, 60)))
def test_present_finds_what_a_set_finds(wanted: set[int], other: list[int]) -> None:
    ordered = np.sort(digests.to_numpy(pa.array([MANY[i] for i in wanted], pa.string())))
    place = digests.present(ordered, digests.to_numpy(pa.array([MANY[i] for i in other], pa.string())))
    assert place.dtype == np.int64
    assert {value.decode() for value in ordered[place]} == {MANY[i] for i in wanted & set(other)}


def test_an_empty_partition_call_is_empty() -> None:
    assert digests.partition(np.empty(0, digests.DTYPE), 5).shape == (0,)

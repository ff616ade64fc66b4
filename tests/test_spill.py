"""Spill files: every row comes back, from the partition it was sent to, in the order it came."""

from __future__ import annotations

import resource
import tempfile
from pathlib import Path

import numpy as np
import pyarrow as pa
from counts import examples
from hypothesis import given, settings
from hypothesis import strategies as st

from dnafeat.spill import Spill

SCHEMA = pa.schema([("number", pa.int64()), ("letters", pa.large_binary())])


def batch(numbers: list[int]) -> pa.RecordBatch:
    return pa.RecordBatch.from_arrays(
        [pa.array(numbers, pa.int64()), pa.array([b"A" * n for n in numbers], pa.large_binary())], schema=SCHEMA
    )


@settings(max_examples=examples(8, 25))
@given(partitions=st.integers(1, 9), sizes=st.lists(st.integers(0, 12), max_size=6), seed=st.integers(0, 9))
def test_rows_come_back_from_their_partition_in_the_order_they_came(partitions: int, sizes: list[int], seed: int) -> None:
    random = np.random.default_rng(seed)
    wanted: list[list[int]] = [[] for _ in range(partitions)]
    count = 0
    with tempfile.TemporaryDirectory() as folder:
        spill = Spill(Path(folder), "x", SCHEMA, partitions)
        for size in sizes:
            numbers = list(range(count, count + size))
            where = random.integers(0, partitions, size)
            spill.add(batch(numbers), where)
            for number, at in zip(numbers, where, strict=True):
                wanted[at].append(number)
            count += size
        spill.close()
        assert spill.rows == count
        for i in range(partitions):
            table = spill.table(i)
            assert table.schema == SCHEMA
            assert table["number"].to_pylist() == wanted[i]
            assert table["letters"].to_pylist() == [b"A" * n for n in wanted[i]]
            assert [n for one in spill.batches(i) for n in one["number"].to_pylist()] == wanted[i]


def test_sliced_batches_are_written_as_they_show(tmp_path: Path) -> None:
    spill = Spill(tmp_path, "x", SCHEMA, 2)
    spill.add(batch([0, 1, 2, 3, 4]).slice(1, 3), np.array([1, 0, 1]))
    spill.close()
    assert [spill.table(i)["number"].to_pylist() for i in range(2)] == [[2], [1, 3]]


def test_a_partition_can_be_read_again_and_one_without_rows_is_an_empty_table(tmp_path: Path) -> None:
    spill = Spill(tmp_path, "x", SCHEMA, 3)
    spill.add(batch([7]), np.array([1]))
    spill.close()
    assert spill.table(1).equals(spill.table(1))
    assert len(spill.table(1)) == 1
    assert spill.table(0).schema == SCHEMA
    assert len(spill.table(0)) == 0
    assert list(spill.batches(2)) == []


def test_without_partitions_all_rows_are_in_the_first(tmp_path: Path) -> None:
    spill = Spill(tmp_path, "x", SCHEMA)
    spill.add(batch([3]))
    spill.add(batch([1, 2]))
    spill.close()
    assert spill.table()["number"].to_pylist() == [3, 1, 2]


def test_spills_of_one_folder_do_not_meet(tmp_path: Path) -> None:
    one, other = Spill(tmp_path, "one", SCHEMA), Spill(tmp_path, "other", SCHEMA)
    one.add(batch([1]))
    other.add(batch([2]))
    one.close()
    other.close()
    assert (one.table()["number"].to_pylist(), other.table()["number"].to_pylist()) == ([1], [2])


def test_more_partitions_than_a_process_may_open_files_are_possible(tmp_path: Path) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (256, hard))
    try:
        spill = Spill(tmp_path, "x", SCHEMA, 400)
        spill.add(batch(list(range(400))), np.arange(400))
        spill.add(batch(list(range(400))), np.arange(400))
        spill.close()
        assert all(spill.table(i)["number"].to_pylist() == [i, i] for i in range(400))
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))

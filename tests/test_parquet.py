"""Parquet files: written while the next rows are made, whole or not at all, and read in whole or page by page."""

from __future__ import annotations

import errno
import io
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from dnafeat import parquet


def test_a_table_is_written_while_the_next_one_is_made() -> None:
    asked = threading.Event()

    class Waits(io.BytesIO):
        def write(self, data: Any) -> int:
            assert len(data) < 100 or asked.wait(60)
            return super().write(data)

    def made() -> Iterator[pa.Table]:
        for i in range(5):
            if i == 1:
                asked.set()
            yield pa.table({"row": range(1000 * i, 1000 * (i + 1))})

    file = Waits()
    parquet.encode_parquet(file, made())
    found = pq.ParquetFile(io.BytesIO(file.getvalue()))
    assert found.num_row_groups == 5
    assert found.read()["row"].to_pylist() == list(range(5000))


@pytest.mark.parametrize("at", ["making", "writing"])
def test_what_fails_in_making_or_writing_a_table_leaves_no_file(tmp_path: Path, at: str) -> None:
    class Full(io.BytesIO):
        def write(self, data: Any) -> int:
            if len(data) > 100 and at == "writing":
                raise OSError(errno.ENOSPC, "No space left on device")
            return super().write(data)

    def made() -> Iterator[pa.Table]:
        for i in range(5):
            yield pa.table({"row": range(1000)})
            if i == 2:
                raise ValueError("not this one")

    error, words = (ValueError, "not this one") if at == "making" else (OSError, "No space")
    running = threading.active_count()
    with pytest.raises(error, match=words):
        parquet.encode_parquet(Full(), made())
    assert threading.active_count() == running
    if at == "making":
        with pytest.raises(error, match=words):
            parquet.write_parquet(str(tmp_path / "a.parquet"), made())
        assert list(tmp_path.iterdir()) == []


def test_a_file_is_read_whole_by_columns_or_by_pages(store_uri: str) -> None:
    uri = f"{store_uri}/a.parquet"
    rows = pa.table({"sequence_digest": ["a", "b", "c"], "row": [1, 2, 3]})
    size = parquet.write_parquet(uri, [rows, rows], lambda: {"about": "this"})
    both = pa.concat_tables([rows, rows])
    assert size > 0
    assert parquet.read(uri).equals(both)
    assert parquet.read(uri, ["row"]).equals(both.select(["row"]))
    with parquet.opened(uri, **parquet.PAGED) as file:
        assert file.metadata.metadata == {b"about": b"this"}
        assert pa.Table.from_batches(file.iter_batches(2)).equals(both)
        statistics = {name: file.metadata.row_group(0).column(i).is_stats_set for i, name in enumerate(both.column_names)}
    assert statistics == {"sequence_digest": True, "row": False}

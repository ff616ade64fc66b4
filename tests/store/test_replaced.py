"""A table that every commit replaces: one state after the other, never two writers at once, and a lost reply is no second commit."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from deltalake import DeltaTable, Schema, write_deltalake
from s3 import S3

from dnafeat import storage
from dnafeat.errors import ConflictError, UnreachableError
from dnafeat.parquet import write_parquet
from dnafeat.store.data_file import DataFile
from dnafeat.store.replaced import ReplacedTable


def file_of(uri: str, name: str, table: pa.Table) -> DataFile:
    size = write_parquet(storage.join(uri, name), [table])
    return DataFile(name, size, len(table), {}, {}, {}, {})


def write(table: ReplacedTable, name: str, **columns: Any) -> int:
    rows = pa.table(columns)
    return table.commit([file_of(table.uri, f"{name}.parquet", rows)], Schema.from_arrow(rows.schema), {"made": name}, name)


def read(uri: str, version: int | None = None) -> list[dict[str, Any]]:
    return (
        DeltaTable(uri, version=version, storage_options=storage.delta_options(uri)).to_pyarrow_dataset().to_table().to_pylist()
    )


def test_every_commit_is_a_state_with_its_own_columns_and_what_it_was_made_of(store_uri: str) -> None:
    table = ReplacedTable(store_uri)
    assert not table.look()
    assert list(table.commits()) == []
    assert write(table, "first", a=[1, 2]) == 0
    assert write(table, "second", b=["x"]) == 1
    assert table.look()
    assert list(table.commits()) == [(1, {"made": "second"}), (0, {"made": "first"})]
    assert (read(store_uri), read(store_uri, 0)) == ([{"b": "x"}], [{"a": 1}, {"a": 2}])
    told = DeltaTable(store_uri, storage_options=storage.delta_options(store_uri)).metadata().configuration
    assert told["delta.dataSkippingNumIndexedCols"] == "0"


def test_whoever_comes_second_is_told_and_what_they_wrote_is_gone(store_uri: str) -> None:
    first, second = ReplacedTable(store_uri), ReplacedTable(store_uri)
    for name in ("new", "changed"):
        first.look()
        second.look()
        write(first, f"{name}-first", a=[1])
        with pytest.raises(ConflictError, match="somebody else wrote"):
            write(second, f"{name}-second", a=[2])
        assert read(store_uri) == [{"a": 1}]
    assert not [one.path for one in storage.listing(store_uri) if "second" in one.path]


def test_a_commit_whose_reply_is_lost_is_known_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    table = ReplacedTable(str(tmp_path / "t"))
    write(table, "first", a=[1])
    commit = DeltaTable.create_write_transaction

    def lost(self: DeltaTable, *arguments: Any, **more: Any) -> None:
        commit(self, *arguments, **more)
        raise OSError("error reading a body from connection")

    monkeypatch.setattr(DeltaTable, "create_write_transaction", lost)
    assert write(table, "second", a=[2]) == 1
    assert read(table.uri) == [{"a": 2}]


def test_files_stay_where_it_is_not_known_whether_the_commit_is_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    table = ReplacedTable(str(tmp_path / "t"))
    write(table, "first", a=[1])

    def refused(*_: Any, **__: Any) -> None:
        raise OSError("connection reset")

    monkeypatch.setattr(DeltaTable, "create_write_transaction", refused)
    with pytest.raises(UnreachableError, match="cannot be committed to: connection reset"):
        write(table, "second", a=[2])
    assert (tmp_path / "t" / "second.parquet").exists()
    assert read(table.uri) == [{"a": 1}]


def test_commits_of_other_tools_say_nothing(s3: S3) -> None:
    table = ReplacedTable(uri := s3.uri("t"))
    write(table, "first", a=[1])
    write_deltalake(uri, pa.table({"a": [5]}), mode="append", storage_options=storage.delta_options(uri))
    table.look()
    assert list(table.commits()) == [(0, {"made": "first"})]

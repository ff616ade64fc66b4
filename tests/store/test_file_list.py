"""The list of a table's files: what the newest snapshot has, and nothing that a plain listing of the folder would find beside it."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from places import local_first
from stores import A, B, Entry, Run, digest, fill

from dnafeat import storage
from dnafeat.cli.main import main
from dnafeat.errors import StoreError, UsageError
from dnafeat.store import Store
from dnafeat.store.file_list import file_list
from dnafeat.store.schema import TABLES

ENTRIES = [Entry(f"e{i}", "ACGT" * (1 + i), {"subject_id": f"S{i}"}) for i in range(9)]


@pytest.fixture
def store(store_uri: str, tmp_path: Path) -> Store:
    """Two versions, a change, and a run that wrote its vectors and died."""
    fill(store_uri, ENTRIES, tmp_path, shard_rows=4)
    fill(store_uri, ENTRIES[:5], tmp_path, version=B)
    fill(store_uri, ENTRIES[1:], tmp_path)
    Run(store_uri, [Entry("late", "TTTT")], tmp_path).encode()
    return Store(store_uri)


def test_the_files_of_a_snapshot_hold_its_rows_and_no_others(store: Store) -> None:
    for name, table in zip(TABLES, store.tables(), strict=True):
        listed = file_list(store, name)
        assert (listed["table"], listed["store"], listed["delta_version"]) == (name, store.uri, table.reload().version())
        found = 0
        for file in listed["files"]:
            fs, path = storage.filesystem(file["uri"])
            raw = fs.cat_file(path)
            assert len(raw) == file["size"]
            assert pq.read_metadata(pa.BufferReader(raw)).num_rows == file["rows"]
            found += file["rows"]
        assert found == len(table.dataset().to_table())
    on_disk = [one.path for one in storage.listing(store.features.uri) if one.path.endswith(".parquet")]
    assert len(on_disk) > len(file_list(store)["files"])


@local_first
def test_a_version_has_files_of_its_own(store: Store) -> None:
    store.point("production", B.digest)
    for version, name, count in ((A, A.digest[:6], 9), (B, "production", 5)):
        files = file_list(store, version=name)["files"]
        assert {file["feature_version"] for file in files} == {version.digest}
        assert sum(file["rows"] for file in files) == count
    with pytest.raises(UsageError, match="'sequences' are not apart by version"):
        file_list(store, "sequences", A.digest)
    with pytest.raises(UsageError, match="no table 'vectors': there are features, sequences"):
        file_list(store, "vectors")
    with pytest.raises(StoreError, match="'nothing'"):
        file_list(store, version="nothing")


def test_a_reader_without_delta_goes_by_the_list(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    uri = str(tmp_path / "store")
    fill(uri, ENTRIES, tmp_path, shard_rows=4)
    Run(uri, [Entry("late", "TTTT")], tmp_path).encode()
    assert main(["files", "--store", uri]) == 0
    said = capsys.readouterr()
    uris = said.out.splitlines()
    assert len(uris) == 3
    found = duckdb.sql(f"select sequence_digest from read_parquet({uris})").fetchall()
    assert sorted(row[0] for row in found) == sorted(digest(entry.sequence) for entry in ENTRIES)
    until = datetime.fromisoformat(said.err.split("until ")[1].split(",")[0])
    assert timedelta(days=6.9) < until - datetime.now(UTC) < timedelta(days=7.1)
    output = tmp_path / "lists" / "files.json"
    assert main(["files", "--store", uri, "--version", A.digest, "--json", "--output", str(output)]) == 0
    assert capsys.readouterr().out == f"3 files of features listed in {output}\n"
    listed = json.loads(output.read_text())
    assert [file["uri"] for file in listed["files"]] == uris
    assert datetime.fromisoformat(listed["holds_until"]) - datetime.fromisoformat(listed["listed_at"]) == timedelta(days=7)
    assert main(["files", "--store", uri, "--table", "runs", "--version", A.digest]) == 2
    assert "not apart by version" in capsys.readouterr().err

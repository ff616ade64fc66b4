"""A snapshot as plain Parquet: what a read gives, in files that a manifest lists, for readers that know no Delta."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import duckdb
import polars as pl
import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.parquet as pq
import pytest
from stores import WIDTHS, A, Entry, expected, fill, in_order, rows

from dnafeat import storage
from dnafeat.cli.main import main
from dnafeat.errors import StoreError, UsageError
from dnafeat.store import Store
from dnafeat.store.export import export
from dnafeat.vectors import VECTORS

ENTRIES = [Entry(f"e{i:02d}", "ACGT" * (1 + i % 31), {"subject_id": f"S{i % 5}"}) for i in range(50)]


def output(store_uri: str, tmp_path: Path) -> str:
    return str(tmp_path / "out") if storage.is_local(store_uri) else f"{store_uri}-out"


def manifest(folder: str) -> dict:
    return json.loads(content(storage.join(folder, "_manifest.json")))


def content(uri: str) -> bytes:
    fs, path = storage.filesystem(uri)
    return fs.cat_file(path)


def test_an_export_is_what_a_read_gives_in_files_that_the_manifest_lists(
    store_uri: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dnafeat.store.export._GROUP_ROWS", 8)
    monkeypatch.setattr("dnafeat.store.export._FILE_BYTES", 2500)
    fill(store_uri, ENTRIES, tmp_path, run_id="monday", shard_rows=7)
    store, folder = Store(store_uri), output(store_uri, tmp_path)
    name, _ = store.name("golden", A.digest)
    summary = export(store, folder, version="golden")
    told = manifest(folder)
    assert (told["feature_version"], told["names"], told["store"]) == (A.digest, [name], store.uri)
    assert told["lineage"] == {**A.identity(), **A.names}
    assert told["runs"] == {"cohort": {"run_id": "monday", "run_number": 1}}
    assert told["selection"] == {"version": "golden"}
    assert told["columns"] == {
        **dict.fromkeys(["sequence_id", "source_name", "subject_id"], "string"),
        **{vector: f"list<float>[{WIDTHS[vector]}]" for vector in VECTORS},
    }
    assert len(told["files"]) == 3
    found = []
    for file in told["files"]:
        raw = content(storage.join(folder, file["path"]))
        assert (len(raw), hashlib.sha256(raw).hexdigest()) == (file["size"], file["sha256"])
        table = pq.read_table(pa.BufferReader(raw))
        assert len(table) == file["rows"] > 0
        assert table.nbytes <= 3000
        found += table.to_pylist()
    assert in_order(found) == expected(ENTRIES, ["subject_id"])
    assert (summary.rows, summary.files, summary.bytes) == (50, len(told["files"]), sum(file["size"] for file in told["files"]))
    assert told["rows"] == 50
    assert {one.path for one in storage.listing(folder)} == {"_manifest.json", *(file["path"] for file in told["files"])}


def test_readers_without_delta_find_the_rows_in_the_folder(tmp_path: Path) -> None:
    store, folder = Store(str(tmp_path / "store")), tmp_path / "out"
    fill(store, ENTRIES, tmp_path)
    export(store, str(folder), columns=["mean"], where={"subject_id": ["S1", "S2"]})
    wanted = rows(store.read(columns=["mean"], where={"subject_id": ["S1", "S2"]}))
    assert rows(ds.dataset(folder).to_table()) == wanted
    assert in_order(pl.scan_parquet(folder / "*.parquet").collect().to_dicts()) == wanted
    assert rows(duckdb.sql(f"from '{folder}/*.parquet'").to_arrow_table()) == wanted
    assert manifest(str(folder))["selection"] == {"columns": ["mean"], "where": {"subject_id": ["S1", "S2"]}}


def test_nothing_is_written_beside_something(store_uri: str, tmp_path: Path) -> None:
    fill(store_uri, ENTRIES, tmp_path)
    folder = output(store_uri, tmp_path)
    storage.write_whole(storage.join(folder, "notes", "of-somebody.txt"), lambda file: file.write(b"x"))
    with pytest.raises(UsageError, match=r"is not empty \(it holds notes/of-somebody.txt\)"):
        export(Store(store_uri), folder)
    assert [one.path for one in storage.listing(folder)] == ["notes/of-somebody.txt"]


def test_an_export_that_fails_leaves_nothing(store_uri: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dnafeat.store.export._GROUP_ROWS", 8)
    monkeypatch.setattr("dnafeat.store.export._FILE_BYTES", 1500)
    fill(store_uri, ENTRIES, tmp_path, shard_rows=7)
    store, folder = Store(store_uri), output(store_uri, tmp_path)
    store.features.commit([], removed=store.features.reload().paths()[-1:])
    with pytest.raises(StoreError, match="lacks the vectors"):
        export(store, folder)
    assert list(storage.listing(folder)) == []


def test_an_export_of_nothing_has_the_columns(tmp_path: Path) -> None:
    store = Store(str(tmp_path / "store"))
    fill(store, ENTRIES, tmp_path)
    export(store, str(tmp_path / "out"), where={"subject_id": "nobody"}, columns=["mean"])
    (file,) = manifest(str(tmp_path / "out"))["files"]
    table = pq.read_table(tmp_path / "out" / file["path"])
    assert (len(table), table.column_names) == (0, ["sequence_id", "source_name", "subject_id", "mean"])


def test_the_command_exports_what_it_is_asked_for(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    store, folder = str(tmp_path / "store"), str(tmp_path / "out")
    fill(store, ENTRIES, tmp_path, run_id="monday")
    fill(store, ENTRIES[:2], tmp_path, run_id="tuesday")
    arguments = [
        "export",
        "--store",
        store,
        "--run",
        "monday",
        "--where",
        "subject_id=S1",
        "--columns",
        "max",
        "--output",
        folder,
    ]
    assert main(arguments) == 0
    assert capsys.readouterr().out.startswith(f"10 rows of version {A.digest} in 1 files below {folder} (")
    assert ds.dataset(folder).to_table().column_names == ["sequence_id", "source_name", "subject_id", "max"]
    assert main(arguments) == 2
    assert "is not empty" in capsys.readouterr().err
    assert main([*arguments[:-1], str(tmp_path / "more"), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["rows"] == 10

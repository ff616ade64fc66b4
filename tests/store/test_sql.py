"""Statements for other tools: what they read equals `Store.read`, whatever keys and names are called."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

import duckdb
import polars as pl
import pytest
from stores import A, B, Entry, expected, fill, in_order

from dnafeat.cli.main import main
from dnafeat.errors import StoreError, UsageError
from dnafeat.store import Store, sql

KEYS = ["subject", 'gene\'s "name"']
ENTRIES = [
    Entry("a", "ACGT", {"subject": "s1", KEYS[1]: "x"}),
    Entry("b", "ACGT", {"subject": "s2"}),
    Entry("c", "GGCC"),
]


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    folder = tmp_path_factory.mktemp("sql")
    uri = str(folder / "store")
    fill(uri, [*ENTRIES, Entry("gone", "TTTT")], folder)
    fill(uri, ENTRIES, folder)
    fill(uri, ENTRIES, folder, version=B, source="second")
    Store(uri).point("production", A.digest)
    return Store(uri)


def as_rows(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return in_order([{name: list(value) if isinstance(value, tuple) else value for name, value in row.items()} for row in rows])


def duck_rows(found: Any) -> list[dict[str, Any]]:
    return as_rows([dict(zip(found.columns, row, strict=True)) for row in found.fetchall()])


@pytest.mark.parametrize(
    ("name", "version", "source"), [("tests-1@1", A, "cohort"), ("production", A, "cohort"), ("tests-2@1", B, "second")]
)
def test_duckdb_reads_what_the_store_reads(store: Store, name: str, version: Any, source: str) -> None:
    wanted = expected(ENTRIES, KEYS, version=version, source=source)
    found = store.duckdb().sql(f'select * from "{name}"')
    assert duck_rows(found) == wanted
    assert dict(zip(found.columns, map(str, found.types), strict=True))["mean"] == "FLOAT[4]"


def test_printed_statements_of_duckdb_run(store: Store, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["sql", "--store", store.uri]) == 0
    printed = capsys.readouterr().out
    assert printed.startswith("install delta; load delta;\n")
    connection = duckdb.connect()
    for table in store.tables():
        connection.register(f"held_{table.name}", table.reload().dataset())
        # Stands in for the extension `delta`, which has to be downloaded.
    statements = printed.split(";\n")
    for statement in [one for one in statements if not one.startswith("install")]:
        for table in store.tables():
            statement = statement.replace(f"delta_scan({sql.literal(table.uri)})", f"held_{table.name}")
        statement = statement.removeprefix("load delta").strip().rstrip(";")
        if statement:
            assert "delta_scan" not in statement
            connection.execute(statement.replace("create or replace view", "create or replace temporary view"))
    assert duck_rows(connection.sql("select * from production")) == expected(ENTRIES, KEYS)


def test_polars_reads_what_the_store_reads(store: Store, capsys: pytest.CaptureFixture[str]) -> None:
    assert in_order(store.polars("tests-1@1").collect().to_dicts()) == expected(ENTRIES, KEYS)
    few = store.polars("production", ["mean"])
    assert isinstance(few, pl.LazyFrame)
    assert few.collect().columns == ["sequence_id", "source_name", *KEYS, "mean"]
    assert main(["sql", "--store", store.uri, "--dialect", "polars"]) == 0
    names: dict[str, Any] = {}
    exec(capsys.readouterr().out, names)
    assert set(names["views"]) == {"tests-1@1", "tests-2@1", "production"}
    for name in ("production", "tests-1@1"):
        assert in_order(names["views"][name].collect().to_dicts()) == expected(ENTRIES, KEYS)


def test_a_channel_is_looked_up_when_it_is_read(store: Store, tmp_path: Path) -> None:
    uri = str(tmp_path / "store")
    fill(uri, ENTRIES, tmp_path)
    fill(uri, ENTRIES[:2], tmp_path, version=B)
    own = Store(uri)
    own.point("live", A.digest)
    view = next(one for one in sql.statements(own, "duckdb") if "view live" in one)
    own.point("live", B.digest)
    connection = own.duckdb()
    connection.execute(view.replace("view live", "temporary view live", 1))
    assert connection.sql("select count(*) from live").fetchall() == [(2,)]


def test_a_version_with_a_parent_has_its_vectors(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    # No row of the version itself is null here, so that what is joined must change nothing.
    history = store.history()
    monkeypatch.setattr(type(history), "parent", lambda self, version: B.digest if version == A.digest else None)
    assert duck_rows(store.duckdb().sql('select * from "tests-1@1"')) == expected(ENTRIES, KEYS)
    assert in_order(store.polars("tests-1@1").collect().to_dicts()) == expected(ENTRIES, KEYS)


def test_spark_gets_its_own_quotes(store: Store) -> None:
    statements = sql.statements(store, "spark")
    assert statements[0].startswith("create or replace temporary view versions as select * from delta.`")
    assert any("view `tests-1@1` as" in one and '`gene\'s "name"`' in one for one in statements)


def test_paths_and_names_are_quoted() -> None:
    assert sql.literal("/data/the store's") == "'/data/the store''s'"
    assert [sql.identifier('a "b"', one) for one in ("duckdb", "spark")] == ['"a ""b"""', '`a "b"`']
    assert sql.identifier("gene_id", "duckdb") == "gene_id"


def test_wrong_requests_are_told(store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UsageError, match="duckdb, polars, spark"):
        sql.statements(store, "oracle")
    with pytest.raises(UsageError, match="ask for its parts"):
        store.polars(columns=["cls+mean"])
    empty = Store(str(tmp_path / "empty"))
    empty.create()
    with pytest.raises(StoreError, match="no run has been published"):
        sql.statements(empty, "duckdb")
    real = importlib.import_module
    absent = ModuleNotFoundError("No module named 'duckdb'")

    def without(name: str, package: str | None = None) -> Any:
        if name == "duckdb":
            raise absent
        return real(name, package)

    monkeypatch.setattr(importlib, "import_module", without)
    with pytest.raises(UsageError, match="pip install duckdb"):
        store.duckdb()

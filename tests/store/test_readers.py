"""The readers of people who never install dnafeat, on the local disk and on S3: each must find what `Store.read` finds."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import duckdb
import pandas as pd
import polars as pl
import pyarrow as pa
import pyarrow.dataset as ds
import pytest
from deltalake import DeltaTable, QueryBuilder
from s3 import S3
from stores import A, B, Entry, bases, digest, fill, vectors

OLD = [Entry(f"id{i}", "ACGT" * (i + 1), {"subject": f"s{i}"}) for i in range(8)]
# Some closed for good, some changed, one that comes back, one new; in files that hold open rows of both sources as well.
NEW = [OLD[0], OLD[1]._replace(sequence="GGCC"), OLD[2]._replace(keys={"subject": "other"}), *OLD[5:], Entry("new", "TTTT")]
OTHER = [Entry("id0", "CCCC", {"subject": "s9"}), Entry("id3", "ACGT")]


@pytest.fixture(scope="module", params=["local", "s3"])
def store(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Runs 1 to 4: the source's old state, the other source, an older version, the source's new state."""
    folder = tmp_path_factory.mktemp("readers")
    server: S3 | None = request.getfixturevalue("s3_server") if request.param == "s3" else None
    with server.found() if server else contextlib.nullcontext():
        uri = server.uri() if server else str(folder / "store")
        fill(uri, OLD, folder, source="cohort", shard_rows=3)
        fill(uri, OTHER, folder, source="other")
        fill(uri, OLD, folder, source="cohort", version=B)
        fill(uri, NEW, folder, source="cohort")
        yield uri


def options(uri: str) -> dict[str, str]:
    """What the README tells readers to pass for a server that speaks plain HTTP; the rest is in the environment."""
    return {"AWS_ALLOW_HTTP": "true"} if uri.startswith("s3://") else {}


def delta(store: str, name: str) -> DeltaTable:
    return DeltaTable(f"{store}/{name}", storage_options=options(store))


def by_polars(store: str, source: str, version: str) -> pd.DataFrame:
    sequences = pl.read_delta(f"{store}/sequences", storage_options=options(store))
    features = pl.read_delta(f"{store}/features", storage_options=options(store))
    entries = sequences.filter((pl.col("source_name") == source) & pl.col("until_run").is_null())
    return entries.join(features.filter(pl.col("feature_version") == version), on="sequence_digest").to_pandas()


def by_lazy_polars(store: str, source: str, version: str) -> pd.DataFrame:
    sequences = pl.scan_delta(f"{store}/sequences", storage_options=options(store))
    features = pl.scan_delta(f"{store}/features", storage_options=options(store))
    entries = sequences.filter((pl.col("source_name") == source) & pl.col("until_run").is_null())
    return entries.join(features.filter(pl.col("feature_version") == version), on="sequence_digest").collect().to_pandas()


def by_pandas(store: str, source: str, version: str) -> pd.DataFrame:
    sequences, features = delta(store, "sequences").to_pandas(), delta(store, "features").to_pandas()
    entries = sequences[(sequences["source_name"] == source) & sequences["until_run"].isna()]
    return entries.merge(features[features["feature_version"] == version], on="sequence_digest")


def by_filtered_pandas(store: str, source: str, version: str) -> pd.DataFrame:
    features = delta(store, "features").to_pandas(filters=[("feature_version", "=", version)])
    sequences = delta(store, "sequences").to_pandas(filters=[("source_name", "=", source)])
    return sequences[sequences["until_run"].isna()].merge(features, on="sequence_digest")


def by_pyarrow(store: str, source: str, version: str) -> pd.DataFrame:
    where = (ds.field("source_name") == source) & ds.field("until_run").is_null()
    sequences = delta(store, "sequences").to_pyarrow_dataset().to_table(filter=where)
    features = delta(store, "features").to_pyarrow_dataset().to_table(filter=ds.field("feature_version") == version)
    return sequences.to_pandas().merge(features.to_pandas(), on="sequence_digest")


SQL = """
    select sequence_id, subject, from_run, sequences.sequence_digest as sequence_digest, cls, mean, max, projected, bases
    from sequences join features on sequences.sequence_digest = features.sequence_digest
    where source_name = '{source}' and until_run is null and feature_version = '{version}'
"""


def by_duckdb(store: str, source: str, version: str) -> pd.DataFrame:
    with duckdb.connect() as connection:
        for name in ("sequences", "features"):
            connection.register(name, delta(store, name).to_pyarrow_dataset())
        return connection.sql(SQL.format(source=source, version=version)).df()


def by_datafusion(store: str, source: str, version: str) -> pd.DataFrame:
    query = QueryBuilder()
    for name in ("sequences", "features"):
        query.register(name, delta(store, name))
    return pa.table(query.execute(SQL.format(source=source, version=version)).read_all()).to_pandas()


READERS = [by_polars, by_lazy_polars, by_pandas, by_filtered_pandas, by_pyarrow, by_duckdb, by_datafusion]


def plain(value: Any) -> Any:
    """A cell of any library as Python values."""
    if hasattr(value, "tolist"):
        value = value.tolist()
    return None if not isinstance(value, list) and pd.isna(value) else value


def check(found: pd.DataFrame, entries: list[Entry], version: Any) -> None:
    names = ["sequence_id", "subject", "sequence_digest", "cls", "mean", "max", "projected", "bases"]
    rows = {row["sequence_id"]: {name: plain(row[name]) for name in names} for row in found.to_dict("records")}
    assert len(found) == len(rows)
    wanted = {}
    for entry in entries:
        name = digest(entry.sequence)
        own = {"sequence_id": entry.id, "subject": entry.keys.get("subject"), "sequence_digest": name, "bases": bases(name)}
        wanted[entry.id] = {**own, **vectors(name, version)}
    assert rows == wanted


def test_every_reader_finds_the_open_entries_and_their_vectors(store: str) -> None:
    for reader in READERS:
        check(reader(store, "cohort", A.digest), NEW, A)
        check(reader(store, "other", A.digest), OTHER, A)
        assert len(reader(store, "cohort", "never filled")) == 0, reader


HISTORY = "source_name = 'cohort' and from_run <= {run} and (until_run is null or until_run > {run})"


def history_by_polars(store: str, run: int) -> list[str]:
    where = (pl.col("source_name") == "cohort") & (pl.col("from_run") <= run)
    where &= pl.col("until_run").is_null() | (pl.col("until_run") > run)
    found = pl.scan_delta(f"{store}/sequences", storage_options=options(store)).filter(where).collect()
    return found["sequence_digest"].to_list()


def history_by_pandas(store: str, run: int) -> list[str]:
    table = delta(store, "sequences").to_pandas()
    mask = (table["source_name"] == "cohort") & (table["from_run"] <= run)
    return table[mask & (table["until_run"].isna() | (table["until_run"] > run))]["sequence_digest"].tolist()


def history_by_duckdb(store: str, run: int) -> list[str]:
    with duckdb.connect() as connection:
        connection.register("sequences", delta(store, "sequences").to_pyarrow_dataset())
        return [
            row[0] for row in connection.sql(f"select sequence_digest from sequences where {HISTORY.format(run=run)}").fetchall()
        ]


def test_every_reader_finds_a_source_as_of_a_run(store: str) -> None:
    for run, entries in ((0, []), (1, OLD), (2, OLD), (3, OLD), (4, NEW), (5, NEW)):
        wanted = sorted(digest(entry.sequence) for entry in entries)
        for reader in (history_by_polars, history_by_pandas, history_by_duckdb):
            assert sorted(reader(store, run)) == wanted, (reader, run)


def test_every_reader_finds_the_open_rows_in_files_that_hold_closed_ones(store: str) -> None:
    files = delta(store, "sequences").to_pyarrow_dataset().get_fragments()
    columns = [file.to_table(columns=["until_run"])["until_run"] for file in files]
    assert any(0 < column.null_count < len(column) for column in columns), "no file holds open and closed rows"
    wanted = sorted([entry.id for entry in NEW] + [entry.id for entry in OTHER])
    table = delta(store, "sequences")
    is_open = pl.col("until_run").is_null()
    uri, to_s3 = f"{store}/sequences", options(store)
    found = {
        "polars": pl.read_delta(uri, storage_options=to_s3).filter(is_open)["sequence_id"].to_list(),
        "lazy polars": pl.scan_delta(uri, storage_options=to_s3).filter(is_open).collect()["sequence_id"].to_list(),
        "pyarrow": table.to_pyarrow_dataset().to_table(filter=ds.field("until_run").is_null())["sequence_id"].to_pylist(),
        "pandas": table.to_pandas()[lambda rows: rows["until_run"].isna()]["sequence_id"].tolist(),
    }
    with duckdb.connect() as connection:
        connection.register("sequences", table.to_pyarrow_dataset())
        rows = connection.sql("select sequence_id from sequences where until_run is null").fetchall()
        closed = connection.sql("select sequence_id from sequences where until_run is not null").fetchall()
    found["duckdb"] = [row[0] for row in rows]
    query = QueryBuilder().register("sequences", table).execute("select sequence_id from sequences where until_run is null")
    found["datafusion"] = pa.table(query.read_all())["sequence_id"].to_pylist()
    assert {name: sorted(ids) for name, ids in found.items()} == dict.fromkeys(found, wanted)
    assert sorted(row[0] for row in closed) == ["id1", "id2", "id3", "id4"]


def test_vectors_have_one_type_for_every_reader(store: str) -> None:
    schema = pl.scan_delta(f"{store}/features", storage_options=options(store)).collect_schema()
    with duckdb.connect() as connection:
        connection.register("features", delta(store, "features").to_pyarrow_dataset())
        types = dict(connection.sql("select column_name, column_type from (describe features)").fetchall())
    for name in ("cls", "mean", "max", "projected"):
        assert schema[name] == pl.List(pl.Float32)
        assert types[name] == "FLOAT[]"
    assert types["feature_version"] == "VARCHAR"

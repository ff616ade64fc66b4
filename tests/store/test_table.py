"""One Delta table: created once, commits from its snapshot alone, ids that outlive a checkpoint, files and logs as promised."""

from __future__ import annotations

import json
import threading
import urllib.parse
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from deltalake import CommitProperties, DeltaTable, Field
from deltalake.schema import PrimitiveType
from s3 import S3
from stores import A, B, Entry, Run, digest, feature_rows, fill, vectors

from dnafeat import parquet, storage
from dnafeat.errors import StoreError, UsageError
from dnafeat.store import Store
from dnafeat.store.data_file import DataFile
from dnafeat.store.maintain import maintain
from dnafeat.store.replaced import ReplacedTable
from dnafeat.store.schema import TABLES, arrow_schema
from dnafeat.store.table import Refused, Table

VERSION = A.digest
OWN = {"feature_version": VERSION}


def made(store_uri: str, name: str) -> Table:
    table = Table(store_uri, name)
    table.create()
    return table


def sequence_rows(*ids: str, source: str = "cohort", until: int | None = None, **keys: str) -> pa.Table:
    row = {"source_name": source, "sequence_digest": digest("ACGT"), "from_run": 1, "until_run": until, **keys}
    schema = pa.schema([*arrow_schema("sequences"), *((key, pa.string()) for key in keys)])
    return pa.Table.from_pylist([{**row, "sequence_id": one} for one in ids], schema=schema)


def ids(table: Table) -> list[str]:
    return sorted(table.reload().dataset().to_table()["sequence_id"].to_pylist())


def log_files(uri: str, ending: str) -> list[bytes]:
    fs, path = storage.filesystem(storage.join(uri, "_delta_log"))
    return [fs.cat_file(one) for one in sorted(fs.find(path)) if one.endswith(ending)]


# creation


@pytest.mark.parametrize("name", TABLES)
def test_making_a_table_again_changes_nothing(store_uri: str, name: str) -> None:
    table = Table(store_uri, name)
    assert not table.exists()
    table.create()
    assert table.exists()
    Table(store_uri, name).create()
    assert table.reload().version() == 0
    assert table.schema() == arrow_schema(name)
    assert table.dataset().count_rows() == 0


@pytest.mark.parametrize("attempt", range(3))
def test_a_table_made_by_many_at_once_is_made_once(store_uri: str, attempt: int) -> None:
    together = threading.Barrier(6)

    def make(_: int) -> str:
        table = Table(store_uri, "features")
        together.wait()
        table.create()
        return str(table.snapshot.metadata().id)

    with ThreadPoolExecutor(6) as pool:
        made_ids = set(pool.map(make, range(6)))
    # A second creation that is rebased onto the first would take away the columns that were added meanwhile.
    assert len(made_ids) == 1
    assert Table(store_uri, "features").version() == 0


def test_a_place_without_a_table_says_how_to_fill_one(store_uri: str) -> None:
    with pytest.raises(StoreError, match=r"there is no store at .*: fill one with") as error:
        Table(store_uri, "runs").version()
    assert "\n" not in str(error.value)
    assert store_uri + ":" in str(error.value)


# commits


def test_what_is_written_is_seen_only_when_it_is_committed(store_uri: str) -> None:
    table = made(store_uri, "sequences")
    file = table.write(sequence_rows("a", "b"), stem="run-1")
    assert ids(table) == []
    assert storage.size(storage.join(table.uri, file.path)) == file.size
    table.commit([file])
    assert ids(table) == ["a", "b"]
    assert ids(Table(store_uri, "sequences")) == ["a", "b"]


def test_a_commit_from_a_stale_snapshot_is_refused_and_doubles_nothing(store_uri: str) -> None:
    one, other = made(store_uri, "sequences"), Table(store_uri, "sequences")
    assert other.version() == 0
    one.commit([one.write(sequence_rows("a"), stem="one")])
    late = other.write(sequence_rows("a", "b"), stem="other")
    for _ in range(2):
        with pytest.raises(Refused):
            other.commit([late])
    assert ids(one) == ["a"]
    other.reload().commit([late])
    assert ids(one) == ["a", "a", "b"]


def test_files_are_replaced_in_one_commit(store_uri: str) -> None:
    table = made(store_uri, "sequences")
    table.commit([table.write(sequence_rows("a"), stem="x"), table.write(sequence_rows("b"), stem="x")])
    paths = {path: table.read_file(path)["sequence_id"].to_pylist() for path in table.paths()}
    (old,) = [path for path, names in paths.items() if names == ["a"]]
    before = table.version()
    table.commit([table.write(sequence_rows("c"), stem="x")], removed=[old])
    assert ids(table) == ["b", "c"]
    assert table.version() == before + 1
    assert old not in table.paths()
    assert len(table.paths()) == 2


def test_a_stale_replacement_is_refused_and_doubles_nothing(store_uri: str) -> None:
    table = made(store_uri, "sequences")
    table.commit([table.write(sequence_rows("a", "b"), stem="x")])
    (old,) = table.paths()
    slow = Table(store_uri, "sequences")
    assert slow.paths() == [old]
    table.commit([table.write(sequence_rows("a", "b", until=2), stem="x")], removed=[old])
    with pytest.raises(Refused):
        slow.commit([slow.write(sequence_rows("a", "b", until=3), stem="x")], removed=[old])
    assert ids(table) == ["a", "b"]


def test_of_many_commits_from_one_snapshot_one_goes_through(store_uri: str) -> None:
    made(store_uri, "sequences")
    together = threading.Barrier(6)

    def commit(number: int) -> bool:
        table = Table(store_uri, "sequences")
        file = table.write(sequence_rows(str(number)), stem="x")
        assert table.version() == 0
        together.wait()
        try:
            table.commit([file])
        except Refused:
            return False
        return True

    with ThreadPoolExecutor(6) as pool:
        through = list(pool.map(commit, range(6)))
    assert sum(through) == 1
    assert ids(Table(store_uri, "sequences")) == [str(through.index(True))]


def test_transaction_ids_are_read_back_after_a_reload_and_a_checkpoint(store_uri: str) -> None:
    table = made(store_uri, "sequences")
    assert table.transaction("run/1") is None
    table.commit([table.write(sequence_rows("a"), stem="x")], transactions={"run/1": 7, "number": 1})
    table.commit([table.write(sequence_rows("b"), stem="x")], transactions={"run/2": 8, "number": 2})
    wanted = {"run/1": 7, "run/2": 8, "number": 2, "run/3": None}
    assert {app: table.transaction(app) for app in wanted} == wanted
    assert {app: Table(store_uri, "sequences").transaction(app) for app in wanted} == wanted
    table.reload().snapshot.create_checkpoint()
    assert log_files(table.uri, ".checkpoint.parquet")
    assert {app: table.reload().transaction(app) for app in wanted} == wanted
    table.commit([table.write(sequence_rows("c"), stem="x")])
    assert {app: table.reload().transaction(app) for app in wanted} == wanted


def test_a_refused_commit_leaves_no_transaction_id(store_uri: str) -> None:
    one, other = made(store_uri, "sequences"), Table(store_uri, "sequences")
    assert other.version() == 0
    one.commit([one.write(sequence_rows("a"), stem="x")])
    with pytest.raises(Refused):
        other.commit([other.write(sequence_rows("b"), stem="x")], transactions={"run": 1})
    assert other.reload().transaction("run") is None


def test_a_file_under_any_run_id_can_be_read_and_has_a_relative_path(store_uri: str) -> None:
    table = made(store_uri, "sequences")
    stems = ["2026-01-01T00:00:00", "T:1", "naïve.run", "x" * 128]
    for stem in stems:
        table.commit([table.write(sequence_rows(stem), stem=stem)])
    assert ids(table) == sorted(stems)
    assert sorted(table.read_file(path)["sequence_id"][0].as_py() for path in table.paths()) == sorted(stems)
    paths = [
        json.loads(line)["add"]["path"] for log in log_files(table.uri, ".json") for line in log.splitlines() if b'"add"' in line
    ]
    assert len(paths) == len(stems)
    # Delta's paths are URIs: Spark takes `T:1-….parquet` for an address with the protocol T.
    assert [path for path in paths if urllib.parse.urlsplit(path).scheme] == []


ODD = ["my store", "a#b", "ü", "a+b", "50%", "a?b", "[x]", "a=b", "a::b", "a*b", "%zz"]
MISREAD = ["a%20b", "a%25b", "a%2Fb", "a\\b", "a\nb"]


@pytest.mark.parametrize("folder", ODD)
def test_a_folder_may_have_any_name(tmp_path: Path, folder: str) -> None:
    check_place(str(tmp_path / folder))


@pytest.mark.parametrize("folder", ODD)
def test_a_prefix_on_s3_may_have_any_name(s3: S3, folder: str) -> None:
    uri = s3.uri(folder)
    check_place(uri)
    storage.check_writable(uri)
    assert abs(storage.clock(uri) - datetime.now(UTC)) < timedelta(minutes=1)
    found = {path.removeprefix(uri[len("s3://") :]) for path in s3.client().find(uri[5:].rpartition("/")[0])}
    assert {path.split("/")[1] for path in found} == {"sequences"}, "in this place and in no other"
    storage.remove_folder(uri)
    assert list(storage.listing(uri)) == []
    # Some servers go on listing the prefixes of what was there.
    Store(uri).create()
    assert Store(uri).exists()


@pytest.mark.parametrize("folder", MISREAD)
@pytest.mark.parametrize("part", ["{}", "{}/store"])
def test_a_place_that_delta_readers_take_for_another_is_refused_before_anything_is_written(
    tmp_path: Path, folder: str, part: str
) -> None:
    uri = str(tmp_path / part.format(folder))
    for call in (Store(uri).create, Store(uri).exists, Store(uri).read, lambda: maintain(Store(uri)), ReplacedTable(uri).look):
        with pytest.raises(UsageError) as error:
            call()
        assert "cannot name a store" in str(error.value)
        assert "\n" not in str(error.value)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "uri", ["s3://bucket/a%20b", "s3://bucket/a\\b", "s3://bucket//a", "s3://bucket/a/../b", "s3://bucket/./a"]
)
def test_a_prefix_that_delta_readers_take_for_another_is_refused(uri: str) -> None:
    with pytest.raises(UsageError, match="cannot name a store"):
        Store(uri).create()


def test_two_stores_whose_names_decode_alike_never_share_a_log(tmp_path: Path) -> None:
    fill(str(tmp_path / "p q"), [Entry("a", "ACGT")], tmp_path)
    before = sorted(one.path for one in storage.listing(str(tmp_path / "p q")))
    with pytest.raises(UsageError):
        fill(str(tmp_path / "p%20q"), [Entry("b", "GGGG")], tmp_path)
    assert not (tmp_path / "p%20q").exists()
    assert sorted(one.path for one in storage.listing(str(tmp_path / "p q"))) == before


def check_place(store: str) -> None:
    table = made(store, "sequences")
    table.commit([table.write(sequence_rows("a"), stem="x")])
    (path,) = table.paths()
    assert table.read_file(path)["sequence_id"].to_pylist() == ["a"]
    table.commit([table.write(sequence_rows("b"), stem="x")], removed=[path])
    assert ids(table) == ["b"]


# columns


def test_string_columns_are_added_once(store_uri: str) -> None:
    table = made(store_uri, "sequences")
    table.commit([table.write(sequence_rows("a"), stem="x")])
    table.add_string_columns(["subject", "gene"])
    version = table.version()
    table.add_string_columns(["gene", "subject"])
    table.add_string_columns([])
    assert table.reload().version() == version
    assert table.schema().names == [*arrow_schema("sequences").names, "subject", "gene"]
    assert [table.schema().field(name) for name in ("subject", "gene")] == [pa.field(n, pa.string()) for n in ("subject", "gene")]
    table.add_string_columns(["subject", "haplotype"])
    assert table.schema().names[-1] == "haplotype"
    (path,) = table.paths()
    old = table.read_file(path)
    assert old.schema == table.schema()
    assert old.select(["sequence_id", "subject", "haplotype"]).to_pylist() == [
        {"sequence_id": "a", "subject": None, "haplotype": None}
    ]


def test_names_of_columns_may_come_from_an_iterator(tmp_path: Path) -> None:
    table = made(str(tmp_path), "sequences")
    table.add_string_columns(iter(["subject", "haplotype"]))
    assert table.schema().names[-2:] == ["subject", "haplotype"]


def test_a_column_of_another_type_is_refused_before_any_is_added(store_uri: str) -> None:
    table = made(store_uri, "sequences")
    table.snapshot.alter.add_columns([Field("age", PrimitiveType("long"))], commit_properties=CommitProperties())
    table.reload()
    with pytest.raises(StoreError, match=r"'age' .* int64 and not a string") as error:
        table.add_string_columns(["subject", "age"])
    assert "\n" not in str(error.value)
    assert "subject" not in table.reload().schema().names


def test_a_column_that_differs_in_case_alone_is_refused_in_one_sentence(store_uri: str) -> None:
    table = made(store_uri, "sequences")
    table.add_string_columns(["subject"])
    with pytest.raises(StoreError, match=r"Subject") as error:
        table.add_string_columns(["Subject"])
    assert "\n" not in str(error.value)
    assert "'subject'" in str(error.value)


def test_columns_added_from_a_stale_snapshot_are_refused_and_can_be_added_again(store_uri: str) -> None:
    one, other = made(store_uri, "sequences"), Table(store_uri, "sequences")
    assert other.version() == 0
    one.add_string_columns(["subject"])
    with pytest.raises(Refused):
        other.add_string_columns(["subject", "gene"])
    other.reload().add_string_columns(["subject", "gene"])
    assert one.reload().schema().names[-2:] == ["subject", "gene"]


# files and logs


def metadata(table: Table, file: DataFile) -> pq.FileMetaData:
    with storage.open_input(storage.join(table.uri, file.path)) as opened:
        return pq.ParquetFile(opened).metadata


def chunks(found: pq.FileMetaData, column: str) -> list[pq.ColumnChunkMetaData]:
    groups = [found.row_group(i) for i in range(found.num_row_groups)]
    return [g.column(i) for g in groups for i in range(g.num_columns) if g.column(i).path_in_schema.split(".")[0] == column]


def test_vector_files_are_in_the_encoding_that_every_reader_reads(store_uri: str) -> None:
    table = made(store_uri, "features")
    names = sorted(digest("ACGT" * n) for n in range(1, 200))
    file = table.write(feature_rows(names), stem="run-00001", partition=OWN)
    found = metadata(table, file)
    assert found.metadata is None or b"ARROW:schema" not in found.metadata
    assert file.path.startswith(f"features/feature_version={VERSION}/run-00001-".removeprefix("features/"))
    assert "feature_version" not in found.schema.to_arrow_schema().names
    assert found.num_rows == file.rows == 199
    for name in vectors("x"):
        for chunk in chunks(found, name):
            assert chunk.physical_type == "FLOAT"
            assert "PLAIN" in chunk.encodings
            assert not {"PLAIN_DICTIONARY", "RLE_DICTIONARY", "BYTE_STREAM_SPLIT"} & set(chunk.encodings)
            assert chunk.compression == "ZSTD"
            assert not chunk.is_stats_set
    for chunk in chunks(found, "sequence_digest"):
        assert chunk.is_stats_set
        assert not {"PLAIN_DICTIONARY", "RLE_DICTIONARY"} & set(chunk.encodings)


def test_a_file_never_has_a_name_twice(store_uri: str) -> None:
    table = made(store_uri, "features")
    rows = feature_rows([digest("ACGT")])
    assert len({table.write(rows, stem="run-00001", partition=OWN).path for _ in range(3)}) == 3


def test_a_data_file_says_what_is_in_it(tmp_path: Path) -> None:
    features, sequences = made(str(tmp_path), "features"), made(str(tmp_path), "sequences")
    names = sorted(digest("ACGT" * n) for n in range(1, 9))
    file = features.write(feature_rows(names), stem="x", partition=OWN)
    assert (file.rows, file.minimum, file.maximum) == (8, {"sequence_digest": names[0]}, {"sequence_digest": names[-1]})
    assert (dict(file.nulls), dict(file.partition)) == ({"sequence_digest": 0}, OWN)
    rows = pa.concat_tables([sequence_rows("a", source="z", until=4), sequence_rows("b", source="b")])
    file = sequences.write(rows, stem="x")
    assert file.minimum["source_name"] == "b"
    assert file.maximum["source_name"] == "z"
    assert not {"sequence_id", "sequence_digest", "subject", "until_run"} & {*file.minimum, *file.maximum, *file.nulls}


SECRETS = ["subject-4711", "patient-0815", "letters-of-a-refused-entry", "refused-0007"]


def check_log(uri: str, *, stats: bool) -> None:
    """No secret anywhere in a table's log, and none of a secret column in its statistics."""
    for log in log_files(uri, ".json"):
        assert not [secret for secret in SECRETS if secret.encode() in log], uri
        for line in log.splitlines():
            action = json.loads(line).get("add")
            if action and stats:
                found = json.loads(action["stats"])
                assert found["numRecords"] > 0
                columns = {*found["minValues"], *found["maxValues"], *found["nullCount"]}
                assert not columns & {"sequence_id", "subject", "text", "reason", "file"}
    for log in log_files(uri, ".parquet"):
        text = str(pq.read_table(pa.BufferReader(log)).to_pylist())
        assert not [secret for secret in SECRETS if secret in text], uri


def test_no_personal_column_is_in_the_log_after_runs_changes_and_a_checkpoint(store_uri: str, tmp_path: Path) -> None:
    entries = [Entry("patient-0815", "ACGT", {"subject": "subject-4711"}), Entry("refused-0007", "letters-of-a-refused-entry")]
    fill(store_uri, entries, tmp_path)
    run = fill(store_uri, [entries[0]._replace(sequence="GGGG"), entries[1]], tmp_path)
    assert (run.opened, run.closed, run.intake.rejects.rows) == (1, 1, 1)
    for name in TABLES:
        table = Table(store_uri, name)
        check_log(table.uri, stats=True)
        table.snapshot.create_checkpoint()
        assert log_files(table.uri, ".checkpoint.parquet")
        check_log(table.uri, stats=True)


def test_another_tool_that_rewrites_a_table_leaves_no_personal_column_in_the_log(tmp_path: Path) -> None:
    store = str(tmp_path / "store")
    for one in ("ACGT", "GGGG"):
        fill(store, [Entry("patient-0815", one, {"subject": "subject-4711"}), Entry("refused-0007", "!")], tmp_path)
    for name in ("sequences", "rejects"):
        table = DeltaTable(f"{store}/{name}")
        assert table.optimize.compact()["numFilesRemoved"] > 0
        check_log(f"{store}/{name}", stats=False)


def test_files_that_cannot_hold_a_row_are_left_out(store_uri: str) -> None:
    features, sequences = made(store_uri, "features"), made(store_uri, "sequences")
    names = sorted(digest("ACGT" * n) for n in range(1, 7))
    low, high = (features.write(feature_rows(half), stem="x", partition=OWN) for half in (names[:3], names[3:]))
    features.commit([low, high])
    assert features.paths([("feature_version", "=", VERSION), ("sequence_digest", ">=", names[4])]) == [high.path]
    assert features.paths([("feature_version", "=", VERSION), ("sequence_digest", "<=", names[1])]) == [low.path]
    assert features.paths([("feature_version", "=", "other")]) == []
    assert sorted(features.paths()) == sorted([low.path, high.path])
    one, two = (sequences.write(sequence_rows("a", source=source), stem="x") for source in ('o\'brien "s"', "z" * 70))
    sequences.commit([one, two])
    assert sequences.paths([("source_name", "=", 'o\'brien "s"')]) == [one.path]
    assert sequences.paths([("source_name", "=", "z" * 70)]) == [two.path]
    assert len(sequences.paths([("source_name", "=", "z" * 69)])) <= 1


def test_a_run_that_is_never_committed_leaves_the_tables_as_they_were(store_uri: str, tmp_path: Path) -> None:
    run = Run(store_uri, [Entry("a", "ACGT")], tmp_path).encode()
    assert len(run.files) == 1
    for name in TABLES:
        assert Table(store_uri, name).version() == 0
        assert Table(store_uri, name).dataset().count_rows() == 0


# pages


def test_pages_are_those_of_row_groups_that_can_hold_what_is_wanted(store_uri: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(vars(parquet.DISTINCT), "row_group", 4)
    table = made(store_uri, "features")
    names = [f"SQ.{i:032d}" for i in range(20)]
    files = [
        table.write(feature_rows(some, version), stem="run", partition={"feature_version": version.digest})
        for some, version in ((names[:10], A), (names[10:], A), (names, B))
    ]
    table.commit(files)

    def found(rows: int, *pruned_by: tuple[str, str, str]) -> list[str]:
        batches = list(table.pages(["sequence_digest", "mean"], [("feature_version", "=", VERSION), *pruned_by], rows))
        assert all(0 < len(batch) <= rows for batch in batches)
        for batch in batches:
            assert batch["mean"].to_pylist() == [vectors(one)["mean"] for one in batch["sequence_digest"].to_pylist()]
        return sorted(one for batch in batches for one in batch["sequence_digest"].to_pylist())

    assert found(3) == names
    # Row groups of four: 4 to 7 of the first file, and of the second the one that begins it.
    assert found(100, ("sequence_digest", ">=", names[5]), ("sequence_digest", "<=", names[7])) == names[4:8]
    assert found(100, ("sequence_digest", ">=", names[9]), ("sequence_digest", "<=", names[11])) == names[8:14]
    assert found(100, ("sequence_digest", ">=", "SQ.z")) == []
    storage.remove(storage.join(table.uri, files[0].path))
    with pytest.raises(StoreError, match="cannot be read"):
        found(3)

"""A loss of power and a wrong clock: what is on the disk before what, damaged logs that are refused, and ages by the storage's clock."""

from __future__ import annotations

import os
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from deltalake import DeltaTable
from places import local_first
from stores import A, Entry, Run, copied, digest, expected, feature_rows, fill, refused, rows

from dnafeat import storage
from dnafeat.errors import StoreError
from dnafeat.store import Store, delta_log, merge, vacuum
from dnafeat.store.forget import forget
from dnafeat.store.maintain import maintain
from dnafeat.store.rollback import rollback
from dnafeat.store.table import Table

FIRST = [Entry("a", "ACGT", {"subject": "S1"}), Entry("b", "GGCC", {"subject": "S2"})]
SECOND = [*FIRST, Entry("c", "TTTT", {"subject": "S3"})]
DAYS = 86_400


def entry(uri: str, table: str, version: int | None = None) -> Path:
    """An entry of a table's log, or the newest."""
    number = Table(uri, table).version() if version is None else version
    return Path(uri, table, "_delta_log", f"{number:020}.json")


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A store with two runs."""
    folder = tmp_path_factory.mktemp("made")
    uri = str(folder / "store")
    fill(uri, FIRST, folder, run_id="first")
    fill(uri, SECOND, folder, run_id="second")
    return uri


@pytest.fixture
def uri(made: str, tmp_path: Path) -> str:
    return copied(made, str(tmp_path / "store"))


# order on the disk


@pytest.fixture
def flushed(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, set[str]]]:
    """What was flushed, in order, each with the entries of logs that were there then."""
    seen: list[tuple[str, set[str]]] = []
    flush = os.fsync

    def record(number: int) -> None:
        path = Path(f"/proc/self/fd/{number}").readlink()
        tables = [parent for parent in path.parents if (parent / "_delta_log").is_dir()]
        seen.append((str(path), {one.name for one in (tables[0] / "_delta_log").iterdir()} if tables else set()))
        flush(number)

    monkeypatch.setattr(os, "fsync", record)
    return seen


def test_a_file_and_its_folders_are_on_the_disk_before_the_entry_that_names_it(
    tmp_path: Path, flushed: list[tuple[str, set[str]]]
) -> None:
    table = Table(str(tmp_path), "features")
    table.create()
    log, partition = f"{table.uri}/_delta_log", f"{table.uri}/feature_version={A.digest}"
    assert {log, table.uri, str(tmp_path), f"{log}/{0:020}.json"} <= {path for path, _ in flushed}
    file = table.write(feature_rows([digest("ACGT")]), stem="x", partition={"feature_version": A.digest})
    flushed.clear()
    table.commit([file])
    before = {path for path, entries in flushed if f"{1:020}.json" not in entries}
    after = {path for path, entries in flushed} - before
    # The folder's own entry is that of the table's folder.
    assert {f"{table.uri}/{file.path}", partition, f"{log}/{0:020}.json"} <= before
    assert f"{log}/{1:020}.json" in after
    assert [path for path, entries in flushed if f"{1:020}.json" in entries][:2] == [f"{log}/{1:020}.json", log]


def test_columns_and_lost_replies_are_on_the_disk_too(tmp_path: Path, flushed: list[tuple[str, set[str]]]) -> None:
    table = Table(str(tmp_path), "sequences")
    table.create()
    flushed.clear()
    table.add_string_columns(["subject"])
    assert f"{table.uri}/_delta_log/{1:020}.json" in {path for path, _ in flushed}
    table.commit([], transactions={"once": 3})
    flushed.clear()
    assert table.settle("once", lambda: pytest.fail("it is there")) == 3
    assert f"{table.uri}/_delta_log/{2:020}.json" in {path for path, _ in flushed}


def test_a_checkpoint_is_on_the_disk_with_its_entry(
    uri: str, flushed: list[tuple[str, set[str]]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(vacuum, "_LOG_FILES", 1)
    assert maintain(Store(uri)).checkpoints > 0
    names = {storage.name(path) for path, _ in flushed}
    assert "_last_checkpoint" in names
    assert any(name.endswith(".checkpoint.parquet") for name in names)


# damaged logs


@pytest.mark.parametrize("table", ["sequences", "features", "versions", "runs"])
@pytest.mark.parametrize("how", ["empty", "half", "a line less", "zeros"])
def test_an_entry_that_is_empty_or_cut_off_is_no_empty_commit(uri: str, tmp_path: Path, table: str, how: str) -> None:
    path = entry(uri, table, 1)
    content = path.read_bytes()
    lines = content.splitlines(keepends=True)
    cut = {"empty": b"", "half": content[: len(content) // 2], "a line less": b"".join(lines[:-1]).rstrip(b"\n")}
    path.write_bytes(cut.get(how, bytes(len(content))))
    for call in (Store(uri).read, lambda: fill(uri, SECOND, tmp_path), lambda: maintain(Store(uri))):
        with pytest.raises(StoreError) as error:
            call()
        refused(error, str(path), "restore it from a backup")
    path.write_bytes(content)
    assert rows(Store(uri).read()) == expected(SECOND, ["subject"])


def test_entries_that_others_have_written_are_whole_as_they_are(uri: str) -> None:
    DeltaTable(f"{uri}/sequences").optimize.compact()
    DeltaTable(f"{uri}/features").vacuum(retention_hours=0, dry_run=False, enforce_retention_duration=False)
    assert rows(Store(uri).read()) == expected(SECOND, ["subject"])


@pytest.mark.parametrize("table", ["sequences", "features"])
def test_a_log_that_has_lost_its_end_is_refused_until_the_run_is_withdrawn(uri: str, tmp_path: Path, table: str) -> None:
    newest = Table(uri, table).version()
    first = Store(uri).published_run("first")
    assert first is not None
    assert first[f"{table}_version"] < newest
    for number in range(first[f"{table}_version"] + 1, newest + 1):
        entry(uri, table, number).unlink()
    for call in (Store(uri).read, lambda: Run(uri, SECOND, tmp_path), lambda: maintain(Store(uri))):
        with pytest.raises(StoreError) as error:
            call()
        refused(error, "is damaged", "second", f"table {table}", "dnafeat rollback second")
    # What an earlier run published is still there.
    assert rows(Store(uri).read(as_of="first")) == expected(FIRST, ["subject"])
    rollback(Store(uri), "second")
    assert rows(Store(uri).read()) == expected(FIRST, ["subject"])
    again = fill(uri, SECOND, tmp_path, run_id="third")
    assert again.number == 3, "a number that was given out is not given out again"
    assert rows(Store(uri).read()) == expected(SECOND, ["subject"])


# clocks


@pytest.mark.parametrize("days", [-30, 30])
def test_replaced_files_stay_for_a_week_whatever_this_machine_takes_for_the_time(
    uri: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, days: int
) -> None:
    fill(uri, FIRST, tmp_path)
    fill(uri, SECOND, tmp_path)
    reader = Store(uri).sequences
    assert len(reader.paths()) > 1
    monkeypatch.setattr(merge, "_FEWEST", 2)
    real = time.time
    with monkeypatch.context() as patch:
        patch.setattr(time, "time", lambda: real() + days * DAYS)
        maintain(Store(uri))
    assert maintain(Store(uri)).files_vacuumed == 0
    assert len(reader.read([])) >= 3
    assert maintain(Store(uri), now=datetime.now(UTC) + timedelta(days=7.1)).files_vacuumed > 0


@local_first
def test_the_log_has_the_time_of_the_storage(store_uri: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(time, "time", lambda: 0.0)
    fill(store_uri, FIRST, tmp_path)
    fill(store_uri, SECOND[:1], tmp_path)
    table = Table(store_uri, "sequences")
    now = storage.clock(store_uri)
    times = [*table.removed().values(), *(when for _, when in table.files())]
    assert times
    assert all(abs(now - when) < timedelta(minutes=1) for when in times)


def test_forgotten_files_go_at_once_where_the_clock_that_removed_them_was_ahead(
    uri: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = set(Table(uri, "features").paths())
    real = time.time
    with monkeypatch.context() as patch:
        patch.setattr(time, "time", lambda: real() + 30 * DAYS)
        forget(Store(uri), {"subject": "S1"})
    maintain(Store(uri))
    gone = before - set(Table(uri, "features").paths())
    assert gone
    assert not any(Path(uri, "features", path).exists() for path in gone)


@local_first
def test_removed_files_are_known_from_entries_and_checkpoints(store_uri: str, tmp_path: Path) -> None:
    fill(store_uri, FIRST, tmp_path)
    fill(store_uri, SECOND[1:], tmp_path)
    table = Table(store_uri, "sequences")
    removed = table.removed()
    assert removed
    assert not set(removed) & set(table.paths())
    assert set(removed) == set(table.snapshot.vacuum(retention_hours=0, dry_run=True, enforce_retention_duration=False)), (
        "as Delta's own vacuum has it"
    )
    table.snapshot.create_checkpoint()
    assert table.reload().removed() == removed
    (path, *_) = removed
    table.commit([next(file for file, _ in table.files())], removed=[])
    assert path in table.removed_paths()


# many runs


def test_runs_and_versions_are_merged_by_the_run_that_finds_many_of_their_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(merge, "_TOO_MANY", 5)
    uri = str(tmp_path / "store")
    for number in range(7):
        fill(uri, FIRST, tmp_path, run_id=f"run-{number}")
        Store(uri).point("production", A.digest)
    assert len(Table(uri, "runs").paths()) < 5
    assert len(Table(uri, "versions").paths()) < 5
    assert [row["run_id"] for row in Store(uri).history().listing()] == [f"run-{number}" for number in range(6, -1, -1)]
    rollback(Store(uri), "run-1")
    assert [row["run_id"] for row in Store(uri).history().listing() if row["withdrawn_at"]] == ["run-1"]
    assert not fill(uri, FIRST, tmp_path, run_id="run-2").published


def test_a_merge_of_runs_that_fails_does_not_fail_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise StoreError("a file is gone")

    monkeypatch.setattr(merge, "_TOO_MANY", 1)
    monkeypatch.setattr(merge, "_replace", fail)
    monkeypatch.setattr(merge, "_FEWEST", 1)
    uri = str(tmp_path / "store")
    for _ in range(2):
        assert fill(uri, FIRST, tmp_path).published
    assert delta_log.removed(Table(uri, "runs").uri, Table(uri, "runs").version()) == {}

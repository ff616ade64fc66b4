"""States as of a run, a number or a time, what is listed of runs, and what names mean when runs have been withdrawn."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from datetime import UTC, date, datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from deltalake import DeltaTable
from places import local_first
from stores import A, B, Entry, Run, copied, expected, fill, in_order, refused, rows

from dnafeat.cli.main import main
from dnafeat.errors import StoreError
from dnafeat.store import Store
from dnafeat.store.history import LISTED, AsOf, History, second
from dnafeat.store.rollback import rollback
from dnafeat.store.schema import arrow_schema

KEYS = ["subject"]
FIRST = [Entry("a", "ACGT", {"subject": "s1"}), Entry("b", "ACGT", {"subject": "s2"}), Entry("c", "GGCC")]
SECOND = [FIRST[0]._replace(sequence="TTTT"), FIRST[1]._replace(keys={"subject": "s9"}), Entry("d", "GGCC")]
THIRD = [FIRST[0], SECOND[1]]
OTHERS = [Entry("a", "CCCC", {"subject": "s3"})]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> list[Run]:
    """Runs 1 to 5: the source, the same under B, its second state, another source, its third state."""
    folder = tmp_path_factory.mktemp("made")
    return fill_nights(str(folder / "store"), folder)


@pytest.fixture
def nights(made: list[Run], store_uri: str) -> list[Run]:
    return moved(made, store_uri)


@pytest.fixture
def local(made: list[Run], tmp_path: Path) -> list[Run]:
    return moved(made, str(tmp_path / "store"))


def moved(runs: list[Run], uri: str) -> list[Run]:
    """The same runs in a copy of their store."""
    found, store = [copy.copy(run) for run in runs], Store(copied(runs[0].store.uri, uri))
    for run in found:
        run.store = store
    return found


def fill_nights(store: str, folder: Path) -> list[Run]:
    return [
        fill(store, FIRST, folder, run_id="first"),
        fill(store, FIRST, folder, run_id="under-B", version=B),
        fill(store, SECOND, folder, run_id="second"),
        fill(store, OTHERS, folder, run_id="others", source="other"),
        fill(store, THIRD, folder, run_id="third"),
    ]


STATES = [
    expected(FIRST, KEYS),
    expected(FIRST, KEYS),
    expected(SECOND, KEYS),
    in_order(expected(SECOND, KEYS) + expected(OTHERS, KEYS, source="other")),
    in_order(expected(THIRD, KEYS) + expected(OTHERS, KEYS, source="other")),
]


# as of


@local_first
def test_a_state_is_found_by_run_number_and_time(nights: list[Run]) -> None:
    store = nights[0].store
    ended = [store.published_run(run.run_id)["finished_at"] for run in nights]  # type: ignore[index]
    for i, (run, state) in enumerate(zip(nights, STATES, strict=True)):
        assert run.number == i + 1
        for as_of in (run.run_id, i + 1, ended[i]):
            assert rows(store.read(A.digest, as_of=as_of)) == state, as_of
    for as_of in (ended[2].isoformat(), str(ended[2]), "3", np.int64(3), ended[3] - timedelta(microseconds=1)):
        assert rows(store.read(A.digest, as_of=as_of)) == STATES[2], as_of
    for as_of in (None, ended[-1].date(), f"{ended[-1]:%Y-%m-%d}", "2999-01-01"):
        assert rows(store.read(A.digest, as_of=as_of)) == STATES[4], as_of


def test_a_state_as_of_a_run_has_the_columns_and_sources_asked_for(local: list[Run]) -> None:
    store = local[0].store
    assert rows(store.read(A.digest, source="other", as_of=5)) == expected(OTHERS, KEYS, source="other")
    assert rows(store.read(A.digest, source="cohort", as_of=4)) == expected(SECOND, KEYS)
    assert rows(store.read(B.digest, as_of=5)) == expected(FIRST, KEYS, version=B)
    table = pa.Table.from_batches(list(store.scan(A.digest, ["bases", "sequence_digest"], as_of="first")))
    assert table.column_names == ["sequence_id", "source_name", "subject", "bases", "sequence_digest"]
    assert sorted(table["sequence_id"].to_pylist()) == ["a", "b", "c"]


def test_compaction_and_vacuum_of_every_table_leave_history_alone(nights: list[Run]) -> None:
    store = nights[0].store
    for table in (store.features, store.sequences, store.runs):
        delta = DeltaTable(table.uri, storage_options={"AWS_ALLOW_HTTP": "true"})
        before = len(table.reload().paths())
        delta.optimize.compact()
        delta.vacuum(retention_hours=0, dry_run=False, enforce_retention_duration=False)
        assert len(table.reload().paths()) < before
    for i, state in enumerate(STATES):
        assert rows(Store(store.uri).read(A.digest, as_of=i + 1)) == state


def test_what_was_never_published_is_named(local: list[Run]) -> None:
    store = local[0].store
    for as_of, words in (
        ("nothing", ["'nothing'", "dnafeat runs"]),
        ("", ["''"]),
        ("2026-13-01", ["'2026-13-01'"]),
        ("second ", ["'second '"]),
        ("-3", ["'-3'"]),
        ("9" * 5000, ["neither a run number"]),
        (6, ["number 6", "third", "number 5"]),
        ("6", ["number 6"]),
        (2.0, ["2.0"]),
        (True, ["True"]),
    ):
        with pytest.raises(StoreError) as error:
            store.read(A.digest, as_of=as_of)  # type: ignore[arg-type]
        refused(error, *words)


def test_before_anything_was_published_the_first_run_is_named(local: list[Run]) -> None:
    store = local[0].store
    for version, source, as_of, first in (
        (A, None, date(1999, 1, 1), "run first, number 1"),
        (A, None, "1999-01-01T00:00Z", "run first, number 1"),
        (A, None, 0, "run first, number 1"),
        (B, None, "first", "run under-B, number 2"),
        (A, "other", 3, "run others, number 4"),
    ):
        with pytest.raises(StoreError) as error:
            store.read(version.digest, source=source, as_of=as_of)
        refused(error, first, str(as_of), version.digest, second(store.published_run(first.split(",")[0][4:])["finished_at"]))  # type: ignore[index]


def test_a_number_that_no_run_of_the_version_has_stands_for_those_before_it(local: list[Run]) -> None:
    store = local[0].store
    assert rows(store.read(A.digest, as_of=2)) == STATES[0]
    rollback(store, "second")
    assert rows(store.read(A.digest, as_of=3)) == STATES[0]


def history(*runs: tuple[str, int, str], withdrawn: tuple[str, ...] = ()) -> History:
    """Runs of one source and version by id, number and end; some of them withdrawn."""
    base = {"source_name": "cohort", "feature_version": A.digest, "seconds": 1.0}
    base |= dict.fromkeys(("read", "encoded", "opened", "closed", "rejected"), 1)
    made = [{**base, "run_id": i, "run_number": n, "finished_at": datetime.fromisoformat(end)} for i, n, end in runs]
    fields = [arrow_schema("runs").field(name) for name in LISTED]
    event = {"feature_version": A.digest, "event": "withdrawn", "recorded_at": datetime.now(UTC)}
    events = [
        {**event, "run_id": run["run_id"], "lineage": json.dumps({**run, "started_at": str(run["finished_at"])}, default=str)}
        for run in made
        if run["run_id"] in withdrawn
    ]
    table = pa.Table.from_pylist([run for run in made if run["run_id"] not in withdrawn], schema=pa.schema(fields))
    return History("store", table, pa.Table.from_pylist(events, schema=arrow_schema("versions")))


DAYS = [
    ("one", 1, "2026-11-19T23:59:59.999999+00:00"),
    ("two", 2, "2026-11-20T06:00:00.5+00:00"),
    # Took its number before run 4, and came to its end after it.
    ("three", 3, "2026-11-21T00:00:00+00:00"),
    ("four", 4, "2026-11-20T07:00:00+00:00"),
]


@pytest.mark.parametrize(
    ("as_of", "number"),
    [
        ("2026-11-19", 1),
        (date(2026, 11, 19), 1),
        ("2026-11-20", 4),
        ("2026-11-20T00:00", 1),
        (datetime(2026, 11, 20), 1),
        ("2026-11-20T06:00:00.499999", 1),
        ("2026-11-20T06:00:00.500000", 2),
        ("2026-11-20T06:00:01Z", 2),
        ("2026-11-20 06:59:59", 2),
        ("2026-11-20T08:00:00+01:00", 4),
        ("2026-11-20T07:59:59+01:00", 2),
        (datetime(2026, 11, 20, 1, tzinfo=timezone(timedelta(hours=-6))), 4),
        ("2026-11-21", 4),
        (date.max, 4),
    ],
)
def test_a_date_is_its_end_and_a_time_without_a_zone_is_utc(as_of: AsOf, number: int) -> None:
    assert history(*DAYS).state(A.digest, as_of) == {"cohort": number}


def test_text_is_a_run_id_before_it_is_a_number_or_a_date() -> None:
    runs = history(("3", 1, DAYS[0][2]), ("2026-11-20", 2, DAYS[0][2]), ("x", 3, DAYS[3][2]))
    assert runs.state(A.digest, "3") == {"cohort": 1}
    assert runs.state(A.digest, 3) == {"cohort": 3}
    assert runs.state(A.digest, "2026-11-20") == {"cohort": 2}
    assert runs.state(A.digest, "2026-11-20T23:59") == runs.state(A.digest, date(2026, 11, 20)) == {"cohort": 3}


def test_the_id_of_a_withdrawn_run_is_refused_even_where_it_looks_like_a_date() -> None:
    runs = history(*DAYS[:2], ("2026-11-20", 3, DAYS[3][2]), withdrawn=("2026-11-20",))
    with pytest.raises(StoreError) as error:
        runs.state(A.digest, "2026-11-20")
    refused(error, "'2026-11-20'", "withdrawn")
    assert runs.state(A.digest, date(2026, 11, 20)) == {"cohort": 2}


@pytest.mark.parametrize("end", [end for _, _, end in DAYS])
def test_a_state_as_of_a_printed_time_has_the_run_in_it(end: str) -> None:
    moment = datetime.fromisoformat(end)
    shown = datetime.fromisoformat(second(moment))
    assert timedelta(0) <= shown - moment < timedelta(seconds=1)
    assert shown.microsecond == 0


# what is listed


@local_first
def test_runs_are_listed_newest_first_with_those_that_are_withdrawn(nights: list[Run]) -> None:
    store = nights[0].store
    second_row = store.published_run("second")
    rollback(store, "second")
    listed = store.history().listing()
    assert [row["run_number"] for row in listed] == [5, 4, 3, 2, 1]
    assert [row["run_id"] for row in listed if row["withdrawn_at"]] == ["second"]
    assert all(tuple(row) == (*LISTED, "withdrawn_at") for row in listed)
    withdrawn = listed[2]
    assert {name: withdrawn[name] for name in LISTED} == {name: second_row[name] for name in LISTED}  # type: ignore[index]
    assert abs(withdrawn["withdrawn_at"] - datetime.now(UTC)) < timedelta(minutes=5)
    assert [
        listed[4][name] for name in ("source_name", "feature_version", "read", "encoded", "opened", "closed", "rejected")
    ] == [
        "cohort",
        A.digest,
        3,
        2,
        3,
        0,
        0,
    ]


def test_the_command_lists_runs_as_a_table_and_as_json(local: list[Run], capsys: pytest.CaptureFixture[str]) -> None:
    uri = local[0].store.uri
    rollback(local[0].store, "second")
    assert main(["runs", "--store", uri]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split()[:4] == ["run", "number", "version", "finished"]
    assert [
        line.startswith(name) for line, name in zip(lines[1:], ["third", "others", "second", "under-B", "first"], strict=True)
    ]
    assert ["withdrawn" in line for line in lines[1:]] == [False, False, True, False, False]
    assert main(["runs", "--store", uri, "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert [row["run_id"] for row in told] == ["third", "others", "second", "under-B", "first"]
    # What it prints can be given back.
    ended = told[-1]["finished_at"]
    assert rows(local[0].store.read(A.digest, as_of=ended)) == STATES[0]


def test_the_command_reads_as_of(local: list[Run], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    output = str(tmp_path / "x.parquet")
    arguments = ["read", "--store", local[0].store.uri, "--version", A.digest, "--output", output, "--as-of"]
    for as_of in ("second", "3"):
        assert main([*arguments, as_of]) == 0
        assert rows(pq.read_table(output)) == STATES[2]
    assert capsys.readouterr().err == ""
    for as_of, word in (("never", "'never'"), ("1999-12-31", "number 1"), ("17", "number 17")):
        assert main([*arguments, as_of]) == 2
        said = capsys.readouterr().err
        assert said.startswith("dnafeat: ")
        assert said.count("\n") == 1
        assert word in said


# versions whose runs have been withdrawn


def test_a_version_without_a_published_run_is_not_there(local: list[Run]) -> None:
    store = local[0].store
    store.point("staging", B.digest)
    rollback(store, "under-B")
    assert [row["feature_version"] for row in store.versions().to_pylist()] == [A.digest]
    assert store.resolve() == A.digest
    assert store.channels() == {"staging": B.digest}
    calls: list[Callable[[str], Any]] = [store.resolve, store.read, lambda name: store.point("production", name)]
    for call in calls:
        with pytest.raises(StoreError) as error:
            call(B.digest)
        refused(error, "no version, name or channel", A.digest)
        with pytest.raises(StoreError) as error:
            call("staging")
        refused(error, "'staging'", B.digest, "withdrawn", A.digest, "dnafeat publish")


def test_production_that_points_at_nothing_is_not_replaced_by_the_only_version(local: list[Run]) -> None:
    store = local[0].store
    store.point("production", B.digest)
    rollback(store, "under-B")
    for call in (store.resolve, store.read):
        with pytest.raises(StoreError) as error:
            call()
        refused(error, "'production'", B.digest, "withdrawn")
    store.point("production", A.digest)
    assert rows(store.read()) == STATES[4]


def test_events_of_withdrawal_change_no_channel_and_no_lineage(local: list[Run]) -> None:
    store = local[0].store
    store.point("production", A.digest)
    before = store.versions().to_pylist()
    rollback(store, "second")
    assert store.versions().to_pylist() == before
    assert store.lineage(A.digest) == {**A.identity(), **A.names}
    rollback(store, "third")
    (after,) = [row for row in store.versions().to_pylist() if row["feature_version"] == A.digest]
    assert after == {**next(row for row in before if row["feature_version"] == A.digest), "sequences": len(FIRST) + len(OTHERS)}


def test_a_store_whose_runs_are_all_withdrawn_says_so(tmp_path: Path) -> None:
    store = fill(str(tmp_path / "store"), FIRST, tmp_path, run_id="only").store
    rollback(store, "only")
    assert len(store.versions()) == 0
    for call in (store.read, store.resolve, lambda: store.read(as_of=1)):
        with pytest.raises(StoreError) as error:
            call()
        refused(error, "every run", "withdrawn", "dnafeat embed")

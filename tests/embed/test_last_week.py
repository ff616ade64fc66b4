"""Last week's run stays readable: three more nights, a compaction and a vacuum later it has the rows and vectors that it had."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from places import local_first
from stores import A, B, Entry, Run, digest, expected, fill, rows

from dnafeat import storage
from dnafeat.cli.main import main
from dnafeat.errors import StoreError
from dnafeat.store import Store
from dnafeat.store.maintain import maintain
from dnafeat.store.schema import TABLES
from dnafeat.store.table import Table

KEYS = ["subject"]
LETTERS = ["ACGT" + "".join("ACGT"[(i >> 2 * place) & 3] for place in range(4)) for i in range(64)]


def entries(*numbers: int) -> list[Entry]:
    return [Entry(f"e{i}", LETTERS[i], {"subject": f"s{i % 3}"}) for i in numbers]


LAST_WEEK = entries(*range(12))
# New entries come, one gets another sequence and one another subject, some go; the last night brings one of those back.
NIGHTS = [
    [LAST_WEEK[0]._replace(sequence=LETTERS[40]), *entries(*range(1, 9), *range(12, 16))],
    [LAST_WEEK[1]._replace(keys={"subject": "moved"}), *entries(*range(2, 6), *range(14, 24))],
    [*entries(*range(3, 8), *range(20, 30)), LAST_WEEK[0]._replace(sequence=LETTERS[41])],
]
OTHERS = [Entry("e0", LETTERS[50], {"subject": "s7"}), Entry("x", LETTERS[3], {"subject": "s8"})]


def files(store: Store) -> dict[str, set[str]]:
    """What lies below each table, whether it is a part of it or not."""
    return {
        name: {one.path for one in storage.listing(Table(store.uri, name).uri) if "_delta_log" not in one.path} for name in TABLES
    }


def readings(store: Store, run: Run, ended: datetime) -> list[list[dict[str, Any]]]:
    """The state as of a run by its id, its number and the time at which it ended; `runs` has these as text on the command line."""
    names = (run.run_id, run.number, str(run.number), ended, ended.isoformat())
    return [rows(store.read(A.digest, as_of=name)) for name in names]


@local_first
def test_last_week_is_read_after_three_nights_a_compaction_and_a_vacuum(
    store_uri: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    # Several small files a night, so that there is something to merge.
    first = fill(store_uri, LAST_WEEK, tmp_path, run_id="last-week", shard_rows=3)
    store = Store(store_uri)
    ended = store.published_run("last-week")["finished_at"]  # type: ignore[index]
    before = rows(store.read(A.digest))
    columns = ["sequence_digest", "bases", "run_id"]
    about = rows(store.read(A.digest, columns))
    assert before == expected(LAST_WEEK, KEYS)
    for number, night in enumerate(NIGHTS):
        fill(store_uri, night, tmp_path, run_id=f"night-{number}", shard_rows=3)
    # Another source and another version are in the same tables.
    fill(store_uri, OTHERS, tmp_path, run_id="other", source="other")
    fill(store_uri, LAST_WEEK[:4], tmp_path, run_id="under-B", version=B, shard_rows=3)
    assert readings(store, first, ended) == [before] * 5

    there = files(store)
    merged = maintain(Store(store_uri))
    assert merged.files_after < merged.files_before
    for table in (store.features, store.sequences, store.runs):
        names = table.reload().paths()
        assert any(storage.name(name).startswith("sorted-") for name in names), table.name
        assert not there[table.name] & {name for name in names if storage.name(name).startswith("sorted-")}
    # Nothing is deleted within a week, and all that was replaced after it.
    assert not any(there[name] - now for name, now in files(store).items())
    assert readings(Store(store_uri), first, ended) == [before] * 5
    vacuumed = maintain(Store(store_uri), now=datetime.now(UTC) + timedelta(days=8))
    assert vacuumed.files_vacuumed > 0
    for name in ("features", "sequences", "runs"):
        now = files(store)[name]
        assert there[name] - now, name
        assert now == set(Table(store_uri, name).paths())

    store = Store(store_uri)
    assert readings(store, first, ended) == [before] * 5
    assert rows(store.read(A.digest, columns, as_of="last-week")) == about
    assert {row["sequence_digest"] for row in about} == {digest(entry.sequence) for entry in LAST_WEEK}
    # Other nights have theirs, and so has the present.
    assert rows(store.read(A.digest, as_of="night-1")) == expected(NIGHTS[1], KEYS)
    assert rows(store.read(A.digest, source="cohort")) == expected(NIGHTS[2], KEYS)
    assert rows(store.read(B.digest)) == expected(LAST_WEEK[:4], KEYS, version=B)
    output = str(tmp_path / "last-week.parquet")
    assert main(["read", "--store", store_uri, "--version", A.digest, "--as-of", "last-week", "--output", output]) == 0
    capsys.readouterr()
    assert rows(pq.read_table(output)) == before


@local_first
def test_last_week_is_read_by_its_date(store_uri: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each night is a day on; a date is its end."""
    days = [datetime(2026, 11, 14, 3, tzinfo=UTC) + timedelta(days=day) for day in (0, 4, 5, 6)]
    real = Run.row
    for day, night in zip(days, [LAST_WEEK, *NIGHTS], strict=True):
        at = {"started_at": day - timedelta(minutes=5), "finished_at": day}
        with monkeypatch.context() as patch:
            patch.setattr(Run, "row", lambda self, at=at: {**real(self), **at})
            fill(store_uri, night, tmp_path, shard_rows=3)
    maintain(Store(store_uri))
    assert maintain(Store(store_uri), now=datetime.now(UTC) + timedelta(days=8)).files_vacuumed > 0
    store = Store(store_uri)
    for as_of in (days[0].date(), "2026-11-14", "2026-11-17", "2026-11-14T03:00:00Z", "2026-11-18T02:59:59+00:00"):
        assert rows(store.read(as_of=as_of)) == expected(LAST_WEEK, KEYS), as_of
    assert rows(store.read(as_of="2026-11-18")) == expected(NIGHTS[0], KEYS)
    assert rows(store.read(as_of="2026-11-20")) == rows(store.read()) == expected(NIGHTS[2], KEYS)
    with pytest.raises(StoreError, match="number 1"):
        store.read(as_of="2026-11-13")

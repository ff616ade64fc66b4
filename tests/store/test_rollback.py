"""Withdrawals: what readers see then, what the next run makes of it, and commands that die, repeat or race."""

from __future__ import annotations

import random
import threading
from pathlib import Path
from typing import Any

import duckdb
import pytest
from deltalake import DeltaTable
from places import local_first
from stores import A, B, Entry, Run, copied, every_row, expected, fill, in_order, rows

from dnafeat.cli.main import main
from dnafeat.errors import StoreError, UsageError
from dnafeat.store import Store
from dnafeat.store import rollback as rolling
from dnafeat.store.maintain import maintain
from dnafeat.store.rollback import rollback
from dnafeat.store.table import Refused, Table

KEYS = ["subject"]
FIRST = [Entry("a", "ACGT", {"subject": "s1"}), Entry("b", "ACGT", {"subject": "s2"}), Entry("c", "GGCC")]
# One changed, one with another key, one gone, one new.
SECOND = [FIRST[0]._replace(sequence="TTTT"), FIRST[1]._replace(keys={"subject": "s9"}), Entry("d", "AACC")]
THIRD = [FIRST[0], SECOND[1], Entry("e", "GGCC")]


def withdrawals(store: Store) -> int:
    return sum(row["event"] == "withdrawn" for row in store._versions.reload().read().to_pylist())


def outside(store: str) -> list[tuple]:
    """What the README's query gives to somebody without dnafeat."""
    query = """
        with last as (select source_name, feature_version, max(run_number) as number from runs group by all)
        select feature_version, source_name, sequence_id, sequence_digest
        from last join sequences using (source_name) join features using (sequence_digest, feature_version)
        where from_run <= number and (until_run is null or until_run > number)
    """
    with duckdb.connect() as connection:
        for name in ("features", "sequences", "runs"):
            connection.register(name, DeltaTable(f"{store}/{name}").to_pyarrow_dataset())
        return sorted(connection.sql(query).fetchall())


def inside(store: Store) -> list[tuple]:
    found = []
    for version in store.history().versions():
        for row in store.read(version, columns=["sequence_digest"]).to_pylist():
            found.append((version, row["source_name"], row["sequence_id"], row["sequence_digest"]))
    return sorted(found)


# what readers see


def test_readers_see_the_run_before(store_uri: str, tmp_path: Path) -> None:
    first = fill(store_uri, FIRST, tmp_path)
    fill(store_uri, FIRST[:1], tmp_path, source="other")
    bad = fill(store_uri, SECOND, tmp_path)
    store, row = Store(store_uri), bad.store.published_run(bad.run_id)
    before = {name: rows(table) for name, table in every_row(store)}
    done = rollback(store, bad.run_id)
    # Rows that it closed are visible again, and those that it opened are not.
    assert rows(Store(store_uri).read(source="cohort")) == expected(FIRST, KEYS)
    assert rows(Store(store_uri).read(source="other")) == expected(FIRST[:1], KEYS, source="other")
    assert (done.done, dict(done.run)) == (True, row)
    assert (done.now or {})["run_id"] == first.run_id
    assert (done.sources, done.channels) == (["cohort", "other"], [])
    assert store.published_run(bad.run_id) is None
    after = {name: rows(table) for name, table in every_row(store)}
    assert {name for name in after if after[name] != before[name]} == {"runs", "versions"}
    assert after["runs"] == [one for one in before["runs"] if one["run_id"] != bad.run_id]
    with pytest.raises(StoreError, match="withdrawn"):
        store.read(as_of=bad.run_id)


def test_readers_without_dnafeat_see_the_same(tmp_path: Path) -> None:
    uri = str(tmp_path / "store")
    fill(uri, FIRST, tmp_path)
    fill(uri, SECOND, tmp_path, run_id="bad")
    fill(uri, FIRST, tmp_path, version=B, run_id="b")
    for run_id, entries in (("bad", 6), ("b", 3)):
        rollback(Store(uri), run_id)
        assert outside(uri) == inside(Store(uri))
        assert len(outside(uri)) == entries


@pytest.mark.parametrize("after", [FIRST, SECOND, THIRD], ids=["as before", "as withdrawn", "another"])
def test_the_next_run_of_the_source_publishes_the_right_state(tmp_path: Path, after: list[Entry]) -> None:
    uri = str(tmp_path / "store")
    fill(uri, FIRST, tmp_path)
    fill(uri, SECOND, tmp_path, run_id="bad")
    rollback(Store(uri), "bad")
    last = fill(uri, after, tmp_path)
    assert last.work.missing.rows == 0
    store = Store(uri)
    assert rows(store.read()) == expected(after, KEYS)
    assert rows(store.read(as_of=2)) == rows(store.read(as_of=1)) == expected(FIRST, KEYS)
    assert outside(uri) == inside(store)


def test_a_run_in_the_middle_leaves_later_ones_as_they_are(tmp_path: Path) -> None:
    uri = str(tmp_path / "store")
    runs = [fill(uri, entries, tmp_path) for entries in (FIRST, SECOND, THIRD)]
    store = Store(uri)
    done = rollback(store, runs[1].run_id)
    assert (done.now or {})["run_id"] == runs[2].run_id
    assert rows(store.read()) == rows(store.read(as_of=3)) == expected(THIRD, KEYS)
    assert rows(store.read(as_of=2)) == expected(FIRST, KEYS)
    rollback(store, runs[2].run_id)
    assert rows(store.read()) == expected(FIRST, KEYS)
    rollback(store, runs[0].run_id)
    with pytest.raises(StoreError):
        store.read()


def test_a_version_of_its_own_goes_with_its_only_run(tmp_path: Path) -> None:
    uri = str(tmp_path / "store")
    fill(uri, FIRST, tmp_path)
    fill(uri, SECOND, tmp_path, version=B, run_id="b")
    store = Store(uri)
    store.point("production", A.digest)
    store.point("staging", B.digest)
    done = rollback(store, "b")
    assert (done.now, done.sources, done.channels) == (None, [], ["staging"])
    assert rows(store.read()) == expected(FIRST, KEYS)
    assert store.lacking("staging", A.digest) == []


@local_first
def test_the_same_run_id_can_be_published_and_withdrawn_again(store_uri: str, tmp_path: Path) -> None:
    fill(store_uri, FIRST, tmp_path)
    store = Store(store_uri)
    for time in range(2):
        again = fill(store_uri, SECOND, tmp_path, run_id="nightly")
        assert (again.published, again.number) == (True, 2 + time)
        assert rows(store.read()) == rows(store.read(as_of="nightly")) == expected(SECOND, KEYS)
        assert rollback(store, "nightly").done
        assert rows(store.read()) == expected(FIRST, KEYS)
        assert withdrawals(store) == time + 1
    assert [row["run_number"] for row in store.history().withdrawn()] == [2, 3]
    last = fill(store_uri, THIRD, tmp_path, run_id="nightly")
    assert rows(store.read(as_of="nightly")) == expected(THIRD, KEYS)
    assert [(row["run_number"], bool(row["withdrawn_at"])) for row in store.history().listing()] == [
        (last.number, False),
        (3, True),
        (2, True),
        (1, False),
    ]


def test_a_run_comes_out_of_a_file_that_holds_others_too(tmp_path: Path) -> None:
    uri = str(tmp_path / "store")
    # Names of files: `x-…` begins like the files of run `x`.
    runs = [fill(uri, FIRST[:i], tmp_path, run_id=name) for i, name in enumerate(["x", "x-1", "other", "o'b ü%"])]
    store, left = Store(uri), rows(runs[0].store.runs.reload().read())
    together = store.runs.write(store.runs.read(), stem="compacted")
    store.runs.commit([together], removed=store.runs.paths())
    assert len(store.runs.reload().paths()) == 1
    for run in (runs[0], runs[3], runs[1], runs[2]):
        rollback(store, run.run_id)
        left = [row for row in left if row["run_id"] != run.run_id]
        assert rows(store.runs.reload().read()) == left
    assert store.runs.paths() == []
    assert len(store.history().withdrawn()) == 4


def test_any_order_of_runs_and_withdrawals_shows_what_is_published(tmp_path: Path) -> None:
    """Against the simplest account of it: a list of what was sent, of which the withdrawn are struck out."""
    dice = random.Random(7)
    uri = str(tmp_path / "store")
    store = Store(uri)
    sent: list[tuple[Run, list[Entry]]] = []
    for _ in range(16):
        if len(sent) > 2 and dice.random() < 0.4:
            run, _ = sent.pop(dice.randrange(len(sent)))
            rollback(store, run.run_id)
        else:
            entries = [Entry(name, dice.choice(["ACGT", "GGCC", "TTAA"])) for name in "abcd" if dice.random() < 0.7]
            options: dict[str, Any] = {"source": dice.choice(["one", "two"]), "version": dice.choice([A, B]), "keys": ["k"]}
            sent.append((fill(uri, entries, tmp_path, **options), entries))
    sent.sort(key=lambda one: one[0].number)
    assert [row["run_id"] for row in store.history().listing() if not row["withdrawn_at"]] == [
        run.run_id for run, _ in sent[::-1]
    ]
    seen = 0
    for number in range(1, sent[-1][0].number + 1):
        for version in (A, B):
            last = {run.source: entries for run, entries in sent if run.version is version and run.number <= number}
            if not last:
                with pytest.raises(StoreError):
                    store.read(version.digest, as_of=number)
                continue
            wanted = [row for source, entries in last.items() for row in expected(entries, source=source, version=version)]
            assert rows(store.read(version.digest, as_of=number)) == in_order(wanted), (number, version)
            seen += 1
    assert seen > 8


# twice, half-way, and at the same time


def test_what_is_withdrawn_or_was_never_there_is_one_sentence(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    uri = str(tmp_path / "store")
    fill(uri, FIRST, tmp_path, run_id="good")
    fill(uri, SECOND, tmp_path, run_id="bad")
    Store(uri).point("production", A.digest)
    assert main(["rollback", "--store", uri, "bad"]) == 0
    told = capsys.readouterr().out
    assert told.startswith("run bad (number 2) is withdrawn\n")
    assert "see run good, number 1" in told
    assert "channel production points at this version\n" in told
    version = Store(uri).runs.version(), Store(uri)._versions.version()
    assert main(["rollback", "--store", uri, "bad"]) == 0
    assert capsys.readouterr().out.startswith("run bad (number 2) is withdrawn already: nothing to do\n")
    assert (Store(uri).runs.version(), Store(uri)._versions.version()) == version
    assert main(["rollback", "--store", uri, "never"]) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert all(word in said for word in ("dnafeat: ", "'never'", "dnafeat runs"))
    assert main(["rollback", "--store", uri, "good"]) == 0
    told = capsys.readouterr().out
    assert "has no published run any more" in told
    assert "channel production points at this version, and cannot be read" in told
    assert "dnafeat publish" in told


def test_a_merge_starts_from_what_was_published_and_not_from_what_was_withdrawn(tmp_path: Path) -> None:
    uri = str(tmp_path / "store")
    a, b, c, d = (Entry(name, "ACGT" + letters) for name, letters in (("a", "A"), ("b", "C"), ("c", "G"), ("d", "T")))
    changed = Entry("b", "TTTTT")
    fill(uri, [a, b], tmp_path)
    # It closes a, changes b and opens c: none of it was, once it is withdrawn.
    fill(uri, [changed, c], tmp_path, run_id="bad")
    rollback(Store(uri), "bad")
    run = fill(uri, [d], tmp_path, mode="merge")
    assert (run.opened, run.closed) == (3, 2)
    assert rows(Store(uri).read()) == expected([a, b, d])
    assert rows(Store(uri).read(as_of=1)) == expected([a, b])
    run = fill(uri, [c], tmp_path, mode="merge")
    assert (run.opened, run.closed) == (1, 0)
    assert rows(Store(uri).read()) == expected([a, b, c, d])
    # One that a later run has built on is part of that one's state.
    fill(uri, [changed], tmp_path, mode="merge", run_id="middle")
    fill(uri, [], tmp_path, mode="merge", keys=[])
    rollback(Store(uri), "middle")
    fill(uri, [d], tmp_path, mode="merge")
    assert rows(Store(uri).read()) == expected([a, changed, c, d])
    fill(uri, [a], tmp_path)
    assert rows(Store(uri).read()) == expected([a])


def test_a_merge_that_would_leave_entries_without_vectors_is_refused(tmp_path: Path) -> None:
    uri = str(tmp_path / "store")
    a, b, c = (Entry(name, "ACGT" + letters) for name, letters in (("a", "A"), ("b", "C"), ("c", "G")))
    fill(uri, [a], tmp_path)
    fill(uri, [a, b], tmp_path, version=B)
    with pytest.raises(UsageError, match="has 1 sequences that this run does not read and that its version has no vectors of"):
        fill(uri, [c], tmp_path, mode="merge")
    assert rows(Store(uri).read(A.digest)) == expected([a])
    fill(uri, [a, b], tmp_path)
    fill(uri, [c], tmp_path, mode="merge")
    assert rows(Store(uri).read(A.digest)) == expected([a, b, c])


def test_refused_entries_stand_once_after_a_merge_of_files_and_a_rollback(tmp_path: Path) -> None:
    uri = str(tmp_path / "store")
    bad = Entry("bad", "ACGU!")
    for i in range(4):
        fill(uri, [Entry("a", "ACGTA"), bad], tmp_path, source=f"s{i}", run_id=f"r{i}")
    assert maintain(Store(uri)).files_after < 20
    rollback(Store(uri), "r2")
    fill(uri, [Entry("a", "ACGTA"), bad], tmp_path, source="s2", run_id="r2")
    found = Store(uri).rejects.reload().read(["run_id"])["run_id"].to_pylist()
    assert sorted(found) == ["r0", "r1", "r2", "r3"]


def test_a_withdrawal_that_died_half_way_has_changed_nothing_and_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    uri = str(tmp_path / "store")
    fill(uri, FIRST, tmp_path)
    fill(uri, SECOND, tmp_path, run_id="bad")
    store = Store(uri)

    def dies(*arguments: Any) -> None:
        raise KeyboardInterrupt

    for _ in range(2):
        with monkeypatch.context() as patch:
            patch.setattr(rolling, "_take_out", dies)
            with pytest.raises(KeyboardInterrupt):
                rollback(store, "bad")
        assert withdrawals(store) == 1
        assert rows(store.read()) == rows(store.read(as_of="bad")) == expected(SECOND, KEYS)
        assert store.history().withdrawn() == []
        assert all(row["withdrawn_at"] is None for row in store.history().listing())
        assert outside(uri) == inside(store)
    assert rollback(store, "bad").done
    assert withdrawals(store) == 1
    assert rows(store.read()) == expected(FIRST, KEYS)


@pytest.mark.parametrize("name", ["versions", "runs"])
def test_a_lost_reply_withdraws_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    uri = str(tmp_path / "store")
    fill(uri, FIRST, tmp_path)
    fill(uri, SECOND, tmp_path, run_id="bad")
    commit, lost = Table.commit, []

    def silently(self: Table, *arguments: Any, **options: Any) -> None:
        commit(self, *arguments, **options)
        if self.name == name and not lost:
            lost.append(name)
            raise Refused("the reply was lost")

    monkeypatch.setattr(Table, "commit", silently)
    store = Store(uri)
    assert rollback(store, "bad").done
    assert (lost, withdrawals(store)) == ([name], 1)
    assert rows(store.read()) == expected(FIRST, KEYS)


def test_withdrawals_and_publications_at_the_same_time(store_uri: str, tmp_path: Path) -> None:
    fill(store_uri, FIRST, tmp_path)
    fill(store_uri, SECOND, tmp_path, run_id="bad")
    fill(store_uri, FIRST, tmp_path, source="three", run_id="worse")
    ready = [Run(store_uri, THIRD, tmp_path, source=source).encode() for source in ("one", "two")]
    start, failed = threading.Barrier(5), []

    def guarded(call: Any) -> None:
        start.wait()
        try:
            call()
        except BaseException as error:
            failed.append(error)

    calls = [
        *(run.publish for run in ready),
        *(lambda: rollback(Store(store_uri), "bad") for _ in range(2)),
        lambda: rollback(Store(store_uri), "worse"),
    ]
    threads = [threading.Thread(target=guarded, args=(call,)) for call in calls]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failed == []
    store = Store(store_uri)
    assert withdrawals(store) == 2
    assert rows(store.read(source="cohort")) == expected(FIRST, KEYS)
    for run in ready:
        assert rows(store.read(source=run.source)) == expected(THIRD, KEYS, source=run.source)
    assert {row["run_id"]: bool(row["withdrawn_at"]) for row in store.history().listing()}["worse"]


# runs that are not the last


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Three runs of a source, of which the second brings an entry that the third keeps, and runs of another source and version."""
    folder = tmp_path_factory.mktemp("made")
    uri = str(folder / "store")
    fill(uri, FIRST, folder, run_id="mon")
    fill(uri, FIRST, folder, version=B, run_id="mon-b")
    fill(uri, [*FIRST, Entry("wrong", "TTTT")], folder, run_id="tue")
    fill(uri, [*FIRST, Entry("wrong", "TTTT")], folder, run_id="wed")
    fill(uri, FIRST, folder, source="other", run_id="thu")
    return uri


@pytest.fixture
def nights(made: str, tmp_path: Path) -> str:
    return copied(made, str(tmp_path / "store"))


def test_the_command_refuses_a_run_whose_entries_later_runs_have_kept(nights: str, capsys: pytest.CaptureFixture[str]) -> None:
    before = rows(Store(nights).read(A.digest))
    assert main(["rollback", "--store", nights, "tue"]) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert all(words in said for words in ("run tue is not the last", "wed came later", "--and-later"))
    assert rows(Store(nights).read(A.digest)) == before
    # Later runs of another source or version do not count.
    assert main(["rollback", "--store", nights, "mon-b"]) == 0
    assert main(["rollback", "--store", nights, "wed"]) == 0
    assert main(["rollback", "--store", nights, "tue"]) == 0
    assert rows(Store(nights).read(A.digest, source="cohort")) == expected(FIRST, KEYS)


def test_later_runs_go_with_it_where_that_is_asked_for(nights: str, capsys: pytest.CaptureFixture[str]) -> None:
    versions = {table.name: table.version() for table in Store(nights).tables()}
    assert main(["rollback", "--store", nights, "tue", "--and-later", "--dry-run"]) == 0
    told = capsys.readouterr().out
    assert told.startswith("run tue (number 3) and 1 later ones (wed) would be withdrawn (nothing was changed)\n")
    assert "see run mon, number 1" in told
    assert f"under version {B.digest} see run mon-b, as before" in told
    assert {table.name: table.version() for table in Store(nights).tables()} == versions
    assert main(["rollback", "--store", nights, "tue", "--and-later"]) == 0
    assert capsys.readouterr().out == told.replace("would be withdrawn (nothing was changed)", "are withdrawn")
    store = Store(nights)
    assert rows(store.read(A.digest, source="cohort")) == expected(FIRST, KEYS)
    assert [row["run_id"] for row in store.history().withdrawn()] == ["tue", "wed"]
    assert outside(nights) == inside(store)
    assert main(["rollback", "--store", nights, "tue", "--and-later"]) == 0
    assert "already: nothing to do" in capsys.readouterr().out


def test_later_runs_are_withdrawn_first_so_that_no_reader_sees_them_without_it(
    nights: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, seen = rolling._take_out, []

    def take_out(table: Table, run: Any) -> None:
        real(table, run)
        seen.append((run["run_id"], len(Store(nights).read(A.digest, source="cohort"))))

    monkeypatch.setattr(rolling, "_take_out", take_out)
    done = rollback(Store(nights), "tue", and_later=True)
    assert seen == [("wed", 4), ("tue", 3)]
    assert (done.done, done.later, (done.now or {})["run_id"]) == (True, ["wed"], "mon")

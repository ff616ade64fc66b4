"""Publication: nothing is seen in part, nothing is stored twice, and every state a source has had can be read again."""

from __future__ import annotations

import itertools
import tempfile
import threading
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pyarrow.compute as pc
import pytest
from counts import examples
from deltalake import DeltaTable
from hypothesis import example, given, settings
from hypothesis import strategies as st
from places import local_first
from stores import STEPS, A, B, Entry, Run, digest, every_row, expected, feature_version, fill, in_order, rows, write_csv

from dnafeat.embed.intake import Checks, take_in
from dnafeat.embed.publish import CommittedVectors
from dnafeat.errors import ConflictError, DnafeatError, StoreError
from dnafeat.sources.reader import ReadOptions, look
from dnafeat.store import Store
from dnafeat.store import table as tables
from dnafeat.store.schema import TABLES, arrow_schema
from dnafeat.store.table import Refused, Table

KEYS = ["subject", "gene"]
ENTRIES = [
    Entry("a", "ACGT", {"subject": "s1", "gene": "BRCA1"}),
    Entry("b", "ACGT", {"subject": "s2"}),
    Entry("c", "ggcc", {"gene": "TP53"}),
    Entry("d", "NNACGTAC"),
]
CHANGED = [ENTRIES[0], ENTRIES[1]._replace(sequence="TTTT"), ENTRIES[3]._replace(keys={"gene": "MYC"}), Entry("e", "GGCC")]
REFUSED = [Entry("bad", "AC-T"), Entry("", "ACGT")]


def counts(store: Store | str) -> dict[str, int]:
    return {name: len(table) for name, table in every_row(store)}


def check_features(store: Store) -> None:
    """Every digest once a version."""
    table = store.features.reload().dataset().to_table(columns=["sequence_digest", "feature_version"]).to_pylist()
    double = [
        key for key, count in Counter((row["feature_version"], row["sequence_digest"]) for row in table).items() if count > 1
    ]
    assert double == []


def check_intervals(store: Store) -> None:
    """Of each entry of a source one row at most stands at any run number, and none is empty."""
    held: dict[tuple[str, str], list[tuple[int, float]]] = {}
    for row in store.sequences.reload().dataset().to_table().to_pylist():
        until = float("inf") if row["until_run"] is None else row["until_run"]
        held.setdefault((row["source_name"], row["sequence_id"]), []).append((row["from_run"], until))
    for name, spans in held.items():
        spans.sort()
        assert all(start < end for start, end in spans), (name, spans)
        assert all(before[1] <= after[0] for before, after in itertools.pairwise(spans)), (name, spans)


def as_of(store: Store, source: str, number: int) -> dict[str, tuple]:
    """What README tells people to filter: the entries of a source as of a run number, from `sequences` alone."""
    table = store.sequences.reload().dataset().to_table()
    until = table["until_run"]
    mask = pc.and_(pc.equal(table["source_name"], source), pc.less_equal(table["from_run"], number))
    mask = pc.and_(mask, pc.or_kleene(pc.is_null(until), pc.greater(until, number)))
    found = table.filter(mask).to_pylist()
    assert len({row["sequence_id"] for row in found}) == len(found)
    keys = [name for name in table.column_names if name not in arrow_schema("sequences").names]
    return {row["sequence_id"]: state(row["sequence_digest"], {key: row[key] for key in keys}) for row in found}


def state(name: str, keys: dict[str, str | None]) -> tuple:
    """A row's digest and those of its keys that have a value."""
    return name, tuple(sorted((key, value) for key, value in keys.items() if value))


def states(entries: list[Entry]) -> dict[str, tuple]:
    return {entry.id: state(digest(entry.sequence), dict(entry.keys)) for entry in entries}


# a run and what it leaves


def test_a_published_run_is_read_as_it_was_sent(store_uri: str, tmp_path: Path) -> None:
    run = fill(store_uri, [*ENTRIES, *REFUSED], tmp_path, shard_rows=2)
    assert run.published is True
    assert (run.number, run.opened, run.closed, run.work.distinct, len(run.committed)) == (1, 4, 0, 3, 2)
    store = Store(store_uri)
    assert rows(store.read()) == expected(ENTRIES, KEYS)
    assert rows(store.read(A.digest, source="cohort")) == expected(ENTRIES, KEYS)
    assert counts(store) == {"features": 3, "sequences": 4, "versions": 1, "rejects": 2, "runs": 1}
    (row,) = store.runs.dataset().to_table().to_pylist()
    assert (row["run_id"], row["run_number"], row["source_name"]) == (run.run_id, 1, "cohort")
    assert (row["read"], row["rejected"], row["distinct"], row["encoded"], row["opened"], row["closed"]) == (6, 2, 3, 3, 4, 0)
    assert store.published_run(run.run_id) == row
    assert store.published_run("another") is None


@local_first
def test_refused_entries_stand_in_rejects_with_run_and_source(store_uri: str, tmp_path: Path) -> None:
    run = fill(store_uri, [*ENTRIES, *REFUSED], tmp_path)
    found = rows(Store(store_uri).rejects.dataset().to_table())
    assert [(row["run_id"], row["source_name"], row["file"]) for row in found] == [(run.run_id, "cohort", run.file)] * 2
    assert {(row["row"], row["sequence_id"], row["text"]) for row in found} == {(5, "bad", "AC-T"), (6, None, "ACGT")}
    assert all(row["reason"] for row in found)


def seen(store: Store) -> tuple:
    """What a reader sees of a store."""
    versions = store.versions().drop_columns(["recorded_at"]).to_pylist()
    return versions, [rows(store.read(one["feature_version"])) for one in versions]


def test_nothing_of_a_run_is_seen_before_its_row_in_runs(store_uri: str, tmp_path: Path) -> None:
    run = Run(store_uri, [*ENTRIES, *REFUSED], tmp_path).encode()
    for step in STEPS:
        store = Store(store_uri)
        assert len(store.versions()) == 0, step
        with pytest.raises(StoreError, match="no run has been published"):
            store.read()
        run.step(step)
    before = seen(Store(store_uri))
    assert before[1] == [expected(ENTRIES, KEYS)]
    # A second run changes, closes and opens entries, and adds a key and a version.
    later = [entry._replace(keys={**entry.keys, "haplotype": "h1"}) for entry in CHANGED]
    run = Run(store_uri, later, tmp_path, version=B).encode()
    for step in STEPS:
        assert seen(Store(store_uri)) == before, step
        run.step(step)
    store = Store(store_uri)
    assert rows(store.read(B.digest)) == expected(later, [*KEYS, "haplotype"], version=B)
    assert rows(store.read(A.digest)) == expected(ENTRIES, KEYS)


@pytest.mark.parametrize("stop", range(len(STEPS) + 1))
def test_a_run_that_died_anywhere_is_made_good_by_any_other(tmp_path: Path, stop: int) -> None:
    store = str(tmp_path / "store")
    fill(store, ENTRIES, tmp_path)
    dead = Run(store, [*CHANGED, Entry("x", "CCCC")], tmp_path).encode()
    for step in STEPS[:stop]:
        dead.step(step)
    after = fill(store, CHANGED, tmp_path)
    assert rows(Store(store).read()) == expected(CHANGED, KEYS)
    assert as_of(Store(store), "cohort", 1) == states(ENTRIES)
    assert as_of(Store(store), "cohort", after.number) == states(CHANGED)
    check_features(Store(store))
    check_intervals(Store(store))


# intervals


@local_first
def test_a_run_without_changes_opens_and_closes_nothing(store_uri: str, tmp_path: Path) -> None:
    fill(store_uri, ENTRIES, tmp_path)
    version = Store(store_uri).sequences.paths()
    for number in (2, 3):
        run = fill(store_uri, ENTRIES[::-1], tmp_path)
        assert (run.number, run.opened, run.closed, run.work.missing.rows, run.files) == (number, 0, 0, 0, [])
    assert Store(store_uri).sequences.paths() == version
    assert rows(Store(store_uri).read()) == expected(ENTRIES, KEYS)
    assert counts(store_uri) == {"features": 3, "sequences": 4, "versions": 1, "rejects": 0, "runs": 3}


@pytest.mark.parametrize("mode", ["replace", "merge"])
def test_a_source_that_older_releases_read_by_no_rule_opens_and_closes_nothing(tmp_path: Path, mode: str) -> None:
    store = str(tmp_path / "store")
    source = [
        Entry("S1 ", "ACGT", {"subject": "1000017.0", "site": "NA"}),
        Entry("S1", "GGCC", {"subject": " S2", "site": "x"}),
        Entry("c", "AACC", {"subject": "1e+10", "site": None}),
    ]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("dnafeat.keys.named", lambda column: column)
        fill(store, source, tmp_path)
    run = fill(store, source, tmp_path, mode=mode)
    assert run.intake.entries.table()["subject"].to_pylist() == ["1000017", "S2", "10000000000"]
    assert (run.opened, run.closed, run.work.missing.rows) == (0, 0, 0)
    # A change is one, and what is gone is closed.
    changed = [source[0]._replace(sequence="ACGA"), source[1]]
    run = fill(store, changed, tmp_path, mode=mode)
    assert (run.opened, run.closed) == (1, 2 if mode == "replace" else 1)


def test_ids_that_were_floats_keep_their_entries(tmp_path: Path) -> None:
    store = str(tmp_path / "store")
    fill(store, [Entry("1e+10", "ACGT"), Entry("10000000001.0", "GGCC"), Entry("10000000001.00", "GGCC")], tmp_path)
    run = fill(store, [Entry("10000000000", "ACGT"), Entry("10000000001", "GGCC")], tmp_path)
    # Of two that are spelled alike the first keeps its entry.
    assert (run.opened, run.closed) == (0, 1)
    assert len(Store(store).read()) == 2


def test_keys_of_one_source_leave_another_without_them_alone(tmp_path: Path) -> None:
    store = str(tmp_path / "store")
    plain = [Entry("a", "ACGT"), Entry("b", "GGCC")]
    fill(store, plain, tmp_path, source="plain")
    fill(store, ENTRIES, tmp_path, source="keyed")
    again = fill(store, plain, tmp_path, source="plain")
    assert (again.opened, again.closed) == (0, 0)
    again = fill(store, ENTRIES, tmp_path, source="keyed")
    assert (again.opened, again.closed) == (0, 0)


def test_a_key_column_that_comes_and_goes_without_values_changes_nothing(tmp_path: Path) -> None:
    store = str(tmp_path / "store")
    plain = [Entry("a", "ACGT", {"m": "v"}), Entry("b", "GGCC", {"m": "v"})]
    fill(store, plain, tmp_path)
    for keys in (["a", "m"], ["m", "z"], ["a", "m", "z", "A1"], ["m"]):
        run = fill(store, plain, tmp_path, keys=keys)
        assert (run.opened, run.closed) == (0, 0), keys
    assert rows(Store(store).read()) == expected(plain, ["m"])


@local_first
def test_keys_that_come_later_are_null_before(store_uri: str, tmp_path: Path) -> None:
    before = [Entry("a", "ACGT"), Entry("b", "GGCC")]
    fill(store_uri, before, tmp_path)
    after = [Entry("a", "ACGT", {"subject": "s1"}), Entry("b", "GGCC")]
    run = fill(store_uri, after, tmp_path)
    assert (run.opened, run.closed) == (1, 1)
    store = Store(store_uri)
    assert rows(store.read()) == expected(after, ["subject"])
    assert as_of(store, "cohort", 1) == states(before)
    table = store.sequences.dataset().to_table().to_pylist()
    found = {(row["sequence_id"], row["from_run"], row["until_run"], row["subject"]) for row in table}
    assert found == {("a", 1, 2, None), ("a", 2, None, "s1"), ("b", 1, None, None)}


def test_a_key_that_loses_its_value_is_a_change_and_an_empty_cell_is_a_null(tmp_path: Path) -> None:
    store = str(tmp_path / "store")
    fill(store, [Entry("a", "ACGT", {"k": "x"})], tmp_path)
    for keys, changes in (({"k": None}, 1), ({"k": ""}, 0), ({}, 0), ({"k": "x"}, 1)):
        run = fill(store, [Entry("a", "ACGT", keys)], tmp_path, keys=["k"])
        assert (run.opened, run.closed) == (changes, changes), keys
        (row,) = Store(store).read().to_pylist()
        assert row.get("k") == (keys.get("k") or None)


def test_a_value_that_moves_to_another_key_is_a_change(tmp_path: Path) -> None:
    store = str(tmp_path / "store")
    moves: list[dict[str, str | None]] = [
        {"k": "x", "l": "y"},
        {"k": "y", "l": "x"},
        {"k": None, "l": "x"},
        {"k": "x", "l": None},
        {"k": "xl", "l": None},
        # Whatever separates keys inside the library may stand in a value.
        {"k": "x", "l": "y"},
        {"k": "x\x1e\x1fl\x1fy", "l": None},
        {"k": "x\x1el\x1fy", "l": None},
        {"k": "x", "l": "y"},
    ]
    fill(store, [Entry("a", "ACGT", moves[0])], tmp_path)
    for keys in moves[1:]:
        run = fill(store, [Entry("a", "ACGT", keys)], tmp_path, keys=["k", "l"])
        (row,) = Store(store).read().to_pylist()
        assert {key: row.get(key) for key in ("k", "l")} == keys
        assert (run.opened, run.closed) == (1, 1), keys


@local_first
def test_a_second_source_leaves_the_first_as_it_was(store_uri: str, tmp_path: Path) -> None:
    fill(store_uri, ENTRIES, tmp_path, source="one")
    other = [Entry("a", "CCCC", {"subject": "s9"}), Entry("z", "ACGT")]
    run = fill(store_uri, other, tmp_path, source="two")
    assert (run.number, run.opened, run.closed, run.work.missing.rows) == (2, 2, 0, 1)
    store = Store(store_uri)
    both = in_order(expected(ENTRIES, KEYS, source="one") + expected(other, KEYS, source="two"))
    assert rows(store.read(source="one")) == expected(ENTRIES, KEYS, source="one")
    assert rows(store.read(source="two")) == expected(other, KEYS, source="two")
    assert rows(store.read()) == both
    fill(store_uri, [], tmp_path, source="two")
    assert rows(Store(store_uri).read()) == expected(ENTRIES, KEYS, source="one")
    assert rows(Store(store_uri).read(source="two")) == []


@local_first
def test_two_versions_hold_one_source_as_of_their_own_runs(store_uri: str, tmp_path: Path) -> None:
    fill(store_uri, ENTRIES, tmp_path)
    run = fill(store_uri, CHANGED, tmp_path, version=B)
    assert (run.work.distinct, run.work.missing.rows) == (4, 4)
    store = Store(store_uri)
    assert rows(store.read(A.digest)) == expected(ENTRIES, KEYS)
    assert rows(store.read(B.digest)) == expected(CHANGED, KEYS, version=B)
    fill(store_uri, CHANGED, tmp_path)
    assert rows(Store(store_uri).read(A.digest)) == expected(CHANGED, KEYS)
    assert {row["feature_version"]: row["sequences"] for row in Store(store_uri).versions().to_pylist()} == {
        A.digest: 4,
        B.digest: 4,
    }


LETTERS = ["ACGT", "GGCC", "TTTT", "CCCC"]
ONE_ENTRY = st.tuples(
    st.sampled_from(LETTERS),
    st.dictionaries(st.sampled_from(["k", "l", "m"]), st.sampled_from(["x", "y", "", "k"]), max_size=2),
)
STATE = st.dictionaries(st.sampled_from(["a", "b", "c", "d"]), ONE_ENTRY, max_size=4)
HISTORY = st.lists(st.tuples(st.sampled_from(["one", "two"]), st.sampled_from([A, B]), STATE), min_size=2, max_size=5)


@settings(max_examples=examples(4, 10))
@given(history=HISTORY)
@example(
    history=[
        ("one", A, {"a": ("ACGT", {}), "b": ("GGCC", {"k": "x"})}),
        ("two", A, {"a": ("ACGT", {"l": "y"})}),
        ("one", A, {"b": ("GGCC", {"k": "x"})}),
        ("one", B, {"a": ("ACGT", {}), "b": ("TTTT", {"k": "x"})}),
        ("one", A, {"a": ("ACGT", {}), "b": ("GGCC", {"k": "x"})}),
    ]
)
def test_any_history_of_sources_can_be_read_now_and_as_of_every_run(history: list) -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        store = Store(str(folder / "store"))
        keys: list[str] = []
        current: dict[str, dict[str, tuple]] = {"one": {}, "two": {}}
        past: list[tuple[str, int, dict[str, tuple]]] = []
        published: dict[tuple[str, str], list[Entry]] = {}
        for source, version, wanted in history:
            entries = [Entry(one, letters, values) for one, (letters, values) in wanted.items()]
            run = fill(str(folder / "store"), entries, folder, source=source, version=version)
            keys += [key for key in run.intake.keys if key not in keys]
            before, now = current[source], states(entries)
            assert run.opened == sum(before.get(one) != value for one, value in now.items())
            assert run.closed == sum(now.get(one) != value for one, value in before.items())
            assert run.number == len(past) + 1
            current[source] = now
            past.append((source, run.number, now))
            published[version.digest, source] = entries
            for made_by in [one for one in (A, B) if one.digest in {by for by, _ in published}]:
                own = {name_: state_ for (by, name_), state_ in published.items() if by == made_by.digest}
                shown = [key for key in keys if any(entry.keys.get(key) for state_ in own.values() for entry in state_)]
                wanted_rows = [
                    row for name_, state_ in own.items() for row in expected(state_, shown, source=name_, version=made_by)
                ]
                assert in_order(Store(store.uri).read(made_by.digest).to_pylist()) == in_order(wanted_rows)
        assert {(row["feature_version"], name) for row in store.versions().to_pylist() for name in row["sources"]} == {*published}
        for source, number, now in past:
            assert as_of(store, source, number) == now
        check_features(store)
        check_intervals(store)


# several at once


def test_runs_that_overlap_store_each_vector_once(store_uri: str, tmp_path: Path) -> None:
    pool = [f"ACGT{'ACGT'[i % 4]}{'ACGT'[i // 4]}" for i in range(16)]
    mine = [Entry(f"m{i}", one) for i, one in enumerate(pool[:10])]
    other = [Entry(f"o{i}", one) for i, one in enumerate(pool[4:])]
    first = Run(store_uri, mine, tmp_path, source="one", shard_rows=3).plan()
    second = Run(store_uri, other, tmp_path, source="two", shard_rows=2).plan()
    first.write(), second.write()
    assert (first.planned, first.work.missing.rows) == (second.planned, 10)
    assert second.work.missing.rows == 12
    first.publish()
    second.publish()
    assert (first.published, second.published) == (True, True)
    store = Store(store_uri)
    check_features(store)
    assert counts(store)["features"] == 16
    assert sum(file.rows for file in second.committed) == 6
    assert rows(store.read(source="one")) == expected(mine, source="one")
    assert rows(store.read(source="two")) == expected(other, source="two")
    own = store.features.dataset().to_table(columns=["sequence_digest", "run_id"]).to_pylist()
    assert {row["sequence_digest"] for row in own if row["run_id"] == first.run_id} == {digest(one) for one in pool[:10]}


@local_first
def test_runs_that_overlap_wholly_store_each_vector_once(store_uri: str, tmp_path: Path) -> None:
    runs = [Run(store_uri, ENTRIES, tmp_path, source=source).encode() for source in ("one", "two")]
    for run in runs:
        run.publish()
    check_features(Store(store_uri))
    assert runs[1].committed == []
    assert counts(store_uri)["features"] == 3
    for source in ("one", "two"):
        assert rows(Store(store_uri).read(source=source)) == expected(ENTRIES, KEYS, source=source)


def test_the_same_sequences_in_two_versions_do_not_overlap(tmp_path: Path) -> None:
    store = str(tmp_path / "store")
    runs = [Run(store, ENTRIES, tmp_path, version=version).encode() for version in (A, B)]
    for run in runs:
        run.publish()
    assert counts(store)["features"] == 6
    for version in (A, B):
        assert rows(Store(store).read(version.digest)) == expected(ENTRIES, KEYS, version=version)


def before_commit(monkeypatch: pytest.MonkeyPatch, name: str, call: Callable[[], object]) -> None:
    """Has `call` happen once between the check and the commit of the next writer to a table."""
    commit = Table.commit
    waiting = [call]

    def commit_later(self: Table, *arguments: object, **options: object) -> None:
        if self.name == name and waiting:
            waiting.pop()()
        commit(self, *arguments, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(Table, "commit", commit_later)


@pytest.mark.parametrize("name", ["features", "sequences", "runs"])
def test_a_run_that_is_overtaken_between_check_and_commit_checks_again(
    store_uri: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    fill(store_uri, ENTRIES[:1], tmp_path)
    slow = Run(store_uri, ENTRIES, tmp_path).encode()
    fast = Run(store_uri, CHANGED, tmp_path).encode()
    before_commit(monkeypatch, name, fast.publish)
    slow.publish()
    store = Store(store_uri)
    check_features(store)
    check_intervals(store)
    assert (slow.published, fast.published, slow.number != fast.number) == (True, True, True)
    assert counts(store)["features"] == len({digest(entry.sequence) for entry in ENTRIES + CHANGED})
    last = ENTRIES if slow.number > fast.number else CHANGED
    assert rows(store.read()) == expected(last, KEYS)
    for run, entries in ((slow, ENTRIES), (fast, CHANGED)):
        assert as_of(store, "cohort", run.number) == states(entries)


def test_runs_that_race_take_numbers_of_their_own_and_keep_intervals_whole(store_uri: str, tmp_path: Path) -> None:
    fill(store_uri, ENTRIES, tmp_path, source="shared")
    wanted = [
        ("shared", CHANGED),
        ("shared", [ENTRIES[2]._replace(sequence="AAAA")]),
        ("one", [*ENTRIES, *REFUSED]),
        ("two", [Entry("a", "ACGT", {"other": "key"}), *REFUSED]),
    ]
    runs = [Run(store_uri, entries, tmp_path, source=source).encode() for source, entries in wanted]
    together = threading.Barrier(len(runs))

    def publish_one(run: Run) -> Run:
        together.wait()
        return run.publish()

    with ThreadPoolExecutor(len(runs)) as pool:
        done = list(pool.map(publish_one, runs))
    store = Store(store_uri)
    assert sorted(run.number for run in done) == [2, 3, 4, 5]
    assert sorted(store.runs.dataset().to_table()["run_number"].to_pylist()) == [1, 2, 3, 4, 5]
    assert counts(store)["rejects"] == 4
    assert counts(store)["versions"] == 1
    check_features(store)
    check_intervals(store)
    for run, (source, entries) in zip(done, wanted, strict=True):
        good = [entry for entry in entries if entry not in REFUSED]
        assert as_of(store, source, run.number) == states(good)
    last = max(done[:2], key=lambda run: run.number)
    keys = [name for name in store.sequences.schema().names if name not in arrow_schema("sequences").names]
    assert rows(store.read(source="shared")) == expected(wanted[done.index(last)][1], keys, source="shared")


# the same run again


def test_a_run_id_is_published_once(store_uri: str, tmp_path: Path) -> None:
    one, other = (Run(store_uri, [*ENTRIES, *REFUSED], tmp_path, run_id="nightly").encode() for _ in range(2))
    assert one.publish().published is True
    assert other.publish().published is False
    store = Store(store_uri)
    assert counts(store) == {"features": 3, "sequences": 4, "versions": 1, "rejects": 2, "runs": 1}
    assert rows(store.read()) == expected(ENTRIES, KEYS)


def test_refused_entries_stand_once_a_run_id(tmp_path: Path) -> None:
    store = str(tmp_path / "store")
    dead = Run(store, [*ENTRIES, *REFUSED], tmp_path, run_id="nightly").encode()
    for step in STEPS[:3]:
        dead.step(step)
    fill(store, [*ENTRIES, *REFUSED], tmp_path, run_id="nightly")
    assert counts(store)["rejects"] == 2


def lose_replies(monkeypatch: pytest.MonkeyPatch, *names: str) -> list[str]:
    """The next commit to each of the tables goes through, and its writer is told that it did not."""
    commit, waiting, lost = Table.commit, list(names), []

    def commit_silently(self: Table, *arguments: object, **options: object) -> None:
        commit(self, *arguments, **options)  # type: ignore[arg-type]
        if self.name in waiting:
            waiting.remove(self.name)
            lost.append(self.name)
            raise Refused("the reply was lost")

    monkeypatch.setattr(Table, "commit", commit_silently)
    return lost


def check_lost_replies(store: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *names: str) -> None:
    lost = lose_replies(monkeypatch, *names)
    run = fill(store, [*ENTRIES, *REFUSED], tmp_path, shard_rows=2)
    assert sorted(lost) == sorted(names)
    assert (run.published, run.number, run.opened, run.closed, len(run.committed)) == (True, 1, 4, 0, 2)
    assert counts(store) == {"features": 3, "sequences": 4, "versions": 1, "rejects": 2, "runs": 1}
    assert rows(Store(store).read()) == expected(ENTRIES, KEYS)


@pytest.mark.parametrize("name", TABLES)
def test_a_lost_reply_doubles_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    check_lost_replies(str(tmp_path / "store"), tmp_path, monkeypatch, name)


def test_five_lost_replies_double_nothing(store_uri: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    check_lost_replies(store_uri, tmp_path, monkeypatch, *TABLES)


def test_a_lost_reply_to_a_change_is_counted_as_it_was_committed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = str(tmp_path / "store")
    fill(store, ENTRIES, tmp_path)
    lost = lose_replies(monkeypatch, "sequences")
    run = fill(store, CHANGED, tmp_path)
    assert (lost, run.number, run.opened, run.closed) == (["sequences"], 2, 3, 3)
    assert rows(Store(store).read()) == expected(CHANGED, KEYS)


def test_a_lost_reply_to_a_channel_records_it_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = Store(str(tmp_path / "store"))
    fill(store, ENTRIES, tmp_path)
    lost = lose_replies(monkeypatch, "versions")
    store.point("production", A.digest)
    assert lost == ["versions"]
    events = dict(every_row(store))["versions"]["event"].to_pylist()
    assert sorted(events) == ["channel", "created"]


@pytest.mark.parametrize("name", TABLES)
def test_a_commit_that_is_always_overtaken_ends_in_one_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    run = Run(str(tmp_path / "store"), [*ENTRIES, *REFUSED], tmp_path).encode()
    monkeypatch.setattr(tables, "_LONGEST_WAIT", 0.0)
    commit = Table.commit

    def refuse(self: Table, *arguments: object, **options: object) -> None:
        if self.name == name:
            raise Refused("somebody else was first")
        commit(self, *arguments, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(Table, "commit", refuse)
    with pytest.raises(DnafeatError) as error:
        run.publish()
    assert isinstance(error.value, ConflictError)
    assert f"/{name}" in str(error.value)
    assert "\n" not in str(error.value)
    assert len(Store(str(tmp_path / "store")).versions()) == 0


def test_vectors_that_went_away_since_the_plan_are_not_published_as_stored(tmp_path: Path) -> None:
    store = str(tmp_path / "store")
    fill(store, ENTRIES, tmp_path, source="one")
    run = Run(store, ENTRIES, tmp_path, source="two").encode()
    assert run.work.missing.rows == 0
    DeltaTable(f"{store}/features").delete()
    with pytest.raises(DnafeatError):
        run.publish()
    assert Store(store).published_run(run.run_id) is None


def test_vectors_that_were_moved_since_the_plan_are_still_there(tmp_path: Path) -> None:
    store = str(tmp_path / "store")
    fill(store, ENTRIES, tmp_path, source="one", shard_rows=1)
    runs = [Run(store, entries, tmp_path, source=name).encode() for name, entries in (("two", ENTRIES), ("three", CHANGED))]
    assert [run.work.missing.rows for run in runs] == [0, 1]
    assert DeltaTable(f"{store}/features").optimize.compact()["numFilesRemoved"] > 1
    for run, entries in zip(runs, (ENTRIES, CHANGED), strict=True):
        assert run.publish().published is True
        assert rows(Store(store).read(source=run.source)) == expected(entries, KEYS, source=run.source)
    check_features(Store(store))


# large histories


def test_entries_beyond_one_file_are_opened_and_closed_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dnafeat.embed.opening.ROWS_PER_FILE", 10)
    monkeypatch.setattr("dnafeat.embed.opening._ROWS_AT_A_TIME", 4)
    monkeypatch.setattr("dnafeat.embed.intake._PARTITION_BYTES", 100)
    store = str(tmp_path / "store")
    many = [Entry(f"id{i}", LETTERS[i % 4], {"n": str(i)}) for i in range(95)]
    run = fill(store, many, tmp_path)
    assert run.opened == 95
    assert len(Store(store).sequences.paths()) > 3
    changed = [entry._replace(keys={"n": "other"}) if i % 9 == 0 else entry for i, entry in enumerate(many) if i % 7]
    run = fill(store, changed, tmp_path)
    wanted = [i for i in range(95) if i % 7 and i % 9 == 0]
    assert (run.opened, run.closed) == (len(wanted), len(wanted) + 14)
    assert rows(Store(store).read()) == expected(changed, ["n"])
    assert as_of(Store(store), "cohort", 1) == states(many)
    check_intervals(Store(store))


def test_two_files_of_a_source_are_one_state(tmp_path: Path) -> None:
    run = Run(str(tmp_path / "store"), ENTRIES[:2], tmp_path)
    run.store.create()
    files = [run.file, write_csv(tmp_path / "more.csv", ENTRIES[2:])]
    (tmp_path / "w").mkdir()
    intake = take_in(look(files, ReadOptions()), Checks(), tmp_path / "w")
    none = CommittedVectors("none", [], run.store.features.reload().version())
    number, opened, closed = run.publication.commit_sequences(intake, none, tmp_path / "w")
    assert (number, opened, closed) == (1, 4, 0)
    assert as_of(run.store, "cohort", 1) == states(ENTRIES)


@local_first
def test_a_version_is_recorded_once_however_many_runs_fill_it(store_uri: str, tmp_path: Path) -> None:
    for version in (A, A, B):
        fill(store_uri, ENTRIES, tmp_path, version=version)
    events = dict(every_row(store_uri))["versions"].to_pylist()
    assert [(row["event"], row["feature_version"]) for row in events].count(("created", A.digest)) == 1
    assert len(events) == 2
    assert all(row["lineage"] for row in events)
    assert feature_version(1).digest == A.digest

"""Forgetting: nothing of the subject stays, nothing of anybody else goes, whoever is at work meanwhile and wherever it was cut off."""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from places import local_first
from s3 import S3
from stores import STEPS, A, B, Entry, Run, digest, every_row, expected, feature_rows, fill, rows

from dnafeat import pseudonyms as keyhash
from dnafeat import storage
from dnafeat.cli import main as cli
from dnafeat.embed import plan
from dnafeat.embed.publish import Publication
from dnafeat.errors import ConflictError, ForgottenError, UsageError
from dnafeat.store import Store, merge, rewriting
from dnafeat.store import forget as module
from dnafeat.store import vector_files as vectorfiles
from dnafeat.store.data_file import Change
from dnafeat.store.forget import forget, parse
from dnafeat.store.maintain import maintain
from dnafeat.store.rewriting import forgotten
from dnafeat.store.schema import TABLES
from dnafeat.store.table import Table

KEYS = ["subject", "gene"]
S17 = {"subject": "S17"}
OTHERS = [
    Entry("S1_a", "ACGT", {"subject": "S1", "gene": "BRCA1"}),
    Entry("S1_b", "GGCC", {"subject": "S1"}),
    Entry("S171_a", "TTTT", {"subject": "S171"}),
    Entry("nobody", "CCCC"),
]
# One sequence is shared with others, two are the subject's own.
MINE = [
    Entry("S17_a", "ACGT", {"subject": "S17", "gene": "BRCA1"}),
    Entry("S17_b", "AAAA", {"subject": "S17"}),
    Entry("S17_c", "AACC", {"subject": "S17", "gene": "TP53"}),
]
ALONE = {digest("AAAA"), digest("AACC")}
# The subject's: one by its id, one by its text. Not the subject's: the last.
REFUSED = [Entry("S17_d", "AC-T"), Entry("x", "S17?"), Entry("S171_b", "AC-T")]


def entries(folder: Iterable[Entry]) -> dict[str, tuple]:
    return {entry.id: (digest(entry.sequence), entry.keys.get("subject")) for entry in folder}


def as_of(store: Store, number: int, source: str = "cohort") -> dict[str, tuple]:
    """The entries of a source as of a run number, from `sequences` alone."""
    found = {}
    for row in store.sequences.reload().dataset().to_table().to_pylist():
        until = row["until_run"]
        if row["source_name"] == source and row["from_run"] <= number and (until is None or until > number):
            found[row["sequence_id"]] = row["sequence_digest"], row["subject"]
    return found


def every_file(uri: str) -> Iterator[tuple[str, bytes]]:
    """All files below a place as they lie, and of Parquet files every column as text as well."""
    fs, root = storage.filesystem(uri)
    for path in fs.find(root):
        raw = fs.cat_file(path)
        yield path[len(root) :], path.encode() + raw
        if path.endswith(".parquet"):
            file = pq.ParquetFile(io.BytesIO(raw))
            told = [str(file.metadata.metadata)]
            told += [str(file.metadata.row_group(i).to_dict()) for i in range(file.num_row_groups)]
            yield path[len(root) :], ("".join(told) + json.dumps(file.read().to_pylist(), default=str)).encode()


def holding(uri: str, *texts: str) -> list[str]:
    """Files that hold any of some texts."""
    return sorted({path for path, raw in every_file(uri) if any(text.encode() in raw for text in texts)})


def left_of_subject(uri: str, names: Iterable[str] = ALONE) -> list[str]:
    """Files that hold the subject's id, and those that hold a digest of its own; the log of features keeps the ends of ranges."""
    digests = [path for path in holding(uri, *names) if not path.startswith("/features/_delta_log/")]
    return holding(uri, "S17_", "S17?", '"S17"') + digests


def check_gone(uri: str) -> None:
    """Nothing of the subject stands in a table, and everything of the others does."""
    tables = {name: table.to_pylist() for name, table in every_row(uri)}
    assert [row for row in tables["sequences"] if row["subject"] == "S17"] == []
    assert [row["sequence_id"] for row in tables["rejects"] if "S17" in (row["sequence_id"] or "").split("_")] == []
    assert not ALONE & {row["sequence_digest"] for row in tables["features"]}
    pairs = [(row["feature_version"], row["sequence_digest"]) for row in tables["features"]]
    assert len(pairs) == len(set(pairs))


def as_written(monkeypatch: pytest.MonkeyPatch) -> None:
    """Stores hold ids and keys as they were written, as older releases made them."""
    monkeypatch.setattr("dnafeat.keys.named", lambda column: column)
    monkeypatch.setattr("dnafeat.keys.spelled", lambda column: column)


@pytest.mark.parametrize(
    ("asked", "stored"), [("S1", "S1 "), (" S1", "S1"), ("1000017", "1000017.0"), ("1000017.0", "1000017"), ("NA", "NA")]
)
def test_a_subject_is_found_however_it_was_spelled(tmp_path: Path, asked: str, stored: str) -> None:
    uri = str(tmp_path / "store")
    people = [Entry("a", "ACGT", {"subject": stored}), Entry("b", "GGCC", {"subject": "S10"}), Entry(f"{stored}_x", "AC-T")]
    with pytest.MonkeyPatch.context() as patch:
        as_written(patch)
        fill(uri, people, tmp_path)
    assert [row["subject"] for row in dict(every_row(uri))["sequences"].to_pylist()] == [stored, "S10"]
    assert Store(uri).read(where={"subject": asked})["sequence_id"].to_pylist() == ["a"]
    done = forget(Store(uri), {"subject": asked})
    assert (done.entries, done.rejects, done.vectors) == (1, 1, 1)
    assert [row["subject"] for row in dict(every_row(uri))["sequences"].to_pylist()] == ["S10"]


def test_a_subject_is_found_whose_key_was_hashed_with_a_blank(tmp_path: Path) -> None:
    uri, salt = str(tmp_path / "store"), b"a salt that nobody can guess"
    (tmp_path / "salt").write_bytes(salt)
    hashed = next(keyhash.pseudonyms(["S1 "], salt))
    fill(uri, [Entry("a", "ACGT", {"subject": hashed}), Entry("b", "GGCC", {"subject": "S10"})], tmp_path)
    done = forget(Store(uri), module.hidden({"subject": "S1"}, str(tmp_path / "salt"), uri))
    assert done.entries == 1


# all of the subject, and nothing else


def test_nothing_of_the_subject_is_left_and_all_of_the_others(store_uri: str, tmp_path: Path) -> None:
    # A state of the past, a present one, two versions.
    first = fill(store_uri, [*OTHERS[:2], MINE[1]._replace(sequence="AACC"), *REFUSED], tmp_path, shard_rows=2)
    second = fill(store_uri, [*OTHERS, *MINE], tmp_path, shard_rows=2)
    fill(store_uri, [*OTHERS, *MINE], tmp_path, version=B)
    assert holding(store_uri, "S17_", "S17?") != []
    done = forget(Store(store_uri), {"subject": "S17"})
    assert (done.entries, done.rejects, done.vectors, done.work, done.uncommitted) == (4, 2, 4, 0, 0)
    for version in (A, B):
        assert rows(Store(store_uri).read(version.digest)) == expected(OTHERS, KEYS, version=version)
    assert as_of(Store(store_uri), first.number) == entries(OTHERS[:2])
    assert as_of(Store(store_uri), second.number) == entries(OTHERS)
    refused = dict(every_row(store_uri))["rejects"].to_pylist()
    assert [row["sequence_id"] for row in refused] == ["S171_b"]
    check_gone(store_uri)
    for name in TABLES:
        Table(store_uri, name).snapshot.create_checkpoint()
    # Before the replaced files are deleted they hold it still.
    assert holding(store_uri, "S17_") != []
    kept = {name: rows(table) for name, table in every_row(store_uri)}
    maintain(Store(store_uri))
    assert {name: rows(table) for name, table in every_row(store_uri)} == kept
    assert left_of_subject(store_uri) == []
    assert holding(store_uri, "S171_b") != []
    assert rows(Store(store_uri).read(A.digest)) == expected(OTHERS, KEYS)


def test_conditions_hold_together(tmp_path: Path) -> None:
    store = str(tmp_path / "store")
    fill(store, [*OTHERS, *MINE], tmp_path)
    fill(store, MINE, tmp_path, source="other")
    done = forget(Store(store), {"subject": "S17", "gene": "BRCA1", "source_name": "other"})
    assert (done.entries, done.vectors) == (1, 0)
    assert rows(Store(store).read(source="cohort")) == expected([*OTHERS, *MINE], KEYS)
    assert rows(Store(store).read(source="other")) == expected(MINE[1:], KEYS, source="other")
    assert forget(Store(store), {"sequence_id": "S17_b"}).entries == 2
    assert rows(Store(store).read(source="other")) == expected(MINE[2:], KEYS, source="other")
    assert digest("AAAA") not in Store(store).features.reload().read(["sequence_digest"])["sequence_digest"].to_pylist()
    assert forget(Store(store), {"sequence_digest": digest("ACGT")}).entries == 2
    assert forget(Store(store), {"source_name": "other"}).entries == 1
    assert rows(Store(store).read(source="cohort")) == expected([*OTHERS[1:], MINE[2]], KEYS)


def test_refused_entries_go_by_the_name_of_an_entry_and_by_whole_words(tmp_path: Path) -> None:
    store = str(tmp_path / "store")
    # An entry that was refused before it was mended has its name and nothing else.
    named = Entry("plain", "AAAA", S17)
    bad = [named._replace(sequence="AA-A"), Entry("in-S17", "A-"), Entry("xS17", "A-"), Entry("y", "S17-"), Entry("z", "S171-")]
    fill(store, [*OTHERS, *bad], tmp_path, keys=KEYS)
    fill(store, [*OTHERS, named], tmp_path)
    fill(store, bad[:1], tmp_path, source="other")
    assert forget(Store(store), {"subject": "S17"}).rejects == 3
    left = dict(every_row(store))["rejects"].to_pylist()
    assert {(row["source_name"], row["sequence_id"]) for row in left} == {("cohort", "xS17"), ("cohort", "z"), ("other", "plain")}
    assert forget(Store(store), {"source_name": "other"}).rejects == 1
    assert len(dict(every_row(store))["rejects"]) == 2


def test_a_run_that_is_sent_again_still_replaces_its_refused_entries(tmp_path: Path) -> None:
    store = str(tmp_path / "store")
    dead = Run(store, [*OTHERS, *MINE, *REFUSED], tmp_path, run_id="tonight").encode()
    for step in STEPS[:3]:
        dead.step(step)
    fill(store, MINE, tmp_path, source="earlier")
    forget(Store(store), {"subject": "S17"})
    fill(store, [*OTHERS, REFUSED[2]], tmp_path, run_id="tonight")
    assert [row["sequence_id"] for row in dict(every_row(store))["rejects"].to_pylist()] == ["S171_b"]


def test_nothing_that_matches_is_no_error_and_the_refused_are_searched(tmp_path: Path) -> None:
    store = str(tmp_path / "store")
    fill(store, [*OTHERS, *REFUSED], tmp_path, keys=KEYS)
    done = forget(Store(store), {"subject": "S17"})
    assert (done.entries, done.rejects, done.vectors) == (0, 2, 0)
    assert [forgotten(table.reload()) > 0 for table in (Store(store).sequences, Store(store).rejects)] == [True, True]
    again = forget(Store(store), {"subject": "S17"})
    assert (again.entries, again.rejects, again.vectors) == (0, 0, 0)
    assert rows(Store(store).read()) == expected(OTHERS, KEYS)


# runs that never ended


@local_first
def test_work_and_uncommitted_vectors_of_a_dead_run_lose_the_subject_alone(store_uri: str, tmp_path: Path) -> None:
    fill(store_uri, [*OTHERS[:1], *MINE], tmp_path)
    # A run of another version that died while it was encoding: one shard is written, and all work.
    dead = Run(store_uri, [*OTHERS, *MINE], tmp_path, version=B).plan()
    work = storage.join(store_uri, "work", "dead-01234567")
    shards = plan.cut_shards(dead.work.missing, 100, work)
    plan.cut_check(shards, dead.work.sample, work)
    dead.write()
    own = Store(store_uri).features.reload()
    vectorfiles.write(own, [feature_rows([digest("AAAA")], B)], stem="dead", version=B.digest)
    done = forget(Store(store_uri), {"subject": "S17"})
    assert (done.entries, done.vectors, done.work, done.uncommitted) == (3, 2, 4, 2)
    left = set()
    for shard in storage.listing(work):
        fs, path = storage.filesystem(storage.join(work, shard.path))
        with fs.open(path, "rb") as file:
            left |= set(pq.read_table(file)["sequence_digest"].to_pylist())
    assert left == {digest(entry.sequence) for entry in OTHERS}
    # What the others need of the dead run's file is salvaged.
    after = fill(store_uri, OTHERS, tmp_path, version=B)
    assert (after.work.salvaged, after.work.missing.rows) == (4, 0)
    assert rows(Store(store_uri).read(B.digest)) == expected(OTHERS, KEYS, version=B)
    maintain(Store(store_uri))
    assert left_of_subject(store_uri) == []


def test_an_empty_work_shard_is_deleted(tmp_path: Path) -> None:
    store = str(tmp_path / "store")
    fill(store, [*OTHERS, *MINE], tmp_path)
    work = Path(store, "work", "dead-01234567")
    work.mkdir(parents=True)
    pq.write_table(pa.table({"sequence_digest": [digest("AAAA")], "sequence": [b"AAAA"]}), work / "shard-00000.parquet")
    (work / "other.parquet").write_bytes(b"no Parquet")
    assert forget(Store(store), {"subject": "S17"}).work == 1
    assert [path.name for path in work.iterdir()] == ["other.parquet"]


def test_a_file_that_was_taken_out_cannot_be_committed_any_more(tmp_path: Path) -> None:
    store = str(tmp_path / "store")
    fill(store, [*OTHERS[:1], *MINE], tmp_path)
    run = Run(store, [*OTHERS, *MINE], tmp_path, version=B).encode()
    (file,) = run.files
    forget(Store(store), {"subject": "S17"})
    table = Store(store).features
    with pytest.raises(ForgottenError, match="send the run again"):
        table.settle("late", lambda: Change(added=[file]))
    assert file.path not in table.reload().paths()


# beside others


def parts(run: Run) -> list[Callable[[], Any]]:
    """A run's stages, in their order."""
    return [run.plan, run.write, *(lambda name=name: run.step(name) for name in STEPS)]


@pytest.mark.parametrize(("at", "stored"), [*((at, True) for at in range(1, len(STEPS) + 3)), (2, False), (3, False), (5, False)])
def test_a_run_that_has_read_the_subject_does_not_bring_it_back(tmp_path: Path, at: int, stored: bool) -> None:
    store = str(tmp_path / "store")
    before = [*OTHERS[:2], *MINE[1:2]] if stored else OTHERS[:2]
    fill(store, before, tmp_path, keys=KEYS)
    run = Run(store, [*OTHERS, *MINE, *REFUSED], tmp_path, shard_rows=2)
    stages = parts(run)
    for part in stages[:at]:
        part()
    forget(Store(store), {"subject": "S17"})
    if at <= STEPS.index("sequences") + 2:
        with pytest.raises(ConflictError, match="send the run again") as error:
            [part() for part in stages[at:]]
        # Before it looks at the count it looks for the vectors that it found stored.
        assert isinstance(error.value, ForgottenError) or (
            stored and "were taken out before it could publish" in str(error.value)
        )
        assert Store(store).published_run(run.run_id) is None
        assert rows(Store(store).read()) == expected(OTHERS[:2], KEYS)
    else:
        [part() for part in stages[at:]]
        assert rows(Store(store).read()) == expected(OTHERS, KEYS)
    sequences = dict(every_row(store))["sequences"].to_pylist()
    assert [row for row in sequences if row["subject"] == "S17"] == []
    again = fill(store, [*OTHERS, REFUSED[2]], tmp_path)
    assert rows(Store(store).read()) == expected(OTHERS, KEYS)
    assert again.published
    maintain(Store(store))
    assert left_of_subject(store, []) == []
    # What the run had added to features before it was refused nobody can tell from the vectors of a run that is still alive.
    maintain(Store(store), now=datetime.now(UTC) + timedelta(days=8))
    assert rows(Store(store).read()) == expected(OTHERS, KEYS)
    check_gone(store)
    assert left_of_subject(store) == []


def test_a_run_that_began_before_is_refused_even_when_nothing_matched(store_uri: str, tmp_path: Path) -> None:
    run = Run(store_uri, [*OTHERS, *MINE], tmp_path).encode()
    assert forget(Store(store_uri), {"source_name": "cohort", "sequence_id": "S17_a"}).entries == 0
    with pytest.raises(ForgottenError):
        run.publish()
    after = fill(store_uri, OTHERS, tmp_path)
    assert after.work.missing.rows == 0
    assert rows(Store(store_uri).read()) == expected(OTHERS, KEYS)


STAGES = ["_count", "_gather", "_take_rows", "take_work", "take_uncommitted", "take_vectors", "_notes"]


class Stop(Exception):
    """The process is killed."""


def during(monkeypatch: pytest.MonkeyPatch, stage: str, act: Callable[[], None], *, after: bool, call: int = 1) -> None:
    """Has something happen before or after one stage of the next forget."""
    real, seen = getattr(module, stage), []

    def wrapped(*arguments: Any, **options: Any) -> Any:
        seen.append(stage)
        mine = len(seen) == call
        if mine and not after:
            act()
        found = real(*arguments, **options)
        if mine and after:
            act()
        return found

    monkeypatch.setattr(module, stage, wrapped)


MOMENTS = [("_count", 1), ("_count", 2), ("_take_rows", 1), ("take_work", 1), ("take_uncommitted", 1), ("_take_rows", 2)]


@pytest.mark.parametrize(("stage", "call"), [*MOMENTS, ("take_vectors", 1)])
def test_a_forget_that_was_killed_is_made_good_by_the_next(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stage: str, call: int
) -> None:
    store = str(tmp_path / "store")
    fill(store, [*OTHERS, *MINE, *REFUSED], tmp_path, shard_rows=2)
    Run(store, [*OTHERS, *MINE], tmp_path, version=B).encode()

    def stop() -> None:
        raise Stop

    with monkeypatch.context() as patch:
        during(patch, stage, stop, after=True, call=call)
        with pytest.raises(Stop):
            forget(Store(store), {"subject": "S17"})
    current = rows(Store(store).read())
    assert current in (expected([*OTHERS, *MINE], KEYS), expected(OTHERS, KEYS))
    forget(Store(store), {"subject": "S17"})
    maintain(Store(store))
    check_gone(store)
    assert rows(Store(store).read()) == expected(OTHERS, KEYS)
    assert left_of_subject(store) == []


@pytest.mark.parametrize(("stage", "call"), MOMENTS)
def test_maintain_or_a_run_or_another_forget_at_any_moment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stage: str, call: int
) -> None:
    store = str(tmp_path / "store")
    for night in range(3):
        fill(store, [*OTHERS[: night + 2], *MINE, *REFUSED], tmp_path)
    other = Entry("new", "AAAA", {"subject": "S2"})

    def act() -> None:
        monkeypatch.undo()
        forget(Store(store), {"subject": "S1"})
        monkeypatch.setattr(merge, "_FEWEST", 2)
        maintain(Store(store))
        # Somebody else turns out to have one of the subject's sequences.
        fill(store, [other], tmp_path, source="other")

    during(monkeypatch, stage, act, after=True, call=call)
    forget(Store(store), {"subject": "S17"})
    kept = [entry for entry in OTHERS if entry.keys.get("subject") != "S1"]
    for _ in range(2):
        assert rows(Store(store).read(source="cohort")) == expected(kept, ["subject"])
        assert rows(Store(store).read(source="other")) == expected([other], ["subject"], source="other")
        maintain(Store(store))
    assert left_of_subject(store, [digest("AACC")]) == []


def test_a_run_that_names_a_digest_while_its_vectors_are_taken_out_keeps_them_or_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = str(tmp_path / "store")
    fill(store, [*OTHERS, *MINE], tmp_path)
    other = [Entry("new", "AAAA", {"subject": "S2"})]
    real, runs = rewriting.named, []

    def meanwhile(*arguments: Any) -> Any:
        found = real(*arguments)
        if not runs:
            # After `sequences` was looked at, before the vectors go.
            runs.append(fill(store, other, tmp_path, source="other"))
        return found

    monkeypatch.setattr(rewriting, "named", meanwhile)
    done = forget(Store(store), {"subject": "S17"})
    assert done.vectors == 1
    assert runs[0].published
    assert rows(Store(store).read(source="other")) == expected(other, KEYS, source="other")


def test_vectors_that_go_between_names_and_seal_are_missed_by_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = str(tmp_path / "store")
    fill(store, [*OTHERS, *MINE], tmp_path)
    other = [Entry("new", "AAAA", {"subject": "S2"})]
    real, seal = rewriting.named, Publication._seal
    late: list[Run] = []

    def meanwhile(*arguments: Any) -> Any:
        # The forget has looked at `sequences`; now the run names the digest, then the forget commits, then the run looks.
        found = real(*arguments)
        if not late:
            late.append(Run(store, other, tmp_path, source="other").encode())
            for step in STEPS[:4]:
                late[0].step(step)
        return found

    sealed: list[Any] = []
    monkeypatch.setattr(Publication, "_seal", lambda *given: sealed.append(given))
    monkeypatch.setattr(rewriting, "named", meanwhile)
    assert forget(Store(store), {"subject": "S17"}).vectors == 2
    with pytest.raises(ConflictError, match="taken out"):
        seal(*sealed[0])
    monkeypatch.undo()
    again = fill(store, other, tmp_path, source="other")
    assert again.work.missing.rows == 1
    assert len(Store(store).read(source="other")) == 1


def test_a_reader_at_any_moment_sees_all_or_none_of_the_subject(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = str(tmp_path / "store")
    fill(store, [*OTHERS, *MINE], tmp_path)
    seen = []
    for stage in STAGES:
        during(monkeypatch, stage, lambda: seen.append(rows(Store(store).read())), after=False)
    forget(Store(store), {"subject": "S17"})
    assert len(seen) == len(STAGES)
    assert seen[0] == expected([*OTHERS, *MINE], KEYS)
    assert seen[-1] == expected(OTHERS, KEYS)
    assert all(one in (seen[0], seen[-1]) for one in seen)


@local_first
def test_two_forgets_and_maintains_at_once(store_uri: str, tmp_path: Path) -> None:
    for night in range(4):
        fill(store_uri, [*OTHERS[: night + 1], *MINE], tmp_path)
    with ThreadPoolExecutor() as pool:
        jobs = [pool.submit(forget, Store(store_uri), {"subject": one}) for one in ("S17", "S17", "S1")]
        jobs += [pool.submit(maintain, Store(store_uri)) for _ in range(2)]
        for job in jobs:
            job.result()
    kept = [entry for entry in OTHERS if entry.keys.get("subject") != "S1"]
    assert rows(Store(store_uri).read()) == expected(kept, ["subject"])
    maintain(Store(store_uri))
    assert holding(store_uri, "S1_") + left_of_subject(store_uri) == []


def test_maintain_after_a_forget_deletes_at_once_and_only_then(tmp_path: Path) -> None:
    store = str(tmp_path / "store")
    for night in range(4):
        fill(store, [*OTHERS[: night + 1], *MINE], tmp_path)
    forget(Store(store), {"subject": "S17"})
    planned = maintain(Store(store), dry_run=True)
    done = maintain(Store(store))
    assert vars(planned) | {"dry_run": False} == vars(done)
    # One file of sequences was replaced a day before, and the others were merged.
    assert done.files_vacuumed > 4
    for name in ("features", "sequences", "rejects"):
        assert {path.name for path in Path(store, name).rglob("*.parquet")} == {
            storage.name(path) for path in Table(store, name).paths()
        }
    there = {name: Table(store, name).version() for name in TABLES}
    assert maintain(Store(store)).files_vacuumed == 0
    assert {name: Table(store, name).version() for name in TABLES} == there


# what is said


def test_a_bucket_that_keeps_old_versions_is_told_of(s3: S3, tmp_path: Path) -> None:
    uri = s3.uri()
    fill(uri, [*OTHERS, *MINE], tmp_path)
    assert not any("old versions" in note for note in forget(Store(uri), S17).notes)
    fs, _ = storage.filesystem(uri)
    fs.call_s3("put_bucket_versioning", Bucket=s3.bucket, VersioningConfiguration={"Status": "Enabled"})
    try:
        assert any("keeps old versions" in note for note in forget(Store(uri), S17).notes)
    finally:
        fs.call_s3("put_bucket_versioning", Bucket=s3.bucket, VersioningConfiguration={"Status": "Suspended"})


def test_names_of_sources_and_runs_that_hold_the_value_are_told_of(tmp_path: Path) -> None:
    store = str(tmp_path / "store")
    fill(store, MINE, tmp_path, source="files/S17.fa")
    assert any("1 rows of table runs" in note for note in forget(Store(store), S17).notes)
    assert not any("rows of table" in note for note in forget(Store(store), {"subject": "S1"}).notes)


def test_the_command_tells_what_it_did(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    store = str(tmp_path / "store")
    fill(store, [*OTHERS, *MINE, *REFUSED], tmp_path)
    assert cli.main(["forget", "--store", store, "--where", "subject=S17", "--where", "gene=TP53", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert (told["where"], told["entries"], told["vectors"]) == ({"subject": "S17", "gene": "TP53"}, 1, 1)
    assert cli.main(["forget", "--store", store, "--where", "subject=S17"]) == 0
    out = capsys.readouterr().out
    assert "2 entries" in out
    assert "dnafeat maintain" in out
    assert "sources themselves must no longer hold it" in out
    assert cli.main(["forget", "--store", store, "--where", "subject=S17"]) == 0
    assert "no entry with subject=S17" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("conditions", "message"),
    [
        (["colour=red"], "there are source_name, sequence_id, sequence_digest, subject, gene"),
        (["from_run=1"], "no column 'from_run'"),
        (["subject"], "not COLUMN=VALUE"),
        (["subject="], "not COLUMN=VALUE"),
        (["=S17"], "not COLUMN=VALUE"),
        (["subject=S1", "subject=S2"], "twice"),
        ([], "say what to forget"),
    ],
)
def test_conditions_that_make_no_sense_change_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture, conditions: list[str], message: str
) -> None:
    store = str(tmp_path / "store")
    fill(store, OTHERS, tmp_path)
    there = {name: Table(store, name).version() for name in TABLES}
    arguments = [part for one in conditions for part in ("--where", one)]
    assert cli.main(["forget", "--store", store, *arguments]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
    assert {name: Table(store, name).version() for name in TABLES} == there


def test_no_store_is_one_sentence(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    assert cli.main(["forget", "--store", str(tmp_path / "none"), "--where", "subject=S17"]) == 2
    assert "there is no store" in capsys.readouterr().err


def test_values_may_hold_an_equals_sign() -> None:
    assert parse(["a=b=c", "d==e"]) == {"a": "b=c", "d": "=e"}
    with pytest.raises(UsageError):
        parse([""])

"""Maintenance: the same rows in fewer files, nothing left over, and nobody who is at work meanwhile notices."""

from __future__ import annotations

import itertools
import json
import os
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor, wait
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from counts import examples
from hypothesis import given, settings
from hypothesis import strategies as st
from places import local_first
from s3 import S3
from stores import STEPS, A, B, Entry, Run, digest, every_row, expected, feature_rows, fill, rows

from dnafeat import buckets, storage
from dnafeat.cli import main as cli
from dnafeat.embed.publish import Publication
from dnafeat.errors import ConflictError, StoreError
from dnafeat.store import Store, merge, vacuum
from dnafeat.store import maintain as maintenance
from dnafeat.store import vector_files as vectorfiles
from dnafeat.store.collect import Unnamed, find_unnamed
from dnafeat.store.data_file import DataFile
from dnafeat.store.maintain import maintain
from dnafeat.store.schema import TABLES
from dnafeat.store.table import Table
from dnafeat.store.upkeep import Upkeep
from dnafeat.vectors import VECTORS

KEYS = ["subject"]
LATER = timedelta(days=8)


def entries(start: int, end: int) -> list[Entry]:
    """One for each number, with a sequence of its own."""
    letters = ["".join("ACGT"[(i >> 2 * place) & 3] for place in range(6)) for i in range(start, end)]
    return [Entry(f"e{i}", f"ACGT{one}", {"subject": f"s{i % 3}"}) for i, one in zip(range(start, end), letters, strict=True)]


def nights(uri: str, folder: Path, count: int = 4, **options: Any) -> list[Run]:
    """Runs that each bring two entries more, change one and refuse another."""
    runs = []
    for night in range(count):
        now = entries(0, 2 * night + 2)
        now[0] = now[0]._replace(keys={"subject": f"moved{night}"})
        runs.append(fill(uri, [*now, Entry(f"bad{night}", "AC-T")], folder, **options))
    return runs


def state(uri: str) -> dict[str, list[dict[str, Any]]]:
    return {name: rows(table) for name, table in every_row(uri)}


def versions(uri: str) -> dict[str, int]:
    return {name: Table(uri, name).version() for name in TABLES}


def in_days(days: float) -> datetime:
    return datetime.now(UTC) + timedelta(days=days)


def check_features(uri: str) -> None:
    """Every digest once a version."""
    found = Store(uri).features.dataset().to_table(columns=["sequence_digest", "feature_version"]).to_pylist()
    assert max(Counter((row["feature_version"], row["sequence_digest"]) for row in found).values()) == 1


# small files


def test_small_files_become_one_and_hold_the_same_rows(store_uri: str, tmp_path: Path) -> None:
    nights(store_uri, tmp_path)
    fill(store_uri, entries(0, 8), tmp_path, version=B, shard_rows=2)
    before, read = state(store_uri), rows(Store(store_uri).read(A.digest))
    files = sum(len(Table(store_uri, name).paths()) for name in TABLES)
    there = versions(store_uri)
    planned = maintain(Store(store_uri), dry_run=True)
    assert versions(store_uri) == there
    done = maintain(Store(store_uri))
    assert (done.files_before, done.files_after) == (files, sum(len(Table(store_uri, name).paths()) for name in TABLES))
    assert {name: len(Table(store_uri, name).paths()) for name in ("features", "sequences", "rejects", "runs")} == {
        "features": 2,
        "sequences": 1,
        "rejects": 1,
        "runs": 1,
    }
    assert state(store_uri) == before
    assert rows(Store(store_uri).read(A.digest)) == read
    assert planned.dry_run
    assert vars(planned) | {"dry_run": False} == vars(done)
    assert done.bytes_rewritten > 0


def test_what_is_maintained_is_left_alone(tmp_path: Path) -> None:
    store_uri = str(tmp_path / "store")
    nights(store_uri, tmp_path)
    maintain(Store(store_uri))
    there = versions(store_uri)
    again = maintain(Store(store_uri))
    assert versions(store_uri) == there
    assert again.files_before == again.files_after
    assert (again.bytes_rewritten, again.rows_collected, again.files_vacuumed, again.abandoned_files) == (0, 0, 0, 0)
    # Replaced files go after a week, and then there is nothing left to do either.
    later = maintain(Store(store_uri), now=in_days(8))
    assert later.files_vacuumed > 10
    there = versions(store_uri)
    assert maintain(Store(store_uri), now=in_days(8)).files_vacuumed == 0
    assert versions(store_uri) == there
    assert len(Store(store_uri).read()) == 8


def test_a_merged_file_has_its_rows_in_digest_order_and_a_receipt(tmp_path: Path) -> None:
    store = Store(str(tmp_path / "store"))
    nights(store.uri, tmp_path)
    maintain(store)
    ((file, _),) = store.features.reload().files()
    assert storage.name(file.path).startswith("sorted-")
    own = vectorfiles.read_digests(store.features, file.path)
    assert (np.sort(own) == own).all()
    receipt = vectorfiles.read_receipt(store.features, file.path, file.size, A.digest)
    assert receipt is not None
    assert receipt.file == file
    assert set(receipt.norms) == set(VECTORS)
    ((file, _),) = store.sequences.reload().files()
    ids = store.sequences.read_file(file.path).select(["sequence_id", "from_run"]).to_pylist()
    assert ids == sorted(ids, key=lambda row: (row["sequence_id"], row["from_run"]))


def test_the_log_says_that_a_merge_changes_no_row(tmp_path: Path) -> None:
    store = str(tmp_path / "store")
    nights(store, tmp_path)
    number = Table(store, "features").version()
    maintain(Store(store))
    log = Path(store, "features", "_delta_log", f"{number + 1:020}.json").read_text().splitlines()
    actions = [action for line in log for name, action in json.loads(line).items() if name in ("add", "remove")]
    assert len(actions) == 5
    assert not any(action["dataChange"] for action in actions)


def test_a_few_small_files_are_not_worth_it(tmp_path: Path) -> None:
    store = str(tmp_path / "store")
    nights(store, tmp_path, 3)
    there = versions(store)
    assert maintain(Store(store)).bytes_rewritten == 0
    assert versions(store) == there


SIZES = st.lists(st.tuples(st.integers(1, 130), st.integers(1, 100)), max_size=40)


@settings(max_examples=examples(15, 50))
@given(sizes=SIZES)
def test_groups_are_neighbours_of_about_the_target_and_leave_nothing_to_group(sizes: list[tuple[int, int]]) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(merge, "_TARGET", 100)
        files = [DataFile(f"{i}", size, count, {}, {}, {}, {}) for i, (size, count) in enumerate(sizes)]
        groups = merge._grouped(files, 80)
        piles = [[file] for file in files]
        for group in groups:
            assert len(group) >= merge._FEWEST
            assert sum(file.size for file in group) <= 100
            assert sum(file.rows for file in group) <= 80
            first = piles.index([group[0]])
            piles[first : first + 1] = [group]
            piles = [pile for pile in piles if pile == group or pile[0] not in group]
        after = [DataFile("", sum(f.size for f in pile), sum(f.rows for f in pile), {}, {}, {}, {}) for pile in piles]
        assert merge._grouped(after, 80) == []


def test_ranges_of_merged_files_overlap_little(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = str(tmp_path / "store")
    fill(store, entries(0, 48), tmp_path, shard_rows=2)
    size = Store(store).features.files()[0][0].size
    monkeypatch.setattr(merge, "_TARGET", 8 * size)
    maintain(Store(store))
    ends = sorted((file.minimum["sequence_digest"], file.maximum["sequence_digest"]) for file, _ in Store(store).features.files())
    assert 2 <= len(ends) <= 8
    assert all(before[1] < after[0] for before, after in itertools.pairwise(ends))
    assert rows(Store(store).read()) == expected(entries(0, 48), KEYS)


def test_refused_entries_of_an_unpublished_run_are_still_replaced_when_it_is_sent_again(tmp_path: Path) -> None:
    store = str(tmp_path / "store")
    nights(store, tmp_path, 4)
    bad = [Entry("worse", "AC-T"), Entry("e0", "ACGTAAAAAA")]
    dead = Run(store, bad, tmp_path, run_id="tonight").encode()
    for step in STEPS[:3]:
        dead.step(step)
    maintain(Store(store))
    assert len(Table(store, "rejects").paths()) == 2
    fill(store, bad, tmp_path, run_id="tonight")
    found = Store(store).rejects.dataset().to_table(columns=["sequence_id"])["sequence_id"].to_pylist()
    assert sorted(found) == ["bad0", "bad1", "bad2", "bad3", "worse"]


# vectors that no entry names


@local_first
def test_vectors_of_a_dead_run_are_collected_after_a_week(store_uri: str, tmp_path: Path) -> None:
    fill(store_uri, entries(0, 4), tmp_path, shard_rows=1)
    dead = Run(store_uri, entries(2, 8), tmp_path, shard_rows=2).encode()
    for step in STEPS[:2]:
        dead.step(step)
    assert len(Store(store_uri).features.read([])) == 8
    # A run that is sent again counts on them.
    soon = maintain(Store(store_uri))
    assert soon.rows_collected == 0
    assert len(Store(store_uri).features.read([])) == 8
    assert len(Store(store_uri).features.paths()) == 3, "files whose vectors wait are not merged, the others are"
    planned = maintain(Store(store_uri), dry_run=True, now=in_days(8))
    done = maintain(Store(store_uri), now=in_days(8))
    assert vars(planned) | {"dry_run": False} == vars(done)
    assert done.rows_collected == 4
    assert rows(Store(store_uri).read()) == expected(entries(0, 4), KEYS)
    assert len(Store(store_uri).features.read([])) == 4
    after = fill(store_uri, entries(2, 8), tmp_path)
    assert after.work.missing.rows == 4
    assert rows(Store(store_uri).read()) == expected(entries(2, 8), KEYS)


def test_entries_of_the_past_keep_their_vectors_in_every_version(tmp_path: Path) -> None:
    store = str(tmp_path / "store")
    fill(store, entries(0, 6), tmp_path, shard_rows=1)
    fill(store, entries(0, 6), tmp_path, shard_rows=1, version=B)
    fill(store, entries(3, 9), tmp_path, shard_rows=1)
    before = state(store)
    assert maintain(Store(store), now=in_days(30)).rows_collected == 0
    assert state(store) == before
    assert rows(Store(store).read(B.digest)) == expected(entries(0, 6), KEYS, version=B)
    assert rows(Store(store).read(A.digest)) == expected(entries(3, 9), KEYS)


def test_a_file_without_any_named_vector_goes_as_a_whole_and_others_are_cut(tmp_path: Path) -> None:
    store = str(tmp_path / "store")
    fill(store, entries(0, 3), tmp_path)
    dead = Run(store, entries(0, 12), tmp_path, shard_rows=5).encode()
    for step in STEPS[:2]:
        dead.step(step)
    # Somebody else needs some of what the dead run has left.
    fill(store, entries(5, 9), tmp_path, source="other")
    done = maintain(Store(store), now=in_days(8))
    assert done.rows_collected == 5
    named = {digest(entry.sequence) for entry in (*entries(0, 3), *entries(5, 9))}
    assert set(Store(store).features.read(["sequence_digest"])["sequence_digest"].to_pylist()) == named
    check_features(store)
    assert rows(Store(store).read(source="other")) == expected(entries(5, 9), KEYS, source="other")


# beside a run


def parts(run: Run) -> list[Any]:
    """A run's stages, in their order."""
    return [run.plan, run.write, *(lambda name=name: run.step(name) for name in STEPS)]


@pytest.mark.parametrize("at", range(1, len(STEPS) + 2))
def test_maintain_between_any_two_steps_leaves_a_run_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, at: int) -> None:
    monkeypatch.setattr(merge, "_FEWEST", 2)
    store = str(tmp_path / "store")
    nights(store, tmp_path, 2)
    later = [*entries(0, 3), *entries(20, 30)]
    run = Run(store, [*later, Entry("bad", "AC-T")], tmp_path, shard_rows=2)
    before = rows(Store(store).read())
    for number, part in enumerate([*parts(run), lambda: None]):
        if number == at:
            maintain(Store(store))
            if not run.published:
                assert rows(Store(store).read()) == before
        part()
    assert run.published
    assert rows(Store(store).read()) == expected(later, KEYS)
    check_features(store)
    maintain(Store(store))
    assert rows(Store(store).read()) == expected(later, KEYS)


def test_maintain_between_all_steps_of_a_run(s3: S3, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(merge, "_FEWEST", 2)
    store_uri = s3.uri()
    nights(store_uri, tmp_path, 2)
    run = Run(store_uri, [*entries(4, 12), Entry("bad", "AC-T")], tmp_path, shard_rows=1)
    for part in parts(run):
        maintain(Store(store_uri))
        part()
    assert run.published
    assert rows(Store(store_uri).read()) == expected(entries(4, 12), KEYS)
    check_features(store_uri)


@pytest.mark.parametrize("at", [1, 2, 3, 4])
def test_a_run_that_is_slower_than_a_week_is_published_whole_or_refused(tmp_path: Path, at: int) -> None:
    store = str(tmp_path / "store")
    fill(store, entries(0, 4), tmp_path)
    run = Run(store, entries(2, 8), tmp_path).encode()
    for step in STEPS[:at]:
        run.step(step)
    maintain(Store(store), now=in_days(8))
    if at < 4:
        with pytest.raises(ConflictError, match="send the run again"):
            [run.step(step) for step in STEPS[at:]]
    else:
        [run.step(step) for step in STEPS[at:]]
    wanted = entries(0, 4) if at < 4 else entries(2, 8)
    assert rows(Store(store).read()) == expected(wanted, KEYS)
    fill(store, entries(2, 8), tmp_path)
    assert rows(Store(store).read()) == expected(entries(2, 8), KEYS)


def test_vectors_that_are_named_while_they_are_collected_stay(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = str(tmp_path / "store")
    fill(store, entries(0, 4), tmp_path)
    run = Run(store, entries(2, 8), tmp_path).encode()
    for step in STEPS[:3]:
        run.step(step)
    late = []

    def then_the_run_goes_on(upkeep: Upkeep) -> Unnamed:
        found = find_unnamed(upkeep)
        for step in STEPS[3:]:
            run.step(step)
        late.append(sum(map(len, found.digests.values())))
        return found

    monkeypatch.setattr(maintenance, "find_unnamed", then_the_run_goes_on)
    assert maintain(Store(store), now=in_days(8)).rows_collected == 0
    assert (late, run.published) == ([4], True)
    assert rows(Store(store).read()) == expected(entries(2, 8), KEYS)


def test_vectors_that_are_collected_before_their_names_are_sealed_are_missed_by_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = str(tmp_path / "store")
    fill(store, entries(0, 4), tmp_path)
    run = Run(store, entries(2, 8), tmp_path).encode()
    for step in STEPS[:3]:
        run.step(step)
    monkeypatch.setattr(Publication, "_check_stored", lambda *_: maintain(Store(store), now=in_days(8)))
    seal = Publication._seal
    monkeypatch.setattr(Publication, "_seal", lambda *given: (monkeypatch.undo(), seal(*given)))
    with pytest.raises(ConflictError, match="taken out"):
        run.step("sequences")
    assert rows(Store(store).read()) == expected(entries(0, 4), KEYS)


def test_runs_and_maintains_at_once(tmp_path: Path) -> None:
    store = str(tmp_path / "store")
    fill(store, entries(0, 4), tmp_path, source="first")
    ended, encoding = threading.Event(), threading.Lock()

    def keep_up() -> None:
        while not ended.is_set():
            maintain(Store(store))

    def publish(number: int) -> None:
        for night in range(3):
            run = Run(store, entries(number, number + 6 + night), tmp_path, source=f"source{number}", shard_rows=2)
            with encoding:
                run.encode()
            run.publish()

    with ThreadPoolExecutor() as pool:
        keeping = [pool.submit(keep_up) for _ in range(2)]
        publishing = [pool.submit(publish, number) for number in range(3)]
        wait(publishing)
        ended.set()
        for one in (*publishing, *keeping):
            one.result()
    for number in range(3):
        name = f"source{number}"
        wanted = expected(entries(number, number + 8), KEYS, source=name)
        assert rows(Store(store).read(source=name)) == wanted
    check_features(store)


def test_a_merge_that_was_overtaken_leaves_no_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = str(tmp_path / "store")
    nights(store, tmp_path)
    rewritten = merge._rewritten
    other = []

    def slow(table: Table, group: list[DataFile]) -> DataFile:
        file = rewritten(table, group)
        if not other:
            other.append(table.name)
            maintain(Store(store))
        return file

    monkeypatch.setattr(merge, "_rewritten", slow)
    before = state(store)
    maintain(Store(store))
    assert state(store) == before
    assert [Table(store, name).uncommitted() for name in TABLES] == [[]] * len(TABLES)


# what is not needed any more


def age(path: Path, days: float) -> None:
    for one in [path, *path.rglob("*")] if path.is_dir() else [path]:
        os.utime(one, (time.time() - days * 86_400,) * 2)


def leave_things(store: str) -> dict[str, Path]:
    """What dead processes leave behind, one of each kind."""
    hexadecimals = "0123456789abcdef" * 2
    folder = Path(store)
    receipt = vectorfiles.write(Table(store, "features"), [feature_rows([digest("TTTT")])], stem="dead", version=A.digest)
    things = {
        "vectors": folder / "features" / receipt.file.path,
        "entries": folder / "sequences" / f"dead-{hexadecimals}.parquet",
        "half a file": folder / "features" / f"feature_version={A.digest}" / f".dead-00000.parquet.{hexadecimals}",
        "work": folder / "work" / "dead-01234567" / "shard-00000.parquet",
        "clock": folder / f".clock-{hexadecimals}",
        "probe": folder / f".writable-{hexadecimals}",
        "projector": folder / "projectors" / f"{'1' * 64}.safetensors",
    }
    for path in things.values():
        path.parent.mkdir(parents=True, exist_ok=True)
        if not path.exists():
            path.write_bytes(b"x")
    return things


def test_what_nobody_has_named_for_a_week_is_deleted(tmp_path: Path) -> None:
    store = str(tmp_path / "store")
    fill(store, entries(0, 4), tmp_path)
    things = leave_things(store)
    own = Path(store, "projectors", f"{'0' * 64}.safetensors")
    note = Path(store, "features", "README.txt")
    for kept in (own, note):
        kept.write_bytes(b"kept")
        age(kept, 30)
    for log in Path(store).rglob("*.json"):
        age(log, 30)
    for path in things.values():
        age(path, 6.9)
    assert maintain(Store(store)).abandoned_files == 0
    assert all(path.exists() for path in things.values())
    for path in things.values():
        age(path, 7.1)
    planned = maintain(Store(store), dry_run=True)
    assert all(path.exists() for path in things.values())
    done = maintain(Store(store))
    assert (planned.abandoned_files, done.abandoned_files) == (len(things), len(things))
    assert [name for name, path in things.items() if path.exists()] == []
    assert own.exists()
    assert note.exists()
    assert rows(Store(store).read()) == expected(entries(0, 4), KEYS)


def test_files_of_the_store_and_work_that_goes_on_are_kept_however_old(tmp_path: Path) -> None:
    store = str(tmp_path / "store")
    fill(store, entries(0, 4), tmp_path)
    work = Path(store, "work", "alive-01234567")
    work.mkdir(parents=True)
    for name in ("shard-00000.parquet", "shard-00001.parquet"):
        (work / name).write_bytes(b"x")
    age(Path(store), 100)
    age(work / "shard-00001.parquet", 1)
    assert maintain(Store(store)).abandoned_files == 0
    assert len(list(work.iterdir())) == 2
    assert rows(Store(store).read()) == expected(entries(0, 4), KEYS)


def test_an_abandoned_file_is_not_committed_any_more(tmp_path: Path) -> None:
    store = str(tmp_path / "store")
    fill(store, entries(0, 4), tmp_path)
    slow = Run(store, entries(2, 8), tmp_path).encode()
    for file in slow.files:
        age(Path(store, "features", file.path), 8)
    assert maintain(Store(store)).abandoned_files == 1
    with pytest.raises(ConflictError, match="send the run again"):
        slow.publish()
    assert rows(Store(store).read()) == expected(entries(0, 4), KEYS)
    assert fill(store, entries(2, 8), tmp_path).work.missing.rows == 4
    assert rows(Store(store).read()) == expected(entries(2, 8), KEYS)


def test_replaced_files_stay_for_a_week_for_readers_of_the_old_snapshot(tmp_path: Path) -> None:
    store = str(tmp_path / "store")
    nights(store, tmp_path)
    reader = Store(store).features
    assert len(reader.paths()) == 4
    maintain(Store(store))
    maintain(Store(store), now=in_days(6.9))
    assert len(reader.read([])) == 8
    assert maintain(Store(store), now=in_days(7.1)).files_vacuumed > 0
    with pytest.raises(StoreError):
        reader.read()
    assert len(reader.reload().read()) == 8


def test_unfinished_uploads_are_ended_after_a_week(s3: S3, tmp_path: Path) -> None:
    uri, other = s3.uri(), s3.uri()
    fill(uri, entries(0, 2), tmp_path)
    fs, _ = storage.filesystem(uri)
    keys = [storage.filesystem(one)[1].partition("/")[2] + "/features/x.parquet" for one in (uri, other)]
    for key in keys:
        fs.call_s3("create_multipart_upload", Bucket=s3.bucket, Key=key)
    assert maintain(Store(uri)).abandoned_uploads == 0
    assert maintain(Store(uri), now=in_days(8), dry_run=True).abandoned_uploads == 1
    assert [upload.key for upload in buckets.unfinished_uploads(uri)] == keys[:1]
    assert maintain(Store(uri), now=in_days(8)).abandoned_uploads == 1
    assert list(buckets.unfinished_uploads(uri)) == []
    assert [upload.key for upload in buckets.unfinished_uploads(other)] == keys[1:]


def test_rights_that_are_missing_for_uploads_leave_the_rest_done(
    s3: S3, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    uri = s3.uri()
    fill(uri, entries(0, 4), tmp_path, shard_rows=1)

    def refuse(*_: object) -> None:
        raise PermissionError("Access Denied")

    monkeypatch.setattr(buckets, "unfinished_uploads", refuse)
    assert cli.main(["maintain", "--store", uri]) == 0
    told = capsys.readouterr()
    assert "uploads" in told.err
    assert "Access Denied" in told.err
    assert len(Store(uri).features.paths()) == 1


def test_a_long_log_gets_a_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = str(tmp_path / "store")
    nights(store, tmp_path, 3)
    assert maintain(Store(store)).checkpoints == 0
    monkeypatch.setattr(vacuum, "_LOG_FILES", 6)
    assert maintain(Store(store), dry_run=True).checkpoints == 1
    assert not list(Path(store).rglob("*.checkpoint.parquet"))
    assert maintain(Store(store)).checkpoints == 1
    (checkpoint,) = Path(store).rglob("*.checkpoint.parquet")
    assert checkpoint.parent.parent.name == "features"
    assert pq.read_table(checkpoint).num_rows > 0
    assert maintain(Store(store)).checkpoints == 0
    assert len(Store(store).read()) == 6


# the command


def test_the_command_tells_what_it_did(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    store = str(tmp_path / "store")
    nights(store, tmp_path)
    assert cli.main(["maintain", "--store", store, "--dry-run"]) == 0
    assert "nothing was changed" in capsys.readouterr().out
    assert cli.main(["maintain", "--store", store, "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["files_after"] < told["files_before"]
    assert cli.main(["maintain", "--store", store]) == 0
    assert "is maintained" in capsys.readouterr().out


def test_no_store_is_one_sentence(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    assert cli.main(["maintain", "--store", str(tmp_path / "none")]) == 2
    error = capsys.readouterr().err
    assert "there is no store" in error
    assert error.count("\n") == 1
    assert not (tmp_path / "none").exists()

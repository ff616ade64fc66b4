"""Salvage: what a dead run has written counts as encoded, whichever run comes next, and each sequence once."""

from __future__ import annotations

import os
import time
from collections import Counter
from pathlib import Path

import pytest
from stores import A, B, Entry, Run, digest, expected, feature_rows, fill, rows

from dnafeat.embed import salvage
from dnafeat.embed.audit import audit
from dnafeat.store import Store
from dnafeat.store import vector_files as vectorfiles
from dnafeat.store.retention import ABANDONED_AFTER
from dnafeat.vectors import VECTORS

POOL = [f"ACGT{'ACGT'[i % 4]}{'ACGT'[i // 4]}" for i in range(16)]


def entries(first: int, last: int) -> list[Entry]:
    return [Entry(f"e{i}", POOL[i]) for i in range(first, last)]


def stored_once(store: Store) -> None:
    names = store.features.reload().read(["feature_version", "sequence_digest"]).to_pylist()
    assert max(Counter((row["feature_version"], row["sequence_digest"]) for row in names).values()) == 1


def test_another_run_on_a_changed_source_takes_what_is_there(store_uri: str, tmp_path: Path) -> None:
    Run(store_uri, entries(0, 10), tmp_path, shard_rows=3).encode()  # and no further: four files
    second = Run(store_uri, entries(2, 14), tmp_path, source="other", shard_rows=4).plan()
    work = second.work
    assert (work.distinct, work.stored, work.salvaged, work.missing.rows) == (12, 0, 8, 4)
    assert 0 < work.sample.rows <= 8
    second.write().publish()
    store = Store(store_uri)
    assert rows(store.read()) == expected(entries(2, 14), source="other")
    # Only what this source names is part of the store now.
    assert store.features.reload().read(["sequence_digest"]).num_rows == 12
    stored_once(store)


def test_whole_files_are_committed_as_they_lie(tmp_path: Path) -> None:
    dead = Run(str(tmp_path / "store"), entries(0, 9), tmp_path, shard_rows=3).encode()
    after = Run(str(tmp_path / "store"), entries(0, 9), tmp_path, run_id="after").encode()
    assert {file.path for file in after.files} == {file.path for file in dead.files}
    after.publish()
    assert rows(Store(str(tmp_path / "store")).read()) == expected(entries(0, 9))


def test_shards_of_dead_runs_may_have_the_names_of_a_later_ones(tmp_path: Path) -> None:
    uri = str(tmp_path / "store")
    for first in (0, 4):
        Run(uri, entries(first, first + 4), tmp_path, shard_rows=3).encode()
    after = Run(uri, entries(0, 16), tmp_path, shard_rows=3).encode()
    assert (after.work.salvaged, after.work.missing.rows) == (8, 8)
    audit(Store(uri), A.digest, "float32", after.receipts, rows=16)


def test_what_two_dead_runs_wrote_is_taken_once(tmp_path: Path) -> None:
    uri = str(tmp_path / "store")
    one, two = Run(uri, entries(0, 8), tmp_path).plan(), Run(uri, entries(4, 12), tmp_path, shard_rows=3).plan()
    one.write(), two.write()
    third = Run(uri, entries(0, 16), tmp_path).encode()
    assert (third.work.salvaged, third.work.missing.rows) == (12, 4)
    third.publish()
    assert rows(Store(uri).read()) == expected(entries(0, 16))
    stored_once(Store(uri))


def test_a_run_that_was_only_slow_loses_nothing_to_the_one_that_took_its_files(store_uri: str, tmp_path: Path) -> None:
    slow = Run(store_uri, entries(0, 10), tmp_path, source="slow", shard_rows=3).encode()
    fill(store_uri, entries(3, 12), tmp_path, source="fast")
    slow.publish()
    store = Store(store_uri)
    assert rows(store.read(source="slow")) == expected(entries(0, 10), source="slow")
    assert rows(store.read(source="fast")) == expected(entries(3, 12), source="fast")
    stored_once(store)


def test_what_is_left_alone(tmp_path: Path) -> None:
    """Another version's, other columns', broken, old and foreign files, and those that the table has had."""
    uri = str(tmp_path / "store")
    Run(uri, entries(0, 3), tmp_path, version=B).encode()
    store = Store(uri)
    names = sorted(digest(one) for one in POOL)
    folder = Path(store.features.uri, f"feature_version={A.digest}")
    few = vectorfiles.write(store.features, [feature_rows(names).drop_columns("max")], stem="few", version=A.digest)
    old = vectorfiles.write(store.features, [feature_rows(names)], stem="old", version=A.digest)
    past = time.time() - ABANDONED_AFTER.total_seconds() / 2 - 60
    os.utime(Path(store.features.uri, old.file.path), (past, past))
    whole = Path(store.features.uri, few.file.path).read_bytes()
    (folder / "cut.parquet").write_bytes(whole[: len(whole) // 2])
    (folder / "notes.txt").write_text("not ours")
    hidden = vectorfiles.write(store.features, [feature_rows(names)], stem="hidden", version=A.digest)
    Path(store.features.uri, hidden.file.path).rename(folder / f".{Path(hidden.file.path).name}.{'0' * 32}")
    had = vectorfiles.write(store.features, [feature_rows(names)], stem="had", version=A.digest)
    store.features.reload().commit([had.file])
    store.features.reload().commit([], removed=[had.file.path])
    assert Run(uri, entries(0, 16), tmp_path).plan().work.salvaged == 0
    fresh = vectorfiles.write(store.features, [feature_rows(names)], stem="fresh", version=A.digest)
    run = Run(uri, entries(0, 16), tmp_path).encode()
    assert run.work.salvaged == 16
    assert [file.path for file in run.files] == [fresh.file.path]


def test_a_file_with_a_sequence_twice_is_not_trusted(tmp_path: Path) -> None:
    store = Store(str(tmp_path / "store"))
    store.create()
    names = sorted(digest(one) for one in POOL[:4])
    vectorfiles.write(store.features, [feature_rows([*names, names[-1]])], stem="x", version=A.digest)
    assert Run(store, entries(0, 4), tmp_path).plan().work.salvaged == 0


def test_nothing_is_listed_when_nothing_is_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    uri = str(tmp_path / "store")
    fill(uri, entries(0, 6), tmp_path)
    monkeypatch.setattr(salvage.storage, "listing", lambda uri: pytest.fail("the store was listed"))
    work = Run(uri, entries(0, 6), tmp_path).plan().work
    assert (work.stored, work.salvaged, work.missing.rows) == (6, 0, 0)
    assert set(VECTORS) == {"cls", "mean", "max", "projected"}

"""Reads beside erasures and maintenance, whose steps come between theirs at the worst places."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from stores import A, B, Entry, expected, fill, rows

from dnafeat.errors import StoreError
from dnafeat.store import Store, drift, queries
from dnafeat.store.data_file import Change
from dnafeat.store.forget import forget
from dnafeat.store.maintain import maintain
from dnafeat.store.stream import VectorStream

KEYS = ["subject"]
MINE = [Entry(f"m{i}", "AA" + letters, {"subject": "s1"}) for i, letters in enumerate(("CC", "GG", "TT"))]
OTHERS = [Entry(f"o{i}", "ACGT" * (2 + i), {"subject": f"s{2 + i}"}) for i in range(5)]


@pytest.fixture
def store(tmp_path: Path) -> Store:
    """A file for each sequence."""
    fill(str(tmp_path / "store"), [*MINE, *OTHERS], tmp_path, shard_rows=1)
    return Store(str(tmp_path / "store"))


def erase(store: Store) -> None:
    forget(Store(store.uri), {"subject": "s1"})


def erase_and_maintain(store: Store) -> None:
    """The erased files are deleted, and those that were merged with them."""
    erase(store)
    maintain(Store(store.uri))


def once(action: Callable[[], object]) -> Callable[[], object]:
    waiting = [action]
    return lambda: waiting.pop()() if waiting else None


@pytest.mark.parametrize("meanwhile", [erase, erase_and_maintain])
@pytest.mark.parametrize("before", [False, True], ids=["after", "before"])
def test_an_erasure_around_the_look_at_the_entries_is_no_damage(
    store: Store, monkeypatch: pytest.MonkeyPatch, meanwhile: Callable[[Store], None], before: bool
) -> None:
    real, happens = queries.load_entries, once(lambda: meanwhile(store))

    def load(*arguments: Any) -> Any:
        if before:
            happens()
        found = real(*arguments)
        happens()
        return found

    monkeypatch.setattr(queries, "load_entries", load)
    found = rows(store.read())
    # A state of before the erasure, where its vectors were there still, or of after.
    assert found in (expected([*MINE, *OTHERS], KEYS), expected(OTHERS, KEYS))
    monkeypatch.undo()
    assert rows(store.read()) == expected(OTHERS, KEYS)


def test_files_that_vanish_between_batches_are_found_again(store: Store) -> None:
    batches = store.scan(columns=["mean"])
    given = next(batches)["sequence_id"].to_pylist()
    erase_and_maintain(store)
    for batch in batches:
        given += batch["sequence_id"].to_pylist()
    assert len(given) == len(set(given))
    assert {entry.id for entry in OTHERS} <= set(given)


def test_vectors_that_are_gone_while_their_entries_stand_are_damage(store: Store) -> None:
    table = store.features
    table.settle("lost", lambda: Change(removed=table.paths()[:2]))
    with pytest.raises(StoreError, match="lacks the vectors of 2 published sequences"):
        store.read()
    with pytest.raises(StoreError, match="lacks the vectors of 2 published sequences"):
        VectorStream(store)


def test_a_stream_that_is_made_beside_an_erasure_has_what_stays(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    real = Store.reading

    def reading(self: Store, *arguments: Any) -> Any:
        found = real(self, *arguments)
        erase_and_maintain(store)
        return found

    with monkeypatch.context() as patch:
        patch.setattr(Store, "reading", reading)
        stream = VectorStream(store, ["mean"], batch_size=2)
    assert stream.rows == len(OTHERS)
    assert {name for batch in stream for name in batch["sequence_id"]} == {entry.id for entry in OTHERS}


def test_a_stream_whose_files_are_deleted_says_what_to_do(store: Store) -> None:
    stream = VectorStream(store, ["mean"])
    erase_and_maintain(store)
    with pytest.raises(StoreError, match="make the stream again"):
        list(stream)


def test_a_comparison_of_versions_beside_an_erasure_is_no_damage(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(store.uri, [*MINE, *OTHERS], tmp_path, version=B)
    real, happens = drift._partitions, once(lambda: erase_and_maintain(store))

    def partitions(*arguments: Any) -> Any:
        # The names are read, and then the vectors.
        found = list(real(*arguments))
        happens()
        return found

    monkeypatch.setattr(drift, "_partitions", partitions)
    assert drift.diff(store, A.digest, B.digest).common in (len(OTHERS), len(OTHERS) + len(MINE))

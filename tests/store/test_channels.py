"""Channels that move: never away from a source that somebody publishes meanwhile."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from deltalake import DeltaTable
from faults import Faults
from stores import A, B, Entry, expected, feature_version, fill, rows

from dnafeat.store import Store
from dnafeat.store import table as tables
from dnafeat.store.channels import Move, move
from dnafeat.store.rollback import rollback

C = feature_version(3)
ONE, TWO = [Entry("a", "ACGT")], [Entry("b", "GGCC")]


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Store:
    """Readers see version A; version B has the same source."""
    monkeypatch.setattr(tables, "_LONGEST_WAIT", 0.0)
    uri = str(tmp_path / "store")
    fill(uri, ONE, tmp_path, source="one")
    fill(uri, ONE, tmp_path, source="one", version=B, run_id="b")
    Store(uri).point("production", A.digest)
    return Store(uri)


def moved(store: Store, version: str, between: Callable[[], object]) -> Move:
    """Move the channel, and do something right before its commit.

    Of the calls that write below `versions` the first makes the event's file and the second commits it.
    """
    faults = Faults()
    faults.arm(2, "somebody between", between, "versions")
    with faults.around():
        done = move(store, "production", version)
    assert not faults.disarm()
    return done


def test_a_source_published_between_look_and_move_is_not_lost(store: Store, tmp_path: Path) -> None:
    """The other publishes after all was looked at, and before the channel's commit."""
    done = moved(store, B.digest, lambda: fill(store.uri, TWO, tmp_path, source="two"))
    assert (done.moved, done.version, done.waits_for) == (False, A.digest, ("two",))
    assert store.channels() == {"production": A.digest}
    assert rows(store.read()) == rows(store.read(A.digest))
    assert len(store.read()) == 2
    fill(store.uri, TWO, tmp_path, source="two", version=B)
    assert move(store, "production", B.digest).moved
    assert rows(store.read(source="two")) == expected(TWO, source="two", version=B)


def test_a_channel_that_another_moves_is_looked_at_again(store: Store, tmp_path: Path) -> None:
    """It then points at a version with a source that this one lacks."""
    fill(store.uri, TWO, tmp_path, source="two")
    store.point("production", B.digest)
    fill(store.uri, ONE, tmp_path, source="one", version=C)
    done = moved(store, C.digest, lambda: Store(store.uri).point("production", A.digest))
    assert (done.moved, done.version, done.waits_for) == (False, A.digest, ("two",))


def test_a_run_withdrawn_meanwhile_moves_nothing(store: Store) -> None:
    rollback(store, "b")
    done = move(store, "production", B.digest)
    assert (done.moved, done.version, done.waits_for) == (False, A.digest, ("one",))
    assert not move(store, "other", B.digest).moved


def test_a_move_is_one_commit_and_none_where_the_channel_is_there(store: Store) -> None:
    at = DeltaTable(f"{store.uri}/versions").version()
    assert move(store, "production", B.digest).moved
    assert DeltaTable(f"{store.uri}/versions").version() == at + 1
    assert not move(store, "production", B.digest).moved
    assert DeltaTable(f"{store.uri}/versions").version() == at + 1

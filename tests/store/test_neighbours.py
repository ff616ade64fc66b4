"""Nearest neighbours: equal to a comparison of all pairs in float64, of any store, with ties in a stated order."""

from __future__ import annotations

from pathlib import Path

import madevectors
import numpy as np
import pytest
from stores import A, B, Entry, digest, fill, refused, vectors

from dnafeat.errors import DnafeatWarning, StoreError, UsageError
from dnafeat.store import Store, digests, neighbours
from dnafeat.store.membership import Members, numbered
from dnafeat.store.nearest import METRICS, Nearest, exact

ENTRIES = [
    Entry("a", "ACGT", {"subject": "s1"}),
    Entry("b", "ACGT", {"subject": "s2"}),
    Entry("c", "GGCC", {"subject": "s2"}),
    Entry("d", "NNAC"),
]


def brute(queries: np.ndarray, rows: np.ndarray, names: np.ndarray, k: int, metric: str) -> tuple[np.ndarray, np.ndarray]:
    """All pairs in float64; of equal distances the smaller digest first."""
    distances = np.stack([exact(np.repeat(one[None].astype(np.float64), len(rows), 0), rows, metric) for one in queries])
    order = np.stack([np.lexsort((names, row)) for row in distances])[:, :k]
    return np.take_along_axis(distances, order, 1), names[order]


def made(rows: int, width: int, offset: float, scale: float = 1.0, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    dice = np.random.default_rng(seed)
    found = (scale * (dice.standard_normal((rows, width)) + offset * dice.standard_normal(width))).astype(np.float32)
    found[7] = found[11] = found[5]
    return found, np.array([b"SQ.%032d" % i for i in dice.permutation(rows)], digests.DTYPE)


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize(("offset", "scale"), [(0, 1), (30, 1), (3, 1e-25), (3, 1e25)])
def test_search_equals_all_pairs_in_float64(metric: str, offset: float, scale: float) -> None:
    rows, names = made(3000, 24, offset, scale)
    dice = np.random.default_rng(1)
    queries = np.concatenate([rows[[5, 100]], (rows[:20] * dice.uniform(0.9, 1.1, (20, 24))).astype(np.float32)])
    nearest = Nearest(queries, 7, metric)  # type: ignore[arg-type]
    for first in range(0, 3000, 700):
        nearest.add(names[first : first + 700], rows[first : first + 700])
    distances, found = brute(queries, rows, names, 7, metric)
    np.testing.assert_array_equal(nearest.names, found)
    np.testing.assert_array_equal(nearest.distances, distances)


def test_vectors_that_float32_cannot_tell_apart_are_told_apart() -> None:
    # Products differ in the eighth digit, and float32 has seven.
    dice = np.random.default_rng(0)
    rows = np.ones((2000, 64), np.float32) + np.float32(2e-7) * dice.integers(-3, 4, (2000, 64)).astype(np.float32)
    names = np.array([b"SQ.%032d" % i for i in dice.permutation(2000)], digests.DTYPE)
    for metric in METRICS:
        nearest = Nearest(rows[:5], 10, metric)  # type: ignore[arg-type]
        nearest.add(names, rows)
        distances, found = brute(rows[:5], rows, names, 10, metric)
        np.testing.assert_array_equal(nearest.names, found)
        np.testing.assert_array_equal(nearest.distances, distances)


def test_the_order_of_rows_does_not_matter() -> None:
    rows, names = made(900, 12, 2)
    order = np.random.default_rng(3).permutation(900)
    results = []
    for some in (np.arange(900), order):
        nearest = Nearest(rows[:9], 20, "cosine")
        for first in range(0, 900, 250):
            nearest.add(names[some][first : first + 250], rows[some][first : first + 250])
        results.append((nearest.names, nearest.distances))
    np.testing.assert_array_equal(results[0][0], results[1][0])
    np.testing.assert_array_equal(results[0][1], results[1][1])


def test_zeros_have_no_direction_and_numbers_that_are_not_finite_are_refused() -> None:
    rows, names = made(50, 8, 0)
    rows[3] = 0
    nearest = Nearest(rows[:1], 50, "cosine")
    nearest.add(names, rows)
    assert nearest.without_direction == 1
    assert np.isfinite(nearest.distances).sum() == 49
    with pytest.raises(UsageError, match="no direction"):
        Nearest(rows[3:4], 5, "cosine")
    Nearest(rows[3:4], 5, "l2").add(names, rows)
    rows[4, 2] = np.nan
    with pytest.raises(StoreError, match="not finite"):
        Nearest(rows[:1], 5, "l2").add(names, rows)
    with pytest.raises(UsageError, match="query 0 holds"):
        Nearest(rows[4:5], 5, "l2")


def test_members_are_met_once() -> None:
    names = np.array([b"SQ.%032d" % i for i in range(1000)], digests.DTYPE)
    assert len(np.unique(numbered(names))) == 1000
    members = Members(numbered(np.concatenate([names[:10], names[:10], names[20:30]])))
    assert len(members) == 20
    assert members.meet(names[:25]).sum() == 15
    assert not members.meet(names[:10]).any()
    assert members.lacking() == 5


def test_members_are_as_many_as_there_are_rows_whatever_the_log_says(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    sequences = store.sequences.reload()
    monkeypatch.setattr(sequences, "files", list)
    assert len(Members.of(sequences, {"cohort": 1})) == 3


@pytest.fixture
def store(tmp_path: Path) -> Store:
    fill(str(tmp_path / "store"), ENTRIES, tmp_path)
    return Store(str(tmp_path / "store"))


def test_entries_are_listed_by_keys_and_sequences_compared_once(store: Store) -> None:
    table = store.neighbours(["c"], k=3, metric="l2")
    assert table.column_names == ["query", "neighbour", "distance", "rank", "sequence_digest", "source_name", "subject"]
    rows = table.to_pylist()
    assert (rows[0]["neighbour"], rows[0]["distance"], rows[0]["rank"]) == ("c", 0.0, 1)
    ranks = {row["neighbour"]: row["rank"] for row in rows}
    assert ranks["a"] == ranks["b"]
    assert set(ranks.values()) == {1, 2, 3}
    own, other = (np.array(vectors(digest(one))["mean"]) for one in ("GGCC", "ACGT"))
    assert next(row["distance"] for row in rows if row["neighbour"] == "a") == np.sqrt(((own - other) ** 2).sum())
    counted = store.neighbours(["c"], k=3, by=["subject"]).to_pylist()
    assert {(row["subject"], row["entries"]) for row in counted} == {("s1", 1), ("s2", 1), (None, 1)}
    assert len(counted) == 4


def test_only_entries_that_meet_the_conditions_are_compared(store: Store) -> None:
    table = store.neighbours(["d"], k=1, where={"subject": "s2"})
    assert set(table["neighbour"].to_pylist()) <= {"b", "c"}
    with pytest.warns(DnafeatWarning, match="2 sequences"):
        table = store.neighbours(["d"], k=9, where={"subject": "s2"})
    assert sorted(table["neighbour"].to_pylist()) == ["b", "c"]
    with pytest.warns(DnafeatWarning, match="did you mean s1"), pytest.raises(StoreError, match="nothing is compared"):
        store.neighbours(["d"], where={"subject": "s1x"})
    with pytest.raises(StoreError, match="no key 'subjct'"):
        store.neighbours(["d"], where={"subjct": "s1"})


def test_closed_entries_and_other_versions_are_not_compared(store: Store, tmp_path: Path) -> None:
    fill(store, ENTRIES[:2], tmp_path)
    fill(store, [Entry("q", "TTTT")], tmp_path, source="other", version=B)
    with pytest.warns(DnafeatWarning):
        table = store.neighbours(["a"], A.digest, k=5)
    assert sorted(table["neighbour"].to_pylist()) == ["a", "b"]
    with pytest.warns(DnafeatWarning):
        then = store.neighbours(["a"], A.digest, k=5, as_of=1)
    assert sorted(then["neighbour"].to_pylist()) == ["a", "b", "c", "d"]


def test_wrong_queries_are_told(store: Store) -> None:
    for call, error, words in (
        (lambda: store.neighbours(["x"]), StoreError, "x"),
        (lambda: store.neighbours([]), UsageError, "no query"),
        (lambda: store.neighbours(["a"], k=0), UsageError, "from 1"),
        (lambda: store.neighbours(["a", "a"]), UsageError, "twice"),
        (lambda: store.neighbours(["a"], metric="manhattan"), UsageError, "cosine, l2, dot"),  # type: ignore[arg-type]
        (lambda: store.neighbours(["a"], column="bases"), UsageError, "cls, mean"),
        (lambda: store.neighbours(vectors=np.ones((1, 3), np.float32)), UsageError, "3 wide"),
        (lambda: store.neighbours(["a"], by=["subjct"]), UsageError, "'subjct'"),
        (lambda: store.neighbours(["a"], vectors=np.ones((1, 4), np.float32)), UsageError, "one of them"),
    ):
        with pytest.raises(error) as raised:
            call()
        refused(raised, words)  # type: ignore[arg-type]


def test_entries_that_are_erased_meanwhile_are_searched_again(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    resolved: list[int] = []
    real = neighbours.Scope.entries

    def once_without(self: neighbours.Scope, names: np.ndarray) -> object:
        resolved.append(len(names))
        return real(self, names[:0] if len(resolved) == 1 else names)

    monkeypatch.setattr(neighbours.Scope, "entries", once_without)
    assert len(store.neighbours(["c"], k=1)) == 1
    assert len(resolved) == 2


def test_many_files_equal_all_pairs(tmp_path: Path) -> None:
    def values(numbers: np.ndarray) -> dict[str, np.ndarray]:
        return {"mean": 3 + np.random.default_rng(int(numbers[0])).standard_normal((len(numbers), 16)).astype(np.float32)}

    uri = str(tmp_path / "store")
    madevectors.make(uri, 3000, values, file_rows=400)
    table = Store(uri).neighbours([f"e{i}" for i in range(40)], k=5, metric="cosine")
    rows = np.concatenate([values(np.arange(first, min(first + 400, 3000)))["mean"] for first in range(0, 3000, 400)])
    names = madevectors.names(np.arange(3000), 3000)
    distances, found = brute(rows[:40], rows, names, 5, "cosine")
    assert table["sequence_digest"].to_pylist() == [one.decode() for one in found.ravel()]
    np.testing.assert_array_equal(table["distance"].to_numpy(), distances.ravel())

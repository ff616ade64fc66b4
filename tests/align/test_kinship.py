"""Splits keep together who belongs together; shuffles and resamples move whole families."""

from __future__ import annotations

import numpy as np
import pytest

from dnafeat.align import kinship


def partition(labels: np.ndarray) -> set[frozenset[int]]:
    return {frozenset(np.flatnonzero(labels == one).tolist()) for one in np.unique(labels)}


def test_identical_rows_are_those_that_differ_by_rounding() -> None:
    rng = np.random.default_rng(0)
    distinct = rng.normal(size=(40, 17)).astype(np.float32)
    again = distinct[:10] * np.float32(1 + 2e-7)
    almost = distinct[10:20].copy()
    almost[:, 3] += 1e-4
    found = kinship.identical(np.concatenate([distinct, again, almost]))
    wanted = {frozenset({i, 40 + i}) for i in range(10)} | {frozenset({i}) for i in (*range(10, 40), *range(50, 60))}
    assert partition(found) == wanted


def test_one_row_out_of_all_proportion_makes_nobody_identical() -> None:
    rows = np.random.default_rng(1).normal(size=(30, 5)).astype(np.float32)
    rows[7] = 1e30
    assert len(partition(kinship.identical(rows))) == 30
    assert len(partition(kinship.identical(np.ones((2000, 8), np.float32)))) == 1
    assert len(kinship.identical(np.empty((0, 3), np.float32))) == 0


def test_groups_hang_together_through_any_label() -> None:
    found = kinship.together(["a", "a", "b", "c", "d", "e"], [None, "F1", "F1", None, None, "F2"], np.array([0, 1, 2, 3, 3, 4]))
    assert partition(found) == {frozenset({0, 1, 2}), frozenset({3, 4}), frozenset({5})}


@pytest.mark.parametrize("seed", [0, 1])
def test_sides_keep_groups_whole_have_their_shares_and_stay_when_others_come(seed: int) -> None:
    rng = np.random.default_rng(seed)
    keys = [f"S{i:05}" for i in range(6000)]
    groups = np.sort(rng.integers(0, 2500, 6000))
    shares = {"train": 0.7, "dev": 0.1, "test": 0.2}
    found = kinship.sides(keys, groups, shares, seed)
    assert all(len(set(found[groups == one])) == 1 for one in np.unique(groups))
    for name, share in shares.items():
        assert np.mean(found == name) == pytest.approx(share, abs=0.03)
    some = rng.permutation(6000)[:4000]
    kept = [i for i in some if min(np.flatnonzero(groups == groups[i])) in some]
    again = kinship.sides([keys[i] for i in some], groups[some], shares, seed)
    place = {row: at for at, row in enumerate(some.tolist())}
    assert all(again[place[i]] == found[i] for i in kept)
    assert (kinship.sides(keys, groups, shares, seed + 1) != found).any()


def test_shuffles_exchange_families_of_one_size_and_are_plain_permutations_without_families() -> None:
    groups = np.array([0, 1, 1, 2, 3, 3, 4, 5, 5, 5])
    orders = list(kinship.shuffles(groups, 200, 0))
    for order in orders:
        assert sorted(order) == list(range(10))
        for pair in ([1, 2], [4, 5]):
            assert order[pair].tolist() in ([1, 2], [4, 5])
        assert order[[7, 8, 9]].tolist() == [7, 8, 9]
        assert set(order[[0, 3, 6]].tolist()) == {0, 3, 6}
    assert {tuple(order[[0, 3, 6]]) for order in orders} == {(0, 3, 6), (0, 6, 3), (3, 0, 6), (3, 6, 0), (6, 0, 3), (6, 3, 0)}
    singles = np.array(list(kinship.shuffles(np.arange(5), 4000, 1)))
    counts = np.array([[np.sum(singles[:, i] == j) for j in range(5)] for i in range(5)])
    assert np.abs(counts / 4000 - 0.2).max() < 0.03


def test_a_family_stays_where_it_is_when_a_relative_with_a_smaller_key_comes() -> None:
    shares = {"train": 0.6, "dev": 0.2, "test": 0.2}
    keys, names = [f"S{i:03}" for i in range(100)], [f"F{i // 2}" for i in range(100)]
    groups = np.arange(100) // 2
    for seed in range(5):
        before = kinship.sides(keys, groups, shares, seed, names)
        after = kinship.sides(["A", *keys], np.array([7, *groups]), shares, seed, ["F7", *names])
        assert (after[1:] == before).all()
        assert after[0] == before[14]
        # By its new first key the family would move in some seeds.
        by_keys = [kinship.sides(keys, groups, shares, seed), kinship.sides(["A", *keys], np.array([7, *groups]), shares, seed)]
        assert (np.delete(by_keys[1][1:] == by_keys[0], [14, 15])).all()
    # Who has no family is hashed by the key, as where nobody has one.
    nobody = kinship.sides(keys, np.arange(100), shares, 0, [None] * 100)
    assert (nobody == kinship.sides(keys, np.arange(100), shares, 0)).all()


def test_rows_that_can_move_and_their_orders_are_counted() -> None:
    sizes = np.repeat(np.arange(5), [5, 4, 3, 2, 1])
    assert (kinship.movable(sizes), kinship.arrangements(sizes)) == (0, 1)
    assert all((order == np.arange(15)).all() for order in kinship.shuffles(sizes, 20, 0))
    groups = np.array([0, 1, 1, 2, 3, 3, 4, 5, 5, 5])
    assert (kinship.movable(groups), kinship.arrangements(groups)) == (7, 12)
    assert kinship.arrangements(np.arange(10_000)) == np.inf
    assert len({tuple(order) for order in kinship.shuffles(groups, 300, 0)}) == 12


def test_resamples_take_whole_families() -> None:
    groups = np.array([0, 1, 1, 2, 0])
    for rows in kinship.resamples(groups, 50, 0):
        counts = np.bincount(rows, minlength=5)
        assert counts[0] == counts[4]
        assert counts[1] == counts[2]
        assert counts[0] + counts[1] + counts[3] == 3

"""However many sequences end the worker that encodes them, alone or in company, all others are encoded and a run comes to an end."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from dnafeat.cluster.attempts import Attempt, Attempts
from dnafeat.embed.worker import PIECE_ROWS, row_ranges


def work(
    attempts: Attempts, rows: int, dies: Callable[[int, int], bool], shard: str = "shard"
) -> tuple[int, set[int], str | None]:
    """Encodes a shard as an actor does, until it is finished or the run has to stop; `dies` says of a range whether it ends the process.

    Returns the processes that died, the rows that were encoded, and why the run had to stop.
    """
    for deaths in range(10_000):
        attempt = attempts.begin(shard)
        if attempt.stop:
            return deaths, set(), attempt.stop
        encoded: set[int] = set()
        for first, end in row_ranges(rows, attempt.cuts, [int(name) for name in attempt.refused if int(name) < rows]):
            if attempt.careful:
                attempts.enter(shard, first, end, str(first))
            if dies(first, end):
                break
            encoded.update(range(first, end))
        else:
            attempts.leave(shard)
            attempts.finish(shard)
            return deaths, encoded, None
    raise AssertionError("the run does not end")


def holds(*poison: int) -> Callable[[int, int], bool]:
    return lambda first, end: any(first <= row < end for row in poison)


@pytest.mark.parametrize(
    ("rows", "poison", "deaths"),
    [(1, 0, 4), (16, 15, 5), (64, 17, 6), (256, 0, 6), (PIECE_ROWS, 777, 7), (5 * PIECE_ROWS + 3, 5 * PIECE_ROWS + 2, 5)],
)
def test_a_poison_sequence_costs_a_few_processes_and_itself_alone(rows: int, poison: int, deaths: int) -> None:
    attempts = Attempts()
    assert work(attempts, rows, holds(poison)) == (deaths, set(range(rows)) - {poison}, None)
    assert attempts.begin("another").refused == (str(poison),)


def test_what_is_refused_once_ends_no_process_of_another_shard() -> None:
    attempts = Attempts()
    work(attempts, 100, holds(7), "one")
    deaths, encoded, stop = work(attempts, 20, holds(7), "other")
    assert (deaths, encoded, stop) == (0, set(range(20)) - {7}, None)


@pytest.mark.parametrize("seed", range(5))
def test_several_in_a_shard_are_found(seed: int) -> None:
    rows = 5000
    poison = np.random.default_rng(seed).choice(rows, 10, replace=False).tolist()
    deaths, encoded, stop = work(Attempts(), rows, holds(*poison))
    assert stop is None
    assert encoded == set(range(rows)) - set(poison)
    assert deaths <= 3 + 10 * 4


def test_what_is_deadly_in_company_alone_is_encoded_in_less_of_it() -> None:
    attempts = Attempts()
    _, encoded, stop = work(attempts, 3000, lambda first, end: end - first > 100)
    assert (encoded, stop) == (set(range(3000)), None)
    assert attempts.begin("another").refused == ()
    # Should Ray lose the result, the shard is done again as it was done well.
    assert work(attempts, 3000, lambda first, end: end - first > 100) == (0, set(range(3000)), None)


@pytest.mark.parametrize("deaths", [1, 2, 3])
def test_a_few_deaths_refuse_nothing(deaths: int) -> None:
    left = iter(range(deaths))
    assert work(Attempts(), 3, lambda *_: next(left, None) is not None) == (deaths, {0, 1, 2}, None)


def test_a_shard_on_which_workers_die_outside_of_any_range_ends_the_run() -> None:
    attempts = Attempts()
    told = [attempts.begin("shard-00003.parquet") for _ in range(6)]
    assert [one.careful for one in told] == [False] * 3 + [True] * 3
    assert [one.stop for one in told[:5]] == [None] * 5
    assert "shard-00003.parquet was begun 5 times" in (told[5].stop or "")


def test_more_refused_sequences_than_can_be_end_the_run() -> None:
    assert work(Attempts(), 100, holds(*range(20)))[1:] == (set(range(20, 100)), None)
    attempts = Attempts()
    _, _, stop = work(attempts, 100, holds(*range(21)))
    assert "more than 20 sequences" in (stop or "")
    assert "20" in (attempts.begin("another").stop or "")


def test_workers_that_never_begin_anything_end_the_run() -> None:
    attempts = Attempts()
    assert [attempts.start("a") for _ in range(5)] == [None] * 5
    assert [attempts.start("b") for _ in range(5)] == [None] * 5
    attempts.begin("shard")  # somebody has begun, so not every worker is like that
    assert [attempts.start("a") for _ in range(5)] == [None] * 5
    assert "cannot be loaded" in (attempts.start("a") or "")


def test_the_first_attempt_at_a_shard_is_an_ordinary_one() -> None:
    assert Attempts().begin("shard") == Attempt()

"""Making and consuming side by side: in order, one ahead at most, and an error of either side ends both."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator

import pytest

from dnafeat.aside import consumed_aside


def test_items_are_consumed_in_order_in_another_thread() -> None:
    here, seen = threading.get_ident(), []

    def consume(items: Iterator[int]) -> int:
        for item in items:
            assert threading.get_ident() != here
            seen.append(item)
        return sum(seen)

    assert consumed_aside(iter(range(200)), consume) == sum(range(200))
    assert seen == list(range(200))
    assert consumed_aside([], lambda items: list(items)) == []


def test_no_more_than_one_waits_while_another_is_consumed_and_a_third_is_made() -> None:
    made, taken, ahead = [], [], []

    def make() -> Iterator[int]:
        for i in range(20):
            made.append(i)
            ahead.append(len(made) - len(taken))
            yield i

    def consume(items: Iterator[int]) -> None:
        for item in items:
            time.sleep(0.005)
            taken.append(item)

    consumed_aside(make(), consume)
    assert 2 <= max(ahead) <= 4


def test_an_error_in_making_reaches_the_consumer_first_and_then_the_caller() -> None:
    told: list[str] = []

    def make() -> Iterator[int]:
        yield 1
        raise ValueError("cannot make more")

    def consume(items: Iterator[int]) -> None:
        try:
            list(items)
        except ValueError as error:
            told.append(str(error))
            raise

    with pytest.raises(ValueError, match="cannot make more"):
        consumed_aside(make(), consume)
    assert told == ["cannot make more"]


def test_an_error_in_consuming_stops_the_making() -> None:
    made: list[int] = []

    def make() -> Iterator[int]:
        for i in range(1000):
            made.append(i)
            yield i

    def consume(items: Iterator[int]) -> None:
        next(items)
        raise OSError("no room")

    with pytest.raises(OSError, match="no room"):
        consumed_aside(make(), consume)
    assert len(made) < 10


def test_a_consumer_that_needs_no_more_ends_it() -> None:
    assert consumed_aside(iter(range(10**9)), lambda items: next(items)) == 0

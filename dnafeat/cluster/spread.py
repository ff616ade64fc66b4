"""How a step of a plan goes over its parts: here one after the other, or spread over a cluster (`tasks`)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol, TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")


class Each(Protocol):
    """Calls a function with each of some items, and returns the results in the items' order; what it raises ends all."""

    def __call__(self, function: Callable[[Item], Result], items: Sequence[Item], what: str) -> list[Result]:
        """`what` is said of it while it lasts: `reading the source`."""
        ...


def here(function: Callable[[Item], Result], items: Sequence[Item], what: str) -> list[Result]:
    """In this process, one after the other."""
    return [function(item) for item in items]

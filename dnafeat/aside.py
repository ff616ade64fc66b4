"""Consuming in a thread what this thread makes: vectors are written while the next ones are computed."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Iterable, Iterator
from typing import Any, TypeVar

T = TypeVar("T")
R = TypeVar("R")
_END = object()


class _Broken:
    """What stands in the queue where making an item failed."""

    def __init__(self, error: BaseException) -> None:
        self.error = error


def consumed_aside(items: Iterable[T], consume: Callable[[Iterator[T]], R]) -> R:
    """What `consume` returns over `items`, called in a thread of its own; the items are made here, one ahead at most.

    Making stays in the calling thread, because torch's number of threads belongs to the thread it was set in. An error of either side ends
    both: one in making is raised inside `consume`, so that it leaves nothing half done, and then here.
    """
    waiting: queue.Queue[Any] = queue.Queue(maxsize=1)
    over = threading.Event()
    outcome: dict[str, Any] = {}

    def handed() -> Iterator[T]:
        while (item := waiting.get()) is not _END:
            if isinstance(item, _Broken):
                raise item.error
            yield item

    def run() -> None:
        try:
            outcome["value"] = consume(handed())
        except BaseException as error:
            outcome["error"] = error
        finally:
            over.set()

    def hand(item: Any) -> bool:
        """Whether somebody still takes items."""
        while not over.is_set():
            try:
                waiting.put(item, timeout=0.2)
            except queue.Full:
                continue
            return True
        return False

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    try:
        for item in items:
            if not hand(item):
                break
        hand(_END)
    except BaseException as error:
        hand(_Broken(error))
        thread.join()
        raise
    thread.join()
    if "error" in outcome:
        raise outcome["error"]
    return outcome["value"]

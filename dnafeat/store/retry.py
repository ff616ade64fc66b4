"""Back-off, and calls that are made again where a connection breaks off."""

from __future__ import annotations

import contextlib
import random
import time
from collections.abc import Callable
from typing import TypeVar

from deltalake.exceptions import DeltaError

from dnafeat.errors import MissingFileError

# How often a snapshot is loaded anew because files of it are gone: `maintain` deletes replaced ones at once after an erasure.
READINGS = 5
_ATTEMPTS = 6  # at a call whose reply breaks off
_BROKEN_OFF = "response body", "reading a body"  # words of object_store's and of its HTTP library's

T = TypeVar("T")


def back_off(attempt: int, first: float = 0.1, longest: float = 3.2) -> None:
    """Sleep a random time of at most `first` seconds after attempt 0, twice as much after each further one, up to `longest`."""
    time.sleep(random.uniform(0, min(longest, first * 2**attempt)))


def broken_off(error: Exception) -> bool:
    """Return whether the connection was lost in the middle of a reply: the one fault that deltalake does not retry by itself."""
    return isinstance(error, OSError | DeltaError) and any(words in str(error) for words in _BROKEN_OFF)


def again(call: Callable[[], T]) -> T:
    """Return what an idempotent call returns, and call it again where a reply breaks off."""
    for attempt in range(_ATTEMPTS - 1):
        try:
            return call()
        except (DeltaError, OSError) as error:
            if not broken_off(error):
                raise
            back_off(attempt)
    return call()


def looking_again(read: Callable[[], T]) -> T:
    """Return what `read` returns, which loads the snapshots it reads, and call it again where files of them are deleted meanwhile."""
    for _ in range(READINGS - 1):
        with contextlib.suppress(FileNotFoundError, MissingFileError):
            return read()
    return read()

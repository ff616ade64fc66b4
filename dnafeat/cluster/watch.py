"""Which worker processes of a run have stopped: they give no sign of life, or get no further. Knows nothing of Ray.

A process that dies is noticed by Ray, and one that is stopped (SIGSTOP, a frozen disk) or hangs is not: its connections stay. So every
worker process gives signs of life from a thread, with the number of steps that its work has taken. Times are those of this process alone.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

STALL_SECONDS = 600.0
"""Seconds without progress after which a process is ended, where no setting says otherwise."""

# Of the seconds without progress after which a process is ended: those without any sign of life, and between two signs.
_SILENT_SHARE, _BEAT_SHARE = 0.2, 0.02
# A model may be fetched and loaded for longer than a batch takes to be encoded.
_LOADING_FACTOR = 3.0
# Where steps take long, a stop is one that is so many times longer than the longest step that a process of the run has ended.
_SLOW_FACTOR = 10.0
LOADING = "loading its model"


@dataclass(frozen=True)
class Place:
    """A process: the node that it runs on, and its number there."""

    node: str
    pid: int


@dataclass(frozen=True)
class Overdue:
    """A process that is to be ended, what it was at (None: nothing), and why, in words."""

    place: Place
    work: str | None
    why: str


@dataclass
class _Signs:
    work: str | None
    steps: int
    seen: float
    moved: float


class Watch:
    """The worker processes of one run.

    Parameters
    ----------
    seconds : float
        Without progress, after which a process is overdue; a fifth of it without any sign of life.
    clock : callable
        Seconds that never go back.
    """

    def __init__(self, seconds: float, clock: Callable[[], float] = time.monotonic) -> None:
        self.seconds, self._clock = seconds, clock
        self._signs: dict[Place, _Signs] = {}
        self._longest = 0.0
        self._looked = self._last = clock()

    @property
    def beat(self) -> float:
        """Seconds between two signs of life."""
        return self.seconds * _BEAT_SHARE

    @property
    def silent(self) -> float:
        """Seconds without any, after which a process is overdue."""
        return self.seconds * _SILENT_SHARE

    def sign(self, place: Place, work: str | None, steps: int) -> None:
        """A process lives, is at some work (None: at nothing), and has taken so many steps altogether."""
        now = self._clock()
        known = self._signs.get(place)
        if known is None or (known.work, known.steps) != (work, steps):
            if known is not None and known.work == work and work not in (None, LOADING):
                self._longest = max(self._longest, now - known.moved)
            self._signs[place] = _Signs(work, steps, now, now)
            self._last = now
        else:
            known.seen = now

    def leave(self, place: Place) -> None:
        """A process has nothing to do any more and gives no signs."""
        self._signs.pop(place, None)
        self._last = self._clock()

    @property
    def still(self) -> float:
        """Seconds since any process has got further, or was ended."""
        return self._clock() - self._last

    def overdue(self) -> list[Overdue]:
        """The processes that are to be ended now; they are not watched any more."""
        now = self._clock()
        if now - self._looked > self.silent / 2:
            # This process was stopped itself, and has heard nobody meanwhile.
            for signs in self._signs.values():
                signs.seen, signs.moved = now, now
            self._last = now
        self._looked = now
        found = []
        for place, signs in self._signs.items():
            limit = max(self.seconds, _SLOW_FACTOR * self._longest) * (_LOADING_FACTOR if signs.work == LOADING else 1.0)
            if now - signs.seen > self.silent:
                found.append(Overdue(place, signs.work, f"gave no sign of life for {now - signs.seen:.0f} s"))
            elif signs.work is not None and now - signs.moved > limit:
                found.append(Overdue(place, signs.work, f"got no further for {now - signs.moved:.0f} s"))
        for one in found:
            del self._signs[one.place]
            self._last = now
        return found

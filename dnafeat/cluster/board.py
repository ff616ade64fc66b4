"""What the workers of a run say: which shard they begin and finish, and how much they have encoded. Knows nothing of Ray."""

from __future__ import annotations

import logging
import threading
import time
from typing import Protocol

from dnafeat.cluster.attempts import Attempt, Attempts
from dnafeat.cluster.observe import Job

# Stands before a shard's name while it is tokenised.
TOKENISING = "tokenising "
_GAUGE_SECONDS = 5.0


class Board(Protocol):
    """What a worker reports to: the board itself in the driver's process, or a handle of it elsewhere."""

    def start(self, worker: str) -> str | None:
        """A process begins to load its model. Returns why the run has to end, in a sentence, or None."""

    def begin(self, name: str) -> Attempt:
        """Report that this process begins a shard; returns once that is known, whatever becomes of the process."""

    def enter(self, name: str, first: int, end: int, digest: str) -> None:
        """Report, before it happens, that rows `first` to before `end` of a shard are encoded."""

    def leave(self, name: str) -> None:
        """Report that all of them are."""

    def finish(self, name: str) -> None:
        """Report that a shard is done."""

    def add(self, sequences: int, tokens: int) -> None:
        """Report sequences and tokens that were encoded since the last call."""

    def note(self, text: str) -> None:
        """Leave a sentence for the user, shown once."""

    def fail(self, sentence: str) -> None:
        """Leave the sentence that says why the run cannot go on."""

    def read(self) -> tuple[int, int, list[str]]:
        """Sequences and tokens encoded so far, and the notes."""


class Queue:
    """Where the shards of a run are.

    Attributes
    ----------
    counts : dict of str to int
        Shards in each state.
    """

    def __init__(self, shards: int) -> None:
        self.counts = {"waiting": shards, **dict.fromkeys(("tokenising", "waiting for an encoder", "encoding", "done"), 0)}
        self._states: dict[str, str] = {}

    def begin(self, name: str) -> None:
        """A shard begins to be tokenised, or to be encoded."""
        self._move(name, "tokenising", "encoding")

    def finish(self, name: str) -> None:
        """A shard is tokenised, or encoded."""
        self._move(name, "waiting for an encoder", "done")

    def _move(self, name: str, tokenising: str, encoding: str) -> None:
        shard = name.removeprefix(TOKENISING)
        state = tokenising if shard != name else encoding
        self.counts[self._states.get(shard, "waiting")] -= 1
        self.counts[state] += 1
        self._states[shard] = state


class RunBoard:
    """The board of one run: counts for the bar and the gauges, and `Attempts`. Its methods are `Board`'s, from any thread.

    A shard is begun and finished twice: as `TOKENISING` + name by what tokenises it, as name by an encoder.
    """

    def __init__(self, job: Job, shards: int) -> None:
        self.sequences = self.tokens = 0
        self._attempts = Attempts()
        self._job, self._queue = job, Queue(shards)
        self._notes: dict[str, None] = {}
        self._failure: str | None = None
        self._measured = 0.0
        self._lock = threading.Lock()

    def add(self, sequences: int, tokens: int) -> None:
        with self._lock:
            self.sequences += sequences
            self.tokens += tokens

    def note(self, text: str) -> None:
        self._notes[text] = None

    def fail(self, sentence: str) -> None:
        self._failure = self._failure or sentence

    def failure(self) -> str | None:
        """What `fail` was called with first."""
        return self._failure

    def read(self) -> tuple[int, int, list[str]]:
        # Ray serves a gauge for some 20 s after it was set, and a shard may take longer.
        if time.monotonic() - self._measured > _GAUGE_SECONDS:
            self._measure()
        return self.sequences, self.tokens, list(self._notes)

    def start(self, worker: str) -> str | None:
        return self._attempts.start(worker)

    def begin(self, name: str) -> Attempt:
        with self._lock:
            died, attempt = self._attempts.died, self._attempts.begin(name)
            self._queue.begin(name)
        if self._attempts.died > died:
            self._job.count("dnafeat_retries", 1, what="shard")
            self._job.record("begun again after its worker died", level=logging.WARNING, shard=name)
        self._measure()
        return attempt

    def hang(self, name: str) -> None:
        """The process that was at a shard is about to be ended, since it has stopped or hangs."""
        with self._lock:
            self._attempts.hang(name)

    def enter(self, name: str, first: int, end: int, digest: str) -> None:
        self._attempts.enter(name, first, end, digest)

    def leave(self, name: str) -> None:
        self._attempts.leave(name)

    def finish(self, name: str) -> None:
        with self._lock:
            self._attempts.finish(name)
            self._queue.finish(name)
        self._measure()

    def _measure(self) -> None:
        self._measured = time.monotonic()
        for state, count in list(self._queue.counts.items()):
            self._job.set("dnafeat_shards", count, state=state)

"""Live progress of a Ray job: an actor that workers tell what they do and have done, and a bar in the driver that shows it.

In a job's log on a cluster there is a record now and then in the bar's place.
"""

from __future__ import annotations

import contextlib
import logging
import os
import sys
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from typing import cast

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy
from tqdm import tqdm

from dnafeat.cluster.attempts import Attempt, Attempts
from dnafeat.cluster.counter import counter
from dnafeat.cluster.observe import Job, told_in_records

# What stands before a shard's name while it is tokenised.
TOKENISING = "tokenising "
_RECORD_SECONDS, _GAUGE_SECONDS = 15.0, 5.0
# Between looks at what workers have told: for eyes, and for a file. Every look takes a moment from the encoders.
_LOOK_SECONDS, _HIDDEN_LOOK_SECONDS = 0.5, 3.0


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
        """Somebody begins to tokenise a shard, or to encode it."""
        self._move(name, "tokenising", "encoding")

    def finish(self, name: str) -> None:
        """Somebody has done so."""
        self._move(name, "waiting for an encoder", "done")

    def _move(self, name: str, tokenising: str, encoding: str) -> None:
        shard = name.removeprefix(TOKENISING)
        state = tokenising if shard != name else encoding
        self.counts[self._states.get(shard, "waiting")] -= 1
        self.counts[state] += 1
        self._states[shard] = state


# It runs nothing that could end it. Should it die all the same, the next one counts from nothing.
@ray.remote(num_cpus=0, max_restarts=-1, max_task_retries=-1)
class Progress:
    """Counts what the actors have done, for the driver to show, and knows what they have begun: most other methods are `Attempts`'.

    A shard is begun and finished twice: under `TOKENISING` and its name by whoever tokenises it, under its name by an encoder.
    """

    def __init__(self, job: Job, shards: int) -> None:
        self.sequences = self.tokens = 0
        self._attempts = Attempts()
        self._job, self._queue = job, Queue(shards)
        self._notes: dict[str, None] = {}
        self._measured = 0.0

    def add(self, sequences: int, tokens: int) -> None:
        self.sequences += sequences
        self.tokens += tokens

    def note(self, text: str) -> None:
        """What the driver should tell, once."""
        self._notes[text] = None

    def read(self) -> tuple[int, int, list[str]]:
        # Ray serves a gauge for some 20 s after it was set, and a shard may take longer.
        if time.monotonic() - self._measured > _GAUGE_SECONDS:
            self._measure()
        return self.sequences, self.tokens, list(self._notes)

    def start(self, worker: str) -> str | None:
        return self._attempts.start(worker)

    def begin(self, shard: str) -> Attempt:
        died, attempt = self._attempts.died, self._attempts.begin(shard)
        if self._attempts.died > died:
            self._job.count("dnafeat_retries", 1, what="shard")
            self._job.record("begun again after its worker died", level=logging.WARNING, shard=shard)
        self._queue.begin(shard)
        self._measure()
        return attempt

    def enter(self, shard: str, first: int, end: int, name: str) -> None:
        self._attempts.enter(shard, first, end, name)

    def leave(self, shard: str) -> None:
        self._attempts.leave(shard)

    def finish(self, shard: str) -> None:
        self._attempts.finish(shard)
        self._queue.finish(shard)
        self._measure()

    def _measure(self) -> None:
        self._measured = time.monotonic()
        for state, count in self._queue.counts.items():
            self._job.set("dnafeat_shards", count, state=state)


def start(job: Job, shards: int) -> ray.actor.ActorHandle:
    """A new counter, on the driver's own node, which lives as long as the run. It needs no CPU of its own."""
    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=True)
    name = f"dnafeat progress {job.run_id} {uuid.uuid4().hex[:8]}"
    return Progress.options(name=name, scheduling_strategy=here).remote(job, shards)  # type: ignore[attr-defined]


@contextlib.contextmanager
def _repeated(look: Callable[[], None]) -> Iterator[None]:
    """Calls `look` now and then, from a thread, for as long as the block runs; what Ray cannot tell now is left for the next time."""
    done = threading.Event()
    seconds = _LOOK_SECONDS if os.isatty(2) else _HIDDEN_LOOK_SECONDS

    def follow() -> None:
        while not done.wait(seconds):
            with contextlib.suppress(ray.exceptions.RayError):
                look()

    thread = threading.Thread(target=follow, daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()


@contextlib.contextmanager
def shown(progress: ray.actor.ActorHandle, total: int, show: bool, job: Job) -> Iterator[None]:
    """A bar on standard error with sequences done, rate and time left, for as long as the block runs, and what workers note."""
    told: set[str] = set()
    pace = _Pace()
    hidden = not show or told_in_records()
    with counter(total=total, desc="encoding", unit="sequences", disable=hidden) as bar:

        def look() -> None:
            sequences, tokens, notes = cast(tuple[int, int, list[str]], ray.get(progress.read.remote()))
            for note in notes:
                if note not in told:
                    told.add(note)
                    say(note, job)
            # A shard that is encoded again after a worker died counts twice here; the bar still ends at its end.
            done = min(sequences, total)
            rate = tokens / pace.elapsed
            if hidden and show and pace.due():
                job.record("encoding", done=done, total=total, tokens_per_second=round(rate))
            bar.set_postfix_str(f"{rate:,.0f} tokens/s", refresh=False)
            bar.update(done - bar.n)

        with _repeated(look):
            yield
            bar.update(total - bar.n)
        with contextlib.suppress(ray.exceptions.RayError):
            look()


def say(text: str, job: Job) -> None:
    """Tells the user something beside the bar, or among the records."""
    if told_in_records():
        job.record(text, level=logging.WARNING)
    else:
        tqdm.write(f"dnafeat: {text}", file=sys.stderr)


class _Pace:
    """Says when the next record of progress is due."""

    def __init__(self) -> None:
        self._began = self._last = time.monotonic()

    @property
    def elapsed(self) -> float:
        return max(time.monotonic() - self._began, 1e-9)

    def due(self) -> bool:
        now = time.monotonic()
        if now - self._last < _RECORD_SECONDS:
            return False
        self._last = now
        return True


@ray.remote(num_cpus=0)
class Steps:
    """How far a training run is, told by its first worker."""

    def __init__(self) -> None:
        self.now: tuple[int, int, dict[str, float]] = (0, 0, {})

    def tell(self, step: int, total: int, values: dict[str, float]) -> None:
        self.now = (step, total, {**self.now[2], **values})

    def read(self) -> tuple[int, int, dict[str, float]]:
        return self.now


_TOLD = {
    "loss": "loss",
    "learning_rate": "rate",
    "eval_loss": "dev loss",
    "eval_f1": "dev F1",
    "eval_mcc": "dev MCC",
    "eval_spearman": "dev Spearman",
}


@contextlib.contextmanager
def steps_shown(progress: ray.actor.ActorHandle, show: bool, job: Job) -> Iterator[None]:
    """A bar on standard error with steps done, time left, loss, learning rate and dev metric, for as long as the block runs."""
    if not show:
        yield
        return
    pace = _Pace()
    with counter(total=None, desc="training", unit="steps", disable=told_in_records()) as bar:

        def look() -> None:
            step, total, values = cast(tuple[int, int, dict[str, float]], ray.get(progress.read.remote()))
            if told_in_records() and pace.due():
                job.record("training", step=step, steps=total, **values)
            told = [f"{label} {values[name]:.3g}" for name, label in _TOLD.items() if name in values]
            bar.total = total or None
            bar.set_postfix_str(", ".join(told), refresh=False)
            bar.update(step - bar.n)

        with _repeated(look):
            yield

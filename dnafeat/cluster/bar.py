"""Live progress in the driver: a bar on a terminal, a line now and then in a file, a record in a job's log on a cluster."""

from __future__ import annotations

import contextlib
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from tqdm import tqdm

from dnafeat.cluster.counter import counter
from dnafeat.cluster.observe import Job, told_in_records
from dnafeat.text import visible

_RECORD_SECONDS = 15.0
# Values of a training run beside its bar.
_NOTED = {
    "loss": "loss",
    "learning_rate": "rate",
    "eval_loss": "dev loss",
    "eval_f1": "dev F1",
    "eval_mcc": "dev MCC",
    "eval_spearman": "dev Spearman",
}
# Between looks at what workers have reported: on a terminal, and in a file. Every look takes a moment from the encoders.
_LOOK_SECONDS, _HIDDEN_LOOK_SECONDS = 0.5, 3.0


@contextlib.contextmanager
def repeated(look: Callable[[], None]) -> Iterator[None]:
    """Call `look` now and then, from a thread, for as long as the block runs."""
    done = threading.Event()
    seconds = _LOOK_SECONDS if os.isatty(2) else _HIDDEN_LOOK_SECONDS

    def follow() -> None:
        while not done.wait(seconds):
            look()

    thread = threading.Thread(target=follow, daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()


@contextlib.contextmanager
def shown(read: Callable[[], tuple[int, int, list[str]]], total: int, show: bool, job: Job) -> Iterator[None]:
    """Show sequences done, rate, time left and notes on standard error for as long as the block runs.

    Parameters
    ----------
    read : callable
        `Board.read`: sequences and tokens so far, and notes.
    total : int
        Sequences of the run; those that are encoded once more for the audit are not among them.
    """
    seen: set[str] = set()
    pace = Pace()
    hidden = not show or told_in_records()
    with counter(total=total, desc="encoding", unit="sequences", disable=hidden, ends=True) as bar:

        def look() -> None:
            sequences, tokens, notes = read()
            for note in notes:
                if note not in seen:
                    seen.add(note)
                    say(note, job)
            # A shard that is encoded again after a worker died counts twice here; the bar still ends at its end.
            done = min(sequences, total)
            rate = tokens / pace.elapsed
            if hidden and show and pace.due():
                job.record("encoding", done=done, total=total, tokens_per_second=round(rate))
            bar.set_postfix_str(f"{rate:,.0f} tokens/s", refresh=False)
            bar.update(done - bar.n)

        with repeated(look):
            yield
            bar.update(total - bar.n)
        look()


@contextlib.contextmanager
def steps_shown(read: Callable[[], tuple[int, int, Mapping[str, float]] | None], show: bool, job: Job) -> Iterator[None]:
    """Show steps done, time left, loss, learning rate and dev metric of a training run for as long as the block runs.

    Parameters
    ----------
    read : callable
        Steps done, steps of the run, and logged values; None where they are not known now.
    """
    if not show:
        yield
        return
    pace = Pace()
    with counter(total=None, desc="training", unit="steps", disable=told_in_records()) as bar:

        def look() -> None:
            if (now := read()) is None:
                return
            step, total, values = now
            if told_in_records() and pace.due():
                job.record("training", step=step, steps=total, **dict[str, Any](values))
            noted = [f"{label} {values[name]:.3g}" for name, label in _NOTED.items() if name in values]
            bar.total = total or None
            bar.set_postfix_str(", ".join(noted), refresh=False)
            bar.update(step - bar.n)

        with repeated(look):
            yield


def say(text: str, job: Job) -> None:
    """Show the user a sentence beside the bar, or among the records."""
    if told_in_records():
        job.record(text, level=30)
    else:
        tqdm.write(f"dnafeat: {visible(text)}", file=sys.stderr)


class Pace:
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

"""Live progress of a Ray job: an actor that workers tell what they do and have done, and a bar in the driver that shows it."""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Callable, Iterator
from typing import cast

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy
from tqdm import tqdm

from dnafeat.attempts import Attempt, Attempts


# It runs nothing that could end it. Should it die all the same, the next one counts from nothing.
@ray.remote(num_cpus=0, max_restarts=-1, max_task_retries=-1)
class Progress:
    """Counts what the actors have done, for the driver to show, and knows what they have begun: its other methods are `Attempts`'."""

    def __init__(self) -> None:
        self.sequences = self.tokens = 0
        self._attempts = Attempts()

    def add(self, sequences: int, tokens: int) -> None:
        self.sequences += sequences
        self.tokens += tokens

    def read(self) -> tuple[int, int]:
        return self.sequences, self.tokens

    def start(self, worker: str) -> str | None:
        return self._attempts.start(worker)

    def begin(self, shard: str) -> Attempt:
        return self._attempts.begin(shard)

    def enter(self, shard: str, first: int, end: int, name: str) -> None:
        self._attempts.enter(shard, first, end, name)

    def leave(self, shard: str) -> None:
        self._attempts.leave(shard)

    def finish(self, shard: str) -> None:
        self._attempts.finish(shard)


def start() -> ray.actor.ActorHandle:
    """A new counter, on the driver's own node, which lives as long as the run. It needs no CPU of its own."""
    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=True)
    return Progress.options(scheduling_strategy=here).remote()  # type: ignore[attr-defined]


def interval() -> float:
    """Seconds between drawings: a log file gets a line now and then and not a bar that redraws itself."""
    return 0.1 if os.isatty(2) else 15.0


@contextlib.contextmanager
def _repeated(look: Callable[[], None]) -> Iterator[None]:
    """Calls `look` twice a second, from a thread, for as long as the block runs; what Ray cannot tell now is left for the next time."""
    done = threading.Event()

    def follow() -> None:
        while not done.wait(0.5):
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
def shown(progress: ray.actor.ActorHandle, total: int, show: bool) -> Iterator[None]:
    """A bar on standard error with sequences done, rate and time left, for as long as the block runs."""
    if not show:
        yield
        return
    with tqdm(total=total, desc="encoding", unit=" sequences", unit_scale=True, mininterval=interval(), smoothing=0.1) as bar:

        def look() -> None:
            sequences, tokens = cast(tuple[int, int], ray.get(progress.read.remote()))
            bar.set_postfix_str(f"{tokens / max(bar.format_dict['elapsed'], 1e-9):,.0f} tokens/s", refresh=False)
            # A shard that is encoded again after a worker died counts twice here; the bar still ends at its end.
            bar.update(min(sequences, total) - bar.n)

        with _repeated(look):
            yield
            bar.update(total - bar.n)


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
def steps_shown(progress: ray.actor.ActorHandle, show: bool) -> Iterator[None]:
    """A bar on standard error with steps done, time left, loss, learning rate and dev metric, for as long as the block runs."""
    if not show:
        yield
        return
    with tqdm(total=None, desc="training", unit=" steps", mininterval=interval()) as bar:

        def look() -> None:
            step, total, values = cast(tuple[int, int, dict[str, float]], ray.get(progress.read.remote()))
            told = [f"{label} {values[name]:.3g}" for name, label in _TOLD.items() if name in values]
            bar.total = total or None
            bar.set_postfix_str(", ".join(told), refresh=False)
            bar.update(step - bar.n)

        with _repeated(look):
            yield

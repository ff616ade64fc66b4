"""Progress of a job on Ray: actors that hold a run's board and a training run's step, and their handles."""

from __future__ import annotations

import contextlib
import os
import threading
import uuid
from typing import Any, cast

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from dnafeat.cluster.attempts import Attempt
from dnafeat.cluster.board import RunBoard
from dnafeat.cluster.observe import Job
from dnafeat.cluster.watch import LOADING, STALL_SECONDS, Overdue, Place, Watch

# An actor that does not answer within that is looked at again later.
_LOOK_SECONDS = 10.0


# It runs nothing that could end it. Should it die all the same, the next one counts from nothing.
@ray.remote(num_cpus=0, max_restarts=-1, max_task_retries=-1)
class Progress(RunBoard):
    """The board of a run as an actor, on the driver's node, with its watch over the run's processes."""

    def __init__(self, job: Job, shards: int, stall_seconds: float) -> None:
        super().__init__(job, shards)
        self._watch = Watch(stall_seconds)

    def place(self) -> Place:
        """Where this actor runs."""
        return _here()

    def sign(self, place: Place, work: str | None, steps: int) -> None:
        self._watch.sign(place, work, steps)

    def leave_watch(self, place: Place) -> None:
        self._watch.leave(place)

    def overdue(self) -> tuple[list[Overdue], float]:
        """Processes that are to be ended, and seconds since anything has got further."""
        found = self._watch.overdue()
        for one in found:
            if one.work not in (None, LOADING):
                self.hang(one.work)
        return found, self._watch.still


def _here() -> Place:
    return Place(ray.get_runtime_context().get_node_id(), os.getpid())


class _Pulse(threading.Thread):
    """Gives signs of life for as long as its process runs or `over` is not set."""

    def __init__(self, actor: ray.actor.ActorHandle, beat: float) -> None:
        super().__init__(name="signs of life", daemon=True)
        self.work: str | None = None
        self.steps = 0
        self.over = threading.Event()
        self._actor, self._beat, self._place = actor, beat, _here()

    def run(self) -> None:
        while not self.over.wait(self._beat):
            self.send()

    def send(self) -> None:
        self._actor.sign.remote(self._place, self.work, self.steps)

    def end(self) -> None:
        self.over.set()
        self._actor.leave_watch.remote(self._place)


class RayBoard:
    """`Board` for workers in other processes: what must be known before they go on waits for the answer."""

    def __init__(self, actor: ray.actor.ActorHandle, stall_seconds: float) -> None:
        self.actor, self.stall_seconds = actor, stall_seconds
        self._last: tuple[int, int, list[str]] = (0, 0, [])
        self._pulse: _Pulse | None = None

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_pulse": None}

    def give_signs(self, work: str | None = None) -> None:
        """Have this process watched from now on."""
        self._pulse = _Pulse(self.actor, Watch(self.stall_seconds).beat)
        self._pulse.start()
        self._at(work)

    def end_signs(self) -> None:
        """Have it watched no more."""
        if self._pulse is not None:
            self._pulse.end()
            self._pulse = None

    def rest(self) -> None:
        """This process has nothing to do at present."""
        self._at(None)

    def _at(self, work: str | None) -> None:
        if self._pulse is not None:
            self._pulse.work = work
            self._pulse.steps += 1
            self._pulse.send()

    def _step(self) -> None:
        if self._pulse is not None:
            self._pulse.steps += 1

    def _asked(self, method: str, *arguments: Any) -> Any:
        return ray.get(getattr(self.actor, method).remote(*arguments))

    def start(self, worker: str) -> str | None:
        return cast(str | None, self._asked("start", worker))

    def begin(self, name: str) -> Attempt:
        self._at(name)
        return cast(Attempt, self._asked("begin", name))

    def enter(self, name: str, first: int, end: int, digest: str) -> None:
        self._step()
        self._asked("enter", name, first, end, digest)

    def leave(self, name: str) -> None:
        self._step()
        self._asked("leave", name)

    def finish(self, name: str) -> None:
        self.actor.finish.remote(name)
        self._at(None)

    def add(self, sequences: int, tokens: int) -> None:
        self._step()
        self.actor.add.remote(sequences, tokens)

    def note(self, text: str) -> None:
        self.actor.note.remote(text)

    def fail(self, sentence: str) -> None:
        self._asked("fail", sentence)

    def failure(self) -> str | None:
        with contextlib.suppress(ray.exceptions.RayError):
            return cast(str | None, ray.get(self.actor.failure.remote(), timeout=_LOOK_SECONDS))
        return None

    def read(self) -> tuple[int, int, list[str]]:
        """As it was at the last look where Ray cannot answer now: the next look will."""
        with contextlib.suppress(ray.exceptions.RayError):
            self._last = cast(tuple[int, int, list[str]], ray.get(self.actor.read.remote(), timeout=_LOOK_SECONDS))
        return self._last


def start(job: Job, shards: int, stall_seconds: float = STALL_SECONDS) -> RayBoard:
    """A new board, on the driver's own node, which lives as long as the run. It needs no CPU of its own."""
    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=True)
    name = f"dnafeat progress {job.run_id} {uuid.uuid4().hex[:8]}"
    actor = Progress.options(name=name, scheduling_strategy=here).remote(job, shards, stall_seconds)  # type: ignore[attr-defined]
    return RayBoard(actor, stall_seconds)


@ray.remote(num_cpus=0)
class Steps:
    """Steps of a training run, reported by its first worker."""

    def __init__(self) -> None:
        self.now: tuple[int, int, dict[str, float]] = (0, 0, {})

    def tell(self, step: int, total: int, values: dict[str, float]) -> None:
        self.now = (step, total, {**self.now[2], **values})

    def read(self) -> tuple[int, int, dict[str, float]]:
        return self.now


def steps_of(progress: ray.actor.ActorHandle) -> tuple[int, int, dict[str, float]] | None:
    """Read what `Steps` holds; None where Ray cannot answer now: the next look will."""
    with contextlib.suppress(ray.exceptions.RayError):
        return cast(tuple[int, int, dict[str, float]], ray.get(progress.read.remote()))
    return None

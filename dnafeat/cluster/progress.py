"""Progress of a job on Ray: actors that hold a run's board and a training run's step, and their handles."""

from __future__ import annotations

import contextlib
import uuid
from typing import Any, cast

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from dnafeat.cluster.attempts import Attempt
from dnafeat.cluster.board import RunBoard
from dnafeat.cluster.observe import Job


# It runs nothing that could end it. Should it die all the same, the next one counts from nothing.
@ray.remote(num_cpus=0, max_restarts=-1, max_task_retries=-1)
class Progress(RunBoard):
    """The board of a run as an actor, on the driver's node."""


class RayBoard:
    """`Board` for workers in other processes: what must be known before they go on waits for the answer."""

    def __init__(self, actor: ray.actor.ActorHandle) -> None:
        self.actor = actor
        self._last: tuple[int, int, list[str]] = (0, 0, [])

    def _asked(self, method: str, *arguments: Any) -> Any:
        return ray.get(getattr(self.actor, method).remote(*arguments))

    def start(self, worker: str) -> str | None:
        return cast(str | None, self._asked("start", worker))

    def begin(self, name: str) -> Attempt:
        return cast(Attempt, self._asked("begin", name))

    def enter(self, name: str, first: int, end: int, digest: str) -> None:
        self._asked("enter", name, first, end, digest)

    def leave(self, name: str) -> None:
        self._asked("leave", name)

    def finish(self, name: str) -> None:
        self.actor.finish.remote(name)

    def add(self, sequences: int, tokens: int) -> None:
        self.actor.add.remote(sequences, tokens)

    def note(self, text: str) -> None:
        self.actor.note.remote(text)

    def fail(self, sentence: str) -> None:
        self._asked("fail", sentence)

    def failure(self) -> str | None:
        with contextlib.suppress(ray.exceptions.RayError):
            return cast(str | None, self._asked("failure"))
        return None

    def read(self) -> tuple[int, int, list[str]]:
        """As it was at the last look where Ray cannot answer now: the next look will."""
        with contextlib.suppress(ray.exceptions.RayError):
            self._last = self._asked("read")
        return self._last


def start(job: Job, shards: int) -> RayBoard:
    """A new board, on the driver's own node, which lives as long as the run. It needs no CPU of its own."""
    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=True)
    name = f"dnafeat progress {job.run_id} {uuid.uuid4().hex[:8]}"
    return RayBoard(Progress.options(name=name, scheduling_strategy=here).remote(job, shards))  # type: ignore[attr-defined]


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

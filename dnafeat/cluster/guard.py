"""End the worker processes of a run that have stopped, from the driver, so that Ray has their work done again."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from types import FrameType
from typing import Any, cast

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from dnafeat.cluster.bar import say
from dnafeat.cluster.config import on_cluster
from dnafeat.cluster.observe import Job
from dnafeat.cluster.progress import RayBoard
from dnafeat.cluster.watch import Overdue, Place, Watch

# Of the seconds without progress: those after which a run in which nothing gets further at all is ended.
_RUN_FACTOR = 2.0
# Until it is said that no worker has begun.
_WAIT_SAID = 60.0


class NothingMoves(Exception):
    """A run in which nothing has got further for too long, and no process was there to be ended."""


def end_process(pid: int) -> bool:
    """Kill a process of Ray on this node. Returns whether it was there: a number may belong to another process meanwhile."""
    with contextlib.suppress(OSError):
        command = Path(f"/proc/{pid}/cmdline")
        if command.parent.parent.is_dir() and (not command.is_file() or not command.read_bytes().startswith(b"ray::")):
            return False
        os.kill(pid, signal.SIGKILL)
        return True
    return False


def _end(place: Place) -> None:
    """Kill a process of whatever node."""
    if place.node == ray.get_runtime_context().get_node_id():
        end_process(place.pid)
        return
    there = NodeAffinitySchedulingStrategy(place.node, soft=False)
    # Nobody waits for it: a node that is gone has ended its processes.
    ray.remote(num_cpus=0, max_retries=0)(end_process).options(scheduling_strategy=there).remote(place.pid)


class _Guard(threading.Thread):
    def __init__(self, board: RayBoard, job: Job, main: int | None) -> None:
        super().__init__(name="guard", daemon=True)
        self.over, self.verdict = threading.Event(), ""
        self._board, self._job, self._main = board, job, main
        self._watch = Watch(board.stall_seconds)
        self._began, self._answered, self._said = time.monotonic(), time.monotonic(), False
        self._place: Place | None = None

    def run(self) -> None:
        while not self.over.wait(self._watch.beat):
            # Ray may be gone, or going, at any of its calls.
            with contextlib.suppress(ray.exceptions.RayError, RuntimeError):
                self._look()
            if time.monotonic() - self._answered > _RUN_FACTOR * self._watch.seconds:
                self._stop(f"Ray did not answer for {time.monotonic() - self._answered:.0f} s")

    def _look(self) -> None:
        try:
            if self._place is None:
                self._place = cast(Place, ray.get(self._board.actor.place.remote(), timeout=self._watch.silent))
            looked: Any = ray.get(self._board.actor.overdue.remote(), timeout=self._watch.silent)
            found, still = cast(tuple[list[Overdue], float], looked)
        except ray.exceptions.GetTimeoutError:
            if self._place is not None:
                # Its next process counts from nothing, and workers ask that one again.
                _end(self._place)
                self._place = None
            return
        self._answered = time.monotonic()
        for one in found:
            self._tell(one)
            _end(one.place)
        begun = still < time.monotonic() - self._began - 1
        if not begun and not self._said and time.monotonic() - self._began > _WAIT_SAID:
            self._said = True
            more = "until the cluster has room for one" if on_cluster() else "for a process to start"
            say(f"no worker has begun after {_WAIT_SAID:.0f} s; waiting {more}", self._job)
        # A cluster may take as long as it wants to find the first node.
        if still > _RUN_FACTOR * self._watch.seconds and (begun or not on_cluster()):
            self._stop(f"nothing got further for {still:.0f} s")

    def _tell(self, one: Overdue) -> None:
        what = f" at {one.work}" if one.work else ""
        say(f"worker process {one.place.pid}{what} {one.why}: it is ended, and its work is begun again", self._job)
        self._job.count("dnafeat_retries", 1, what="stall")

    def _stop(self, verdict: str) -> None:
        if self.over.is_set():
            return
        self.over.set()
        self.verdict = f"{verdict}; look in Ray's logs"
        if self._main is not None:
            # Wakes it from whatever it waits for.
            signal.pthread_kill(self._main, signal.SIGUSR1)


@contextlib.contextmanager
def guarded(board: RayBoard, job: Job) -> Iterator[None]:
    """End stopped processes for as long as the block runs.

    Raises
    ------
    NothingMoves
        In the block, where it runs in the main thread: nothing gets further, though nothing is left to be ended.
    """
    main = threading.get_ident() if threading.current_thread() is threading.main_thread() else None
    guard = _Guard(board, job, main)

    def stop(number: int, frame: FrameType | None) -> None:
        raise NothingMoves(guard.verdict)

    before = signal.signal(signal.SIGUSR1, stop) if main is not None else None
    guard.start()
    try:
        yield
    finally:
        guard.over.set()
        if main is not None:
            signal.signal(signal.SIGUSR1, before or signal.SIG_DFL)

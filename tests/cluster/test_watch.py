"""Worker processes that have stopped: who is to be ended, and who is only slow."""

from __future__ import annotations

import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from dnafeat.cluster import guard
from dnafeat.cluster.attempts import Attempts
from dnafeat.cluster.watch import LOADING, Place, Watch

ONE, OTHER = Place("node", 1), Place("node", 2)


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def watch(clock: Clock) -> Watch:
    return Watch(100.0, clock)


def pass_time(
    watch: Watch, clock: Clock, seconds: float, *alive: tuple[Place, str | None, int]
) -> list[tuple[Place, str | None]]:
    """Lets seconds pass in which some processes give signs of life but get no further; returns who was overdue."""
    found = []
    for _ in range(int(seconds)):
        clock.now += 1
        for place, work, steps in alive:
            watch.sign(place, work, steps)
        found += [(one.place, one.work) for one in watch.overdue()]
    return found


def test_a_process_without_a_sign_of_life_is_ended_once_even_where_it_has_nothing_to_do(watch: Watch, clock: Clock) -> None:
    watch.sign(ONE, "shard-0", 1)
    watch.sign(OTHER, None, 1)
    assert pass_time(watch, clock, 20) == []
    assert pass_time(watch, clock, 2) == [(ONE, "shard-0"), (OTHER, None)]
    assert pass_time(watch, clock, 200) == []


def test_a_process_that_lives_and_gets_no_further_is_ended_where_it_has_something_to_do(watch: Watch, clock: Clock) -> None:
    watch.sign(ONE, "shard-0", 1)
    watch.sign(OTHER, None, 1)
    assert pass_time(watch, clock, 99, (ONE, "shard-0", 1), (OTHER, None, 1)) == []
    assert pass_time(watch, clock, 2, (OTHER, None, 1), (ONE, "shard-0", 1)) == [(ONE, "shard-0")]
    assert pass_time(watch, clock, 200, (OTHER, None, 1)) == []


def test_slow_work_is_let_be(watch: Watch, clock: Clock) -> None:
    """A run whose steps take 60 s each, honestly: the limit grows to ten of them."""
    watch.sign(ONE, "shard-0", 1)
    for step in range(2, 6):
        assert pass_time(watch, clock, 60, (ONE, "shard-0", step - 1)) == []
        watch.sign(ONE, "shard-0", step)
    assert pass_time(watch, clock, 590, (ONE, "shard-0", 5)) == []
    assert pass_time(watch, clock, 20, (ONE, "shard-0", 5))[:1] == [(ONE, "shard-0")]


def test_loading_a_model_may_take_longer(watch: Watch, clock: Clock) -> None:
    watch.sign(ONE, LOADING, 1)
    assert pass_time(watch, clock, 299, (ONE, LOADING, 1)) == []
    assert pass_time(watch, clock, 3, (ONE, LOADING, 1))[:1] == [(ONE, LOADING)]


def test_who_was_stopped_himself_ends_nobody(watch: Watch, clock: Clock) -> None:
    watch.sign(ONE, "shard-0", 1)
    clock.now += 5000
    assert watch.overdue() == []
    assert watch.still == 0
    assert pass_time(watch, clock, 19) == []


def test_who_has_left_is_watched_no_more_and_stillness_is_counted(watch: Watch, clock: Clock) -> None:
    watch.sign(ONE, "shard-0", 1)
    watch.leave(ONE)
    assert pass_time(watch, clock, 300) == []
    assert watch.still == 300
    watch.sign(OTHER, "shard-1", 1)
    assert watch.still == 0


def test_a_shard_that_stops_its_workers_again_and_again_ends_the_run_with_a_sentence() -> None:
    attempts = Attempts()
    for _ in range(5):
        assert attempts.begin("shard-0").stop is None
        attempts.hang("shard-0")
    assert attempts.begin("shard-0").stop == (
        "shard-0 was begun 5 times and each time the worker's process died (5 of them were ended because they had stopped or hung): look "
        "at the memory of the workers and in Ray's logs"
    )


@pytest.mark.skipif(sys.platform != "linux", reason="looks at processes as Linux shows them")
def test_only_a_process_of_ray_is_ended_even_while_it_is_stopped() -> None:
    other = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    ray = subprocess.Popen(["ray::Stopped", "-c", "import time; time.sleep(60)"], executable=sys.executable)
    try:
        while not Path(f"/proc/{ray.pid}/cmdline").read_bytes():
            time.sleep(0.01)
        ray.send_signal(signal.SIGSTOP)
        assert not guard.end_process(other.pid)
        assert guard.end_process(ray.pid)
        assert ray.wait(20) == -signal.SIGKILL
        assert other.poll() is None
        assert not guard.end_process(ray.pid)
    finally:
        for one in (other, ray):
            one.kill()
            one.wait()


def test_a_run_in_which_nothing_moves_is_ended_from_whatever_it_waits_for(monkeypatch: pytest.MonkeyPatch) -> None:
    before = signal.getsignal(signal.SIGUSR1)

    class Board:
        stall_seconds = 1.0

    class Silent(guard._Guard):
        def _look(self) -> None:
            """Ray does not answer."""

    def run() -> None:
        with guard.guarded(Board(), guard.Job()):  # type: ignore[arg-type]
            threading.Event().wait(30)

    monkeypatch.setattr(guard, "_Guard", Silent)
    began = time.monotonic()
    with pytest.raises(guard.NothingMoves, match="Ray did not answer for"):
        run()
    assert time.monotonic() - began < 10
    assert signal.getsignal(signal.SIGUSR1) == before

"""A raylet that dies takes its driver with it: in a sentence, and with an exit code that says to send the command again."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from pathlib import Path

import psutil
import pytest

from dnafeat.cluster import raylet
from dnafeat.errors import ClusterError

# Ray Data's executor asks Ray for something all the time, which is when Ray ends a driver.
DRIVER = """
import time
import ray
from dnafeat.cluster.session import start_ray, stop_ray
start_ray()
stop_ray()
start_ray()
def slow(batch):
    time.sleep(1)
    return batch
print("started", flush=True)
ray.data.range(100, override_num_blocks=100).map_batches(slow).materialize()
"""


def test_a_process_that_ended_is_told_once_and_one_that_lives_is_not() -> None:
    lost: list[int] = []
    told = threading.Event()
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as process:
        assert raylet.lives(process.pid)
        watching = raylet.RayletWatch(process.pid, lambda pid: (lost.append(pid), told.set())[0])
        watching.start()
        assert not told.wait(0.5)
        process.kill()
        # Nobody has waited for it yet.
        assert told.wait(10)
        assert not raylet.lives(process.pid)
    watching.join(10)
    assert lost == [process.pid]


def test_nothing_is_told_of_a_process_that_is_not_watched_any_more() -> None:
    lost: list[int] = []
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as process:
        watching = raylet.RayletWatch(process.pid, lost.append)
        watching.start()
        watching.stop()
        process.kill()
    watching.join(10)
    assert lost == []


def test_a_driver_finds_the_raylet_of_its_node(two_cpus: None) -> None:
    pid = raylet.find()
    assert pid is not None
    assert "raylet" in psutil.Process(pid).name()
    assert raylet.lives(pid)


@pytest.mark.own_ray("kills its raylet")
@pytest.mark.long
def test_a_raylet_that_dies_ends_its_driver_with_5(tmp_path: Path) -> None:
    environment = {name: value for name, value in os.environ.items() if name not in ("RAY_ADDRESS", "RAY_AUTH_MODE")}
    driver = subprocess.Popen(
        [sys.executable, "-c", DRIVER], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment, cwd=tmp_path
    )
    assert driver.stdout is not None
    assert driver.stdout.readline() == "started\n"
    [process] = [child for child in psutil.Process(driver.pid).children(recursive=True) if child.name() == "raylet"]
    process.kill()
    _, said = driver.communicate(timeout=60)
    assert driver.returncode == ClusterError.exit_code == 5
    assert said.splitlines()[-1] == (
        f"dnafeat: Ray's own process on this machine (the raylet, {process.pid}) has died, and the run with it: send the same command again"
    )
    assert "Traceback" not in said

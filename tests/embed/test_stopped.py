"""Processes of a run that are stopped (SIGSTOP) and never continued: they are ended, and the run ends as if nothing had been."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
from models import dna
from stores import fasta

import dnafeat

# A process, and how the run ends.
VICTIMS = {"actor": ("MapWorker", 0), "board": ("ray::Progress", 0), "raylet": ("raylet/raylet", 5)}


def process_of(run: subprocess.Popen[str], name: str) -> psutil.Process:
    end = time.monotonic() + 60
    while time.monotonic() < end:
        for process in psutil.Process(run.pid).children(recursive=True):
            with contextlib.suppress(psutil.Error):
                if name in " ".join(process.cmdline()):
                    return process
        time.sleep(0.05)
    raise AssertionError(f"there is no {name}")


@pytest.mark.long
@pytest.mark.own_ray("stops processes of a run's own")
@pytest.mark.parametrize("victim", VICTIMS)
def test_a_run_whose_process_is_stopped_goes_on_without_it_or_ends_in_a_sentence(victim: str, tmp_path: Path) -> None:
    name, code = VICTIMS[victim]
    source = fasta(tmp_path / "source.fa", {f"s{i}": dna(300, seed=i) for i in range(3000)})
    store = tmp_path / "store"
    flags = ["--store", str(store), "--model", "dnafeat-mini", "--shard-rows", "100", "--num-actors", "2", "--runner", "ray"]
    environment = {name: value for name, value in os.environ.items() if name not in ("RAY_ADDRESS", "RAY_AUTH_MODE")}
    command = [sys.executable, "-m", "dnafeat.cli.main", "embed", source, *flags, "--stall-seconds", "50"]
    run = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, env=environment)
    end = time.monotonic() + 150
    while not list(store.glob("features/*/*.parquet")):
        assert run.poll() is None
        assert time.monotonic() < end
        time.sleep(0.1)
    stopped = process_of(run, name)
    stopped.send_signal(signal.SIGSTOP)
    _, said = run.communicate(timeout=300)
    assert "Traceback" not in said
    assert run.returncode == code, said
    if victim == "actor":
        assert f"worker process {stopped.pid} at shard-" in said
        assert "gave no sign of life for" in said
    if code:
        assert said.splitlines()[-1].startswith("dnafeat: the encoding stopped and nothing was published: ")
    else:
        assert len(dnafeat.Store(str(store)).read()) == 3000
    assert not stopped.is_running() or stopped.status() == psutil.STATUS_ZOMBIE

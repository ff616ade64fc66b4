"""Nights that are killed at random moments and sent again end in the tables of undisturbed ones, and readers never see a part.

`DNAFEAT_CHAOS_KILLS` (see `make chaos`) says how many are killed, `DNAFEAT_CHAOS_SEED` whom and when.
"""

from __future__ import annotations

import contextlib
import csv
import gzip
import os
import random
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import psutil
from stores import digest

import dnafeat
from dnafeat.errors import StoreError
from dnafeat.schema import VECTORS

JOB = Path(__file__).parent.parent / "jobs" / "nightly.py"
DATA = Path(dnafeat.__file__).parent / "bundled" / "data" / "uci_splice.csv.gz"
KILLS = int(os.environ.get("DNAFEAT_CHAOS_KILLS", "2"))
SEED = int(os.environ.get("DNAFEAT_CHAOS_SEED", "1"))
NIGHTS_A_STORE = 4
# The actor that encodes, any other worker, the driver, and Ray's own process of the node.
VICTIMS = {"actor": "EncodeShards", "worker": "ray::", "driver": "", "node": "raylet/raylet"}


def real_sequences() -> list[str]:
    with gzip.open(DATA, "rt", newline="") as file:
        letters = (row["sequence"] for row in csv.DictReader(file))
        return list(dict.fromkeys(one for one in letters if set(one) <= set("ACGT")))


def night(source: Path, store: Path, log: Path) -> subprocess.Popen:
    flags = [
        "--store",
        str(store),
        "--source-name",
        "splice",
        "--model",
        "dnafeat-mini",
        "--shard-rows",
        "150",
        "--num-actors",
        "2",
    ]
    environment = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}
    with log.open("ab") as out:
        return subprocess.Popen([sys.executable, str(JOB), str(source), *flags], stdout=out, stderr=out, env=environment)


def family(driver: subprocess.Popen) -> list[psutil.Process]:
    try:
        return psutil.Process(driver.pid).children(recursive=True)
    except psutil.NoSuchProcess:
        return []


def find(driver: subprocess.Popen, victim: str) -> psutil.Process | None:
    if victim == "driver":
        return psutil.Process(driver.pid) if driver.poll() is None else None
    for process in family(driver):
        with contextlib.suppress(psutil.Error):
            if VICTIMS[victim] in " ".join(process.cmdline()):
                return process
    return None


class Reader(threading.Thread):
    """Polls the store, and keeps every set of ids that it ever saw."""

    def __init__(self, store: Path) -> None:
        super().__init__(daemon=True)
        self.store, self.seen, self.over = str(store), set[frozenset[str]](), threading.Event()
        self.faults: list[str] = []

    def run(self) -> None:
        while not self.over.wait(0.3):
            try:
                self.seen.add(frozenset(dnafeat.Store(self.store).read(columns=["mean"])["sequence_id"].to_pylist()))
            except StoreError as error:
                if "no run has been published" not in str(error) and "there is no store" not in str(error):
                    self.faults.append(str(error))


def killed_once(source: Path, store: Path, log: Path, victim: str, after: float) -> str:
    """Runs a night, kills a process of it, and sends it again until it ends; what happened, in words."""
    driver = night(source, store, log)
    story = "never came to it"
    end = time.monotonic() + after
    while time.monotonic() < end and driver.poll() is None:
        time.sleep(0.02)
    # An actor may not have been started by then: the first there is.
    while driver.poll() is None:
        process = find(driver, victim)
        if process is not None:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.send_signal(signal.SIGKILL)
                story = f"killed after {time.monotonic() - end + after:.2f} s"
            break
        time.sleep(0.02)
    for attempt in range(4):
        others = family(driver)
        try:
            code = driver.wait(240)
        except subprocess.TimeoutExpired:
            code = None
            driver.kill()
            driver.wait()
        # Ray's own processes end with the driver; those that take their time would only slow down the next one.
        _, alive = psutil.wait_procs(others, timeout=5)
        for process in alive:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        story += f", ended with {code}"
        if code == 0:
            return story
        assert attempt < 3, f"{story}: {log.read_text()[-3000:]}"
        driver = night(source, store, log)
    raise AssertionError("unreachable")


def contents(store: Path, **selection: Any) -> dict[str, dict[str, np.ndarray]]:
    table = dnafeat.Store(str(store)).read(**selection)
    columns = {name: dnafeat.matrix(table[name]) for name in VECTORS}
    return {key: {name: columns[name][i] for name in VECTORS} for i, key in enumerate(table["sequence_id"].to_pylist())}


def test_killed_nights_end_as_undisturbed_ones(tmp_path: Path) -> None:
    letters = real_sequences()
    entries = {f"e{i}": one for i, one in enumerate(letters)}
    expected = dnafeat.Encoder.from_pretrained("dnafeat-mini").encode(letters)
    draw = random.Random(SEED)
    plan = [(draw.choice(sorted(VICTIMS)), draw.uniform(2, 25)) for _ in range(KILLS)]
    told = []
    for number, (victim, after) in enumerate(plan):
        store, log = tmp_path / f"store-{number // NIGHTS_A_STORE}", tmp_path / f"log-{number}"
        if number % NIGHTS_A_STORE == 0:
            before, ever = frozenset[str](), set[str]()
        wanted = sorted(draw.sample(sorted(entries), 1200))
        source = tmp_path / f"source-{number}.csv"
        source.write_text("id,sequence\n" + "".join(f"{name},{entries[name]}\n" for name in wanted))
        reader = Reader(store)
        reader.start()
        told.append(f"{victim} at {after:.2f} s: {killed_once(source, store, log, victim, after)}")
        reader.over.set()
        reader.join()
        now = frozenset(wanted)
        story = f"seed {SEED}, kill {number + 1} of {KILLS}, {told[-1]}"
        print(story)
        assert not reader.faults, f"{story}: a reader met {reader.faults[0]}"
        assert reader.seen <= {before, now}, f"{story}: a reader saw neither the night before nor this one"
        found = contents(store)
        assert found.keys() == now, story
        for i, name in enumerate(entries):
            for column in VECTORS if name in now else ():
                np.testing.assert_allclose(
                    found[name][column], getattr(expected, column)[i], atol=1e-5, rtol=0, err_msg=f"{story}, {name}"
                )
        ever |= {digest(entries[name]) for name in wanted}
        stored = dnafeat.Store(str(store)).features.reload().read(["sequence_digest"])["sequence_digest"].to_pylist()
        assert sorted(stored) == sorted(ever), f"{story}: a vector is missing, or there twice"
        runs = dnafeat.Store(str(store)).runs.reload().read(["read", "already_stored", "encoded"]).to_pylist()
        assert len(runs) == number % NIGHTS_A_STORE + 1, f"{story}: {runs}"
        before = now

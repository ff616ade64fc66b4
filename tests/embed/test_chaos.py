"""Nights that are killed at random moments and sent again end in the tables of undisturbed ones, and readers never see a part.

`tests/support/counts.py` says how many kills there are and how many sequences a night has; `DNAFEAT_CHAOS_SEED` says whom they hit, and
when.
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
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import counts
import numpy as np
import psutil
import pyarrow.dataset as ds
import pytest
from nodes import Nodes
from s3 import S3
from stores import digest, rows, splice_junctions, stored_vectors

import dnafeat
from dnafeat.embed.config import NightlyConfig
from dnafeat.embed.schedule import nightly
from dnafeat.errors import StoreError
from dnafeat.store.history import AsOf
from dnafeat.vectors import VECTORS

JOB = Path(__file__).parents[2] / "jobs" / "nightly.py"
DATA = Path(dnafeat.__file__).parent / "bundled" / "data"
KILLS, SEQUENCES = counts.KILLS, counts.SEQUENCES
SEED = int(
    os.environ.get("DNAFEAT_CHAOS_SEED") or (random.SystemRandom().randrange(10**6) if "DNAFEAT_CHAOS_KILLS" in os.environ else 1)
)
NIGHTS_A_STORE = 3
# The actor that encodes, any other worker, the driver, and Ray's own process of its node; every third time a node of a cluster.
VICTIMS = {"actor": "MapWorker", "worker": "ray::", "driver": "", "raylet": "raylet/raylet"}
# The same, stopped and never continued: their connections stay, so that Ray does not notice.
VICTIMS |= {"stopped actor": "MapWorker", "stopped worker": "ray::"}
NODE = "node"
REFUSED = {"id": "refused", "sequence": "ACGT-ACGT", "label": "?"}
Source = list[dict[str, str]]


# -- nights ----------------------------------------------------------------------------------------------------------------


def real_sequences() -> list[tuple[str, str]]:
    """Distinct sequences and what they are: splice junctions, and phage lambda in tiles."""
    found = splice_junctions()
    with gzip.open(DATA / "lambda_NC_001416.fa.gz", "rt") as file:
        genome = "".join(line.strip().upper() for line in file if not line.startswith(">"))
    for start in range(0, len(genome) - 60, 20):
        found.setdefault(genome[start : start + 60], "lambda")
    return list(found.items())


def sources(draw: random.Random) -> list[Source]:
    """The source of each night of a store: some entries come, some go, some get another sequence, and one is refused."""
    letters = real_sequences()
    draw.shuffle(letters)
    letters = letters[: SEQUENCES * 3 // 2]
    nights = []
    for night in range(NIGHTS_A_STORE):
        chosen = sorted(draw.sample(range(len(letters)), SEQUENCES))
        # Every twentieth has the sequence of another one in this night alone.
        moved = [(i, letters[(i + 1) % len(letters)] if i % 20 == night else letters[i]) for i in chosen]
        nights.append([*({"id": f"e{i}", "sequence": one, "label": label} for i, (one, label) in moved), REFUSED])
    return nights


def written(path: Path, source: Source) -> Path:
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, REFUSED)
        writer.writeheader()
        writer.writerows(source)
    return path


def settings(source: Path, store: str) -> dict[str, Any]:
    """The night is the run id, and the file's name is the night."""
    return {
        "store": store,
        "source_name": "real",
        "run_id": source.stem,
        "model": "dnafeat-mini",
        "shard_rows": 150,
        "num_actors": 2,
        "runner": "ray",
        "stall_seconds": 60,
    }


def night(source: Path, store: str, log: Path, **own: str) -> subprocess.Popen:
    flags = [f"--{name.replace('_', '-')}={value}" for name, value in settings(source, store).items()]
    environment = {name: value for name, value in os.environ.items() if name not in ("RAY_ADDRESS", "RAY_AUTH_MODE")}
    # Longer than Ray's own patience, for machines with two cores; a night whose raylet is killed while it starts waits so long.
    environment |= {"RAY_raylet_start_wait_time_s": "30", **own}
    with log.open("ab") as out:
        return subprocess.Popen([sys.executable, str(JOB), str(source), *flags], stdout=out, stderr=out, env=environment)


# -- kills -----------------------------------------------------------------------------------------------------------------


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


def kill(driver: subprocess.Popen, victim: str, nodes: Nodes, draw: random.Random) -> bool:
    """Kills as soon as the victim is there; False: the night was over before."""
    while driver.poll() is None:
        if victim == NODE:
            nodes.kill(draw.randrange(2))
            return True
        process = find(driver, victim)
        if process is not None:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.send_signal(signal.SIGSTOP if victim.startswith("stopped") else signal.SIGKILL)
                return True
        time.sleep(0.02)
    return False


def ended(driver: subprocess.Popen) -> int | None:
    """How a night ended; None: it never did."""
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
    return code


class Clock:
    """How long a night takes on this machine, as far as it is known: moments are drawn within that."""

    def __init__(self) -> None:
        self.seconds = 20.0

    def moment(self, draw: random.Random) -> float:
        return self.seconds * draw.uniform(0.15, 1)


@dataclass
class Killed:
    """A night that was killed, and sent again until it ended."""

    victim: str
    after: float
    hit: bool = False
    codes: list[int | None] = field(default_factory=list)

    def __str__(self) -> str:
        what = (
            f"{self.victim} killed after {self.after:.2f} s"
            if self.hit
            else f"over before {self.victim} was killed at {self.after:.2f} s"
        )
        return f"{what}, ended with {', '.join(map(str, self.codes))}"


def killed_once(source: Path, store: str, log: Path, victim: str, clock: Clock, nodes: Nodes, draw: random.Random) -> Killed:
    own = nodes.environment if victim == NODE else {}
    found = Killed(victim, clock.moment(draw))
    began = time.monotonic()
    driver = night(source, store, log, **own)
    while time.monotonic() < began + found.after and driver.poll() is None:
        time.sleep(0.02)
    found.hit = kill(driver, victim, nodes, draw)
    # An actor may not have been started by the moment that was drawn.
    found.after = time.monotonic() - began
    found.codes.append(ended(driver))
    if victim == NODE and found.hit:
        nodes.replaced()
    while found.codes[-1] != 0:
        # Ray itself does again what a cluster's node has lost.
        assert len(found.codes) < (1 if victim == NODE else 4), f"{found}: {log.read_text()[-3000:]}"
        began = time.monotonic()
        found.codes.append(ended(night(source, store, log, **own)))
    if not found.hit or len(found.codes) > 1:
        clock.seconds = time.monotonic() - began
    return found


# -- what must hold --------------------------------------------------------------------------------------------------------


class Reader(threading.Thread):
    """Polls a store, and keeps every state that it ever saw: pairs of id and digest."""

    def __init__(self, store: str) -> None:
        super().__init__(daemon=True)
        self.store, self.seen, self.over = store, set[frozenset[tuple[str, str]]](), threading.Event()
        self.faults: list[str] = []

    def run(self) -> None:
        while not self.over.wait(0.3):
            try:
                table = dnafeat.Store(self.store).read(columns=["sequence_digest", "mean"])
            except StoreError as error:
                if "no run has been published" not in str(error) and "there is no store" not in str(error):
                    self.faults.append(str(error))
                continue
            pairs = list(zip(table["sequence_id"].to_pylist(), table["sequence_digest"].to_pylist(), strict=True))
            if len({name for name, _ in pairs}) < len(pairs):
                self.faults.append("an entry that stands twice")
            self.seen.add(frozenset(pairs))


@contextlib.contextmanager
def polled(store: str) -> Iterator[Reader]:
    reader = Reader(store)
    reader.start()
    try:
        yield reader
    finally:
        reader.over.set()
        reader.join()


def state(source: Source) -> frozenset[tuple[str, str]]:
    return frozenset((row["id"], digest(row["sequence"])) for row in source if row is not REFUSED)


def standing(store: str, number: int) -> list[dict[str, Any]]:
    """Rows of `sequences` that a reader as of a run number takes, less the numbers: dead runs take some, too."""
    where = (ds.field("from_run") <= number) & (ds.field("until_run").is_null() | (ds.field("until_run") > number))
    return rows(dnafeat.Store(store).sequences.reload().read(where=where).drop_columns(["from_run", "until_run"]))


def check_rows(store: str, undisturbed: str, nights: int) -> None:
    """All tables but `features` after some nights: row for row those of the undisturbed store."""
    one, other = dnafeat.Store(store), dnafeat.Store(undisturbed)
    counted = [
        "run_id",
        "source_name",
        "source_fingerprint",
        "config_digest",
        "feature_version",
        "read",
        "rejected",
        "distinct",
        "config",
    ]
    runs = sorted(one.runs.reload().read().to_pylist(), key=lambda row: row["run_number"])
    wanted = sorted(other.runs.reload().read().to_pylist(), key=lambda row: row["run_number"])[:nights]
    # The stores themselves stand at different places.
    shown = [
        [{name: str(row[name]).replace(at, "") for name in counted} for row in of]
        for of, at in ((runs, store), (wanted, undisturbed))
    ]
    assert shown[0] == shown[1]
    for row, want in zip(runs, wanted, strict=True):
        assert standing(store, row["run_number"]) == standing(undisturbed, want["run_number"])
        # What dead attempts have encoded is salvaged, or stored already.
        assert row["already_stored"] + row["encoded"] <= row["distinct"]
    refused = one.rejects.reload().read()
    assert rows(refused) == [row for row in rows(other.rejects.reload().read()) if row["run_id"] in refused["run_id"].to_pylist()]
    assert sorted(refused["run_id"].to_pylist()) == sorted(row["run_id"] for row in wanted)
    events = one._versions.reload().read(["feature_version", "event", "name", "lineage"])
    assert rows(events) == rows(other._versions.reload().read(["feature_version", "event", "name", "lineage"]))


def vectors(store: str, as_of: AsOf | None = None) -> dict[tuple[str, str, str], dict[str, np.ndarray]]:
    """The vectors that readers get, by id, label and digest."""
    table = dnafeat.Store(store).read(columns=["sequence_digest", *VECTORS], as_of=as_of)
    return stored_vectors(table, ("sequence_id", "label", "sequence_digest"))


def check_vectors(store: str, undisturbed: str, run_id: str, ever: set[str]) -> None:
    found, wanted = vectors(store), vectors(undisturbed, run_id)
    assert found.keys() == wanted.keys()
    for name in VECTORS:
        both = [np.stack([of[key][name] for key in wanted]) for of in (found, wanted)]
        np.testing.assert_allclose(*both, atol=1e-5, rtol=0, err_msg=name)
    stored = dnafeat.Store(store).features.reload().read(["sequence_digest"])["sequence_digest"].to_pylist()
    assert sorted(stored) == sorted(ever), "a vector is missing, or there twice"


@pytest.fixture(scope="module")
def plan() -> list[Source]:
    return sources(random.Random(SEED))


@pytest.fixture(scope="module")
def nodes(s3_server: S3) -> Iterator[Nodes]:
    # The nodes take over the environment, and with it the way to the server.
    with s3_server.found():
        nodes = Nodes()
    yield nodes
    nodes.stop()


@pytest.mark.long
@pytest.mark.own_ray("kills runs with Rays of their own, and nodes of a cluster")
@pytest.mark.timeout(300 + 120 * KILLS)
def test_killed_nights_end_as_undisturbed_ones(plan: list[Source], s3: S3, nodes: Nodes, two_cpus: None, tmp_path: Path) -> None:
    draw = random.Random(SEED)
    undisturbed = str(tmp_path / "undisturbed")
    files = [written(tmp_path / f"night-{number}.csv", source) for number, source in enumerate(plan)]
    done = 0
    deck: list[str] = []
    places: dict[bool, tuple[str, int]] = {}
    clock, number, hits = Clock(), 0, 0
    while hits < KILLS:
        if hits % 3 == 2:
            victim = NODE
        else:
            deck = deck or draw.sample(sorted(VICTIMS), len(VICTIMS))
            victim = deck.pop()
        # Stores on the local disk and on S3 take turns; each is left after a few nights.
        remote = number % 2 == 1
        store, at = places.get(remote, ("", NIGHTS_A_STORE))
        if at == NIGHTS_A_STORE:
            store, at = s3.uri() if remote else str(tmp_path / f"store-{number}"), 0
        places[remote] = store, at + 1
        while done <= at:
            nightly(
                NightlyConfig.make(sources=(str(files[done]),), **settings(files[done], undisturbed)),
                show=False,
                say=lambda _: None,
            )
            done += 1
        story = f"seed {SEED}, night {number + 1} with kill {hits + 1} of {KILLS}, night {at + 1} of {store}"
        with polled(store) as reader:
            killed = killed_once(files[at], store, tmp_path / f"log-{number}", victim, clock, nodes, draw)
        story = f"{story}: {killed}"
        print(story, flush=True)
        assert not reader.faults, f"{story}: a reader met {reader.faults[0]}"
        before = state(plan[at - 1]) if at else frozenset()
        assert reader.seen <= {before, state(plan[at])}, f"{story}: a reader saw neither the night before nor this one"
        try:
            check_rows(store, undisturbed, at + 1)
            check_vectors(store, undisturbed, files[at].stem, {one for source in plan[: at + 1] for _, one in state(source)})
        except AssertionError as error:
            raise AssertionError(f"{story}: {error}") from error
        if not killed.hit and victim != NODE:
            deck.append(victim)
        number, hits = number + 1, hits + killed.hit

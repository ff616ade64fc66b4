"""A team's way in, end to end: jobs sent with `ray job submit` to a cluster of three nodes whose only storage is S3."""

from __future__ import annotations

import contextlib
import csv
import json
import os
import random
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from nodes import Nodes
from s3 import S3
from stores import digest, splice_junctions

import dnafeat
from dnafeat.cluster.observe import METERS
from dnafeat.vectors import VECTORS

REPOSITORY = Path(__file__).parents[2]
SMALL = ["--steps", "12", "--eval-steps", "6", "--num-workers", "2", "--model", "dnafeat-mini", "--batch-size", "16"]


class Cluster:
    """Nodes that know S3 and nothing of this machine's folders, and a client of their job server."""

    def __init__(self, s3: S3, folder: Path) -> None:
        self.s3, self.files, self.root = s3, s3.client(), s3.uri("team")
        self.folder = folder
        with s3.found():
            self.nodes = Nodes(job_server=True)
        self.environment = {**os.environ, **self.nodes.environment, "RAY_API_SERVER_ADDRESS": self.nodes.address}
        self.environment.pop("RAY_ADDRESS")

    def put(self, name: str, rows: list[dict[str, str]]) -> str:
        """A CSV file on S3."""
        uri = f"{self.root}/{name}"
        with self.files.open(uri, "w", newline="") as file:
            writer = csv.DictWriter(file, list(rows[0]))
            writer.writeheader()
            writer.writerows(rows)
        return uri

    def submit(self, name: str, *command: str) -> subprocess.Popen[bytes]:
        """Sends a job of the repository, as somebody in its root types it."""
        sent = [sys.executable, "-m", "ray.scripts.scripts", "job", "submit", "--submission-id", name, "--working-dir", ".", "--"]
        with (self.folder / f"{name}.log").open("wb") as log:
            return subprocess.Popen(
                [*sent, "python", *command], cwd=REPOSITORY, env=self.environment, stdout=log, stderr=subprocess.STDOUT
            )

    def log(self, name: str) -> str:
        return (self.folder / f"{name}.log").read_text()

    def ended(self, name: str, job: subprocess.Popen[bytes]) -> dict:
        """What a job that succeeds ends with."""
        assert job.wait(300) == 0, self.log(name)[-6000:]
        return json.loads(
            next(line for line in reversed(self.log(name).splitlines()) if line.startswith('{"') and "asctime" not in line)
        )

    def records(self, name: str) -> list[dict]:
        """The structured lines of a driver's log."""
        return [json.loads(line) for line in self.log(name).splitlines() if line.startswith('{"asctime"')]

    def metrics(self) -> str:
        """What all nodes together serve to Prometheus."""
        return "".join(
            urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10).read().decode() for port in self.nodes.metrics
        )

    @contextlib.contextmanager
    def scraped(self) -> Iterator[list[str]]:
        """What they serve, fetched every second while the block runs, as Prometheus would: Ray forgets a gauge soon after its process."""
        pages, over = [], threading.Event()

        def follow() -> None:
            while not over.wait(1):
                with contextlib.suppress(OSError):
                    pages.append(self.metrics())

        thread = threading.Thread(target=follow, daemon=True)
        thread.start()
        try:
            yield pages
        finally:
            over.set()
            thread.join()


@pytest.fixture
def cluster(s3: S3, tmp_path: Path) -> Iterator[Cluster]:
    cluster = Cluster(s3, tmp_path)
    yield cluster
    cluster.nodes.stop()


def counted(metrics: str, name: str) -> float:
    return sum(
        float(line.rpartition(" ")[2])
        for line in metrics.splitlines()
        if line.startswith((f"ray_{name}_total{{", f"ray_{name}{{"))
    )


def read_by_polars(s3: S3, store: str, run: int) -> pl.DataFrame:
    """A source's entries as of a run with their vectors, by somebody who has never heard of dnafeat."""
    options = {**s3.environment, "AWS_ALLOW_HTTP": "true"}
    sequences, features = (pl.scan_delta(f"{store}/{name}", storage_options=options) for name in ("sequences", "features"))
    there = (pl.col("from_run") <= run) & (pl.col("until_run").is_null() | (pl.col("until_run") > run))
    return sequences.filter(there).join(features, on="sequence_digest", validate="m:1").sort("sequence_id").collect()


@pytest.mark.long
@pytest.mark.own_ray("jobs sent to a job server, and a node of a cluster that is killed")
def test_an_artifact_is_trained_and_embeds_a_source_that_changes_while_a_node_dies(cluster: Cluster) -> None:
    junctions = list(splice_junctions().items())
    random.Random(0).shuffle(junctions)
    train = cluster.put("train.csv", [{"sequence": letters, "label": label} for letters, label in junctions[:240]])
    artifact, store = f"{cluster.root}/artifact", f"{cluster.root}/store"
    trained = cluster.ended(
        "train", cluster.submit("train", "jobs/finetune.py", "--train", train, "--output", artifact, *SMALL, "--json")
    )
    assert trained["artifact"] == artifact

    def source(chosen: list[tuple[str, str]], subject: str) -> str:
        return cluster.put(
            "source.csv", [{"id": f"e{i}", "sequence": one, "subject": subject} for i, (one, _) in enumerate(chosen)]
        )

    flags = ["--store", store, "--source-name", "cohort", "--adapter", artifact, "--shard-rows", "100", "--json"]
    job = cluster.submit("embed", "jobs/embed.py", source(junctions[:1500], "s1"), "--run-id", "first", *flags)
    while not (files := cluster.files.glob(f"{store}/features/**/first-*.parquet")):
        assert job.poll() is None, cluster.log("embed")[-6000:]
        time.sleep(0.1)
    cluster.nodes.kill(0)
    first = cluster.ended("embed", job)
    assert len(files) < 15
    assert (first["read"], first["encoded"], first["rejected"]) == (1500, 1500, 0)
    cluster.nodes.replaced()

    changed = source([*junctions[20:1500], *junctions[1500:1550]], "s2")
    with cluster.scraped() as pages:
        second = cluster.ended("night", cluster.submit("night", "jobs/nightly.py", changed, "--run-id", "2026-11-21", *flags))
    assert (second["read"], second["encoded"], second["already_stored"]) == (1530, 50, 1480)
    assert second["channel_moved"]

    encoder = dnafeat.Encoder.from_pretrained(adapter=artifact)
    ends = {first["run_number"]: junctions[:1500], second["run_number"]: [*junctions[20:1500], *junctions[1500:1550]]}
    for number, chosen in ends.items():
        table = read_by_polars(cluster.s3, store, number)
        letters = {f"e{i}": one for i, (one, _) in enumerate(chosen)}
        assert table["sequence_id"].to_list() == sorted(letters)
        assert table["sequence_digest"].to_list() == [digest(letters[one]) for one in table["sequence_id"]]
        some = table[::30]
        wanted = encoder.encode([letters[one] for one in some["sequence_id"]])
        for name in VECTORS:
            np.testing.assert_allclose(np.stack(some[name].to_list()), getattr(wanted, name), atol=1e-5, rtol=0)

    # What people who run it see: records that name the run, and counters at the nodes that are left.
    told = [record["message"] for record in cluster.records("night") if record.get("run_id") == "2026-11-21"]
    assert told[0] == "run begins"
    assert told[-1] == "run is published"
    assert 50 <= counted(pages[-1], "dnafeat_sequences") <= 2000
    ends = {"Counter": "_total{", "Histogram": "_bucket{", "Gauge": "{"}
    missing = {name for name, (kind, *_) in METERS.items() if not any(f"ray_{name}{ends[kind]}" in page for page in pages)}
    # No entry was refused, and what the first night counted of deaths may have been at the node that died.
    assert missing <= {"dnafeat_rejected", "dnafeat_retries"}, missing

    # Beside a partner's vectors, on Ray Data, by nodes that meet on S3 alone; nothing of what they dealt out is left there.
    with cluster.files.open(brain := f"{cluster.root}/brain.parquet", "wb") as file:
        pl.DataFrame({"subject": ["s2", "s9"], "vector": [[1.0, 2.0], [3.0, 4.0]]}).write_parquet(file)
    flags = ["--store", store, "--partner", f"brain={brain}", "--on", "subject", "--output", f"{cluster.root}/joined", "--json"]
    joined = cluster.ended("join", cluster.submit("join", "jobs/join.py", *flags))
    assert (joined["rows"], joined["complete"], joined["sequences"]) == (1, 1, 1530)
    options = {**cluster.s3.environment, "AWS_ALLOW_HTTP": "true"}
    row = pl.read_delta(f"{cluster.root}/joined", storage_options=options).row(0, named=True)
    np.testing.assert_allclose(row["dna"], np.stack(table["mean"].to_list()).mean(0, dtype=np.float64), rtol=1e-6, atol=1e-6)
    assert (row["subject"], row["brain"], row["dna_rows"]) == ("s2", [1.0, 2.0], 1530)
    steps = [record["message"] for record in cluster.records("join") if record.get("task") == "join"]
    assert steps == [f"{what} is done" for what in ("reading entries", "reading brain", "reading vectors", "joining")]
    assert not [path for path in cluster.files.find(f"{cluster.root}/joined") if "/_work/" in path]

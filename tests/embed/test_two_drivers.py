"""Two drivers at work on one store at the same time, on one cluster: every hash is stored once, and both end well."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from models import dna
from nodes import Nodes
from s3 import S3
from stores import digest, fasta, stored_vectors

import dnafeat
from dnafeat.vectors import VECTORS

JOB = Path(__file__).parents[2] / "jobs" / "nightly.py"
pytestmark = pytest.mark.own_ray("drivers in processes of their own, on one cluster")
POOL = {f"s{i}": dna(30 + i % 40, seed=i) for i in range(450)}


@pytest.fixture(scope="module")
def cluster(s3_server: S3) -> Iterator[dict[str, str]]:
    """The environment that leads to a cluster of two nodes."""
    with s3_server.found():
        nodes = Nodes()
    yield nodes.environment
    nodes.stop()


def some(first: int, last: int) -> dict[str, str]:
    return dict(list(POOL.items())[first:last])


def both(folder: Path, cluster: dict[str, str], *commands: list[str]) -> list[dict[str, Any]]:
    """Starts drivers at once; the summary of each."""
    environment = os.environ | cluster
    started = []
    for number, command in enumerate(commands):
        out, err = folder / f"out-{number}", folder / f"err-{number}"
        with out.open("wb") as stdout, err.open("wb") as stderr:
            command = [sys.executable, str(JOB), *command, "--num-actors", "1", "--shard-rows", "50", "--json"]
            started.append((subprocess.Popen(command, stdout=stdout, stderr=stderr, env=environment), out, err))
    try:
        for driver, _, err in started:
            assert driver.wait(300) == 0, err.read_text()[-3000:]
    finally:
        for driver, *_ in started:
            driver.kill()
            driver.wait()
    return [json.loads(out.read_text().splitlines()[-1]) for _, out, _ in started]


def check(store: str, model: str, wanted: dict[str, dict[str, str]]) -> None:
    """Each hash once, the entries of each source with the encoder's own vectors, and of each one open row."""
    features = dnafeat.Store(store).features.reload().read(["feature_version", "sequence_digest"]).to_pylist()
    assert len({row["feature_version"] for row in features}) == 1
    counted = Counter(row["sequence_digest"] for row in features)
    assert counted == {digest(letters): 1 for entries in wanted.values() for letters in entries.values()}
    encoder = dnafeat.Encoder.from_pretrained(model)
    for source, entries in wanted.items():
        found, expected = stored_vectors(dnafeat.Store(store).read(source=source)), encoder.encode(list(entries.values()))
        assert found.keys() == entries.keys()
        for name in VECTORS:
            written = np.stack([found[key][name] for key in entries])
            np.testing.assert_allclose(written, getattr(expected, name), atol=1e-5, rtol=0)
    rows = dnafeat.Store(store).sequences.reload().read().to_pylist()
    standing = Counter((row["source_name"], row["sequence_id"]) for row in rows if row["until_run"] is None)
    assert standing == {(source, name): 1 for source, entries in wanted.items() for name in entries}


def runs(store: str) -> list[dict[str, Any]]:
    return sorted(dnafeat.Store(store).runs.reload().read().to_pylist(), key=lambda row: row["run_number"])


@pytest.mark.long
def test_one_run_started_twice_is_published_once(model: str, cluster: dict[str, str], store_uri: str, tmp_path: Path) -> None:
    source = fasta(tmp_path / "cohort.fa", some(0, 300))
    command = [source, "--store", store_uri, "--source-name", "cohort", "--model", model, "--run-id", "2026-11-21"]
    summaries = both(tmp_path, cluster, command, command)
    check(store_uri, model, {"cohort": some(0, 300)})
    (row,) = runs(store_uri)
    assert (row["run_id"], row["read"], row["rejected"], row["distinct"]) == ("2026-11-21", 300, 0, 300)
    assert row["already_stored"] + row["encoded"] <= row["distinct"]
    # Whoever was overtaken at the last commit tells what the other one has published.
    assert sorted(summary["already_published"] for summary in summaries) == [False, True]
    assert {summary["run_number"] for summary in summaries} == {row["run_number"]}
    assert dnafeat.Store(store_uri).channels() == {"production": row["feature_version"]}
    events = dnafeat.Store(store_uri)._versions.reload().read(["event"])["event"].to_pylist()
    assert events.count("created") == 1


@pytest.mark.long
def test_two_runs_with_sequences_in_common_store_each_once(
    model: str, cluster: dict[str, str], store_uri: str, tmp_path: Path
) -> None:
    own = {"one": some(0, 300), "two": some(150, 450)}
    commands = []
    for name, entries in own.items():
        source = fasta(tmp_path / f"{name}.fa", entries)
        commands.append([source, "--store", store_uri, "--source-name", name, "--model", model, "--run-id", f"night-{name}"])
    summaries = both(tmp_path, cluster, *commands)
    check(store_uri, model, own)
    found = {row["source_name"]: row for row in runs(store_uri)}
    assert found.keys() == own.keys()
    for summary in summaries:
        row = found[summary["source_name"]]
        assert {name: summary[name] for name in ("run_id", "run_number", "feature_version")} == {
            name: row[name] for name in ("run_id", "run_number", "feature_version")
        }
        assert (row["read"], row["rejected"], row["distinct"], row["opened"], row["closed"]) == (300, 0, 300, 300, 0)
    assert sorted(row["run_number"] for row in found.values()) == [1, 2]

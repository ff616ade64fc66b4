"""What a job asks of the Ray it runs on: with one CPU or four it ends with the same tables, and a cluster without GPUs starts some."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from stores import splice_junctions, stored_vectors

import dnafeat
from dnafeat.cluster import packages as pins
from dnafeat.cluster import session as cluster
from dnafeat.errors import UsageError
from dnafeat.vectors import VECTORS

LAUNCHED = {
    "max_workers": 10,
    "head_node_type": "head",
    "available_node_types": {
        "head": {"resources": {"CPU": 4, "GPU": 1}, "max_workers": 0},
        "cpu": {"resources": {"CPU": 8}, "max_workers": 8},
        "gpu-spot": {"resources": {"CPU": 8, "GPU": 2}, "max_workers": 4},
        "gpu-on-demand": {"resources": {"CPU": 8, "GPU": 1}, "max_workers": 4},
    },
}
EMBED = """
import sys, ray
from dnafeat.cli.main import main
ray.init(address="local", num_cpus=int(sys.argv[1]), include_dashboard=False, object_store_memory=100 * 2**20, log_to_driver=False)
sys.exit(main(["embed", *sys.argv[2:], "--json"]))
"""


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Real sequences, some of them twice, and one that is refused."""
    letters = list(splice_junctions())[:300]
    path = tmp_path_factory.mktemp("source") / "source.csv"
    rows = [f"e{i},{one},s{i % 7}" for i, one in enumerate([*letters, *letters[:20]])]
    path.write_text("\n".join(["id,sequence,subject", *rows, "bad,ACGX,s1"]) + "\n")
    return path


def embed(source: Path, store: Path, cpus: int) -> dict[str, Any]:
    command = [
        sys.executable,
        "-c",
        EMBED,
        str(cpus),
        str(source),
        "--store",
        str(store),
        "--source-name",
        "splice",
        "--shard-rows",
        "64",
    ]
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=300, env={**os.environ, "RAY_USAGE_STATS_ENABLED": "0"}
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.long
@pytest.mark.own_ray("one CPU, and four")
def test_one_cpu_and_four_end_with_the_same_tables(source: Path, tmp_path: Path) -> None:
    summaries = [embed(source, tmp_path / f"store{cpus}", cpus) for cpus in (1, 4)]
    counts = ("read", "rejected", "distinct", "encoded", "opened", "closed", "tokens", "feature_version")
    assert [summaries[0][name] for name in counts] == [summaries[1][name] for name in counts]
    one, four = (dnafeat.Store(str(tmp_path / f"store{cpus}")) for cpus in (1, 4))
    keys = ("sequence_id", "sequence_digest", "subject")
    found, wanted = (stored_vectors(store.read(columns=["sequence_digest", *VECTORS]), keys) for store in (one, four))
    assert found.keys() == wanted.keys()
    for name in VECTORS:
        both = [np.stack([of[key][name] for key in wanted]) for of in (found, wanted)]
        np.testing.assert_allclose(*both, atol=1e-5, rtol=0, err_msg=name)
    rejects = [store.rejects.read(["file", "row", "sequence_id", "reason", "text"]).to_pylist() for store in (one, four)]
    assert rejects[0] == rejects[1]
    assert len(rejects[0]) == 1


# a cluster that grows


@pytest.fixture
def launched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The head of a cluster that `ray up` has started, with one node of 8 CPUs there."""
    monkeypatch.setattr(cluster, "_LAUNCHED", tmp_path / "bootstrap.yaml")
    monkeypatch.setattr(cluster.ray, "cluster_resources", lambda: {"CPU": 8.0})
    (tmp_path / "bootstrap.yaml").write_text(yaml.safe_dump(LAUNCHED))
    return tmp_path / "bootstrap.yaml"


def test_what_a_cluster_could_start_counts_up_to_its_most_nodes(launched: Path) -> None:
    # The head's own do not count; four nodes with two GPUs and four with one; ten nodes with eight CPUs.
    assert (cluster.most("GPU"), cluster.most("CPU")) == (12, 80)
    launched.write_text(yaml.safe_dump({**LAUNCHED, "max_workers": 5}))
    assert cluster.most("GPU") == 9
    assert cluster.default_gpus() == 1


def test_encoders_for_which_nodes_would_be_started_have_enough_to_do(launched: Path) -> None:
    assert [cluster.default_actors(1, rows) for rows in (10, 150_000, 450_000, 10**9)] == [1, 1, 4, 12]
    assert cluster.default_actors(0.5, 10**9) == 24
    # Those that are there are used anyway.
    assert [cluster.default_actors(0, rows) for rows in (10, 2_000_000, 10**9)] == [8, 20, 80]


def test_a_kind_of_gpu_for_encoders_on_cpus_is_refused(launched: Path) -> None:
    assert (cluster.gpus(None, "L4"), cluster.gpus(0.25, "L4"), cluster.gpus(0, None)) == (1, 0.25, 0)
    launched.unlink()
    for asked in (None, 0.0):
        with pytest.raises(UsageError, match="accelerator_type L4 is asked for, and actors would run on CPUs: leave it out, or"):
            cluster.gpus(asked, "L4")


@pytest.mark.parametrize(
    "text",
    [None, "", "max_workers: 3", "available_node_types: [1, 2]", "{", "- 1", "available_node_types: {a: {resources: null}}"],
)
def test_without_a_launchers_file_what_is_there_counts(launched: Path, text: str | None) -> None:
    launched.unlink() if text is None else launched.write_text(text)
    assert (cluster.most("GPU"), cluster.most("CPU"), cluster.default_gpus()) == (0, 8, 0)


@pytest.mark.parametrize(
    ("workers", "nodes", "wanted"), [(2, [8, 8, 0], 8), (4, [8, 8], 4), (2, [1, 1], 1), (1, [0], 1), (3, [2], 1)]
)
def test_a_training_worker_gets_no_more_cpus_than_a_node_has(
    workers: int, nodes: list[int], wanted: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cluster, "_LAUNCHED", tmp_path / "none.yaml")
    monkeypatch.setattr(cluster.ray, "cluster_resources", lambda: {"CPU": float(sum(nodes))})
    monkeypatch.setattr(cluster.ray, "nodes", lambda: [{"Alive": True, "Resources": {"CPU": float(n)}} for n in nodes])
    assert cluster.default_cpus(workers) == wanted


# versions


def test_versions_that_differ_are_named_the_first_five_of_them(tmp_path: Path) -> None:
    file = tmp_path / "constraints.txt"
    file.write_text("# pins\nTorch==2.13.0\nray==2.60.0  # why\nold_name==1.0\n\ngone==1.0; python_version < '3'\nloose>=2\n")
    wanted = pins.constraints(file)
    assert wanted == {"torch": "2.13.0", "ray": "2.60.0", "old-name": "1.0"}
    found = {"torch": "2.13.0+cpu", "ray": "2.59.0", "old-name": "1.0", "other": "3"}
    assert pins.differing(wanted, found) == ["ray 2.59.0 and not 2.60.0"]
    many = {f"p{i}": "1" for i in range(8)}
    told = pins.differing(many, dict.fromkeys(many, "2"))
    assert told == [*(f"p{i} 2 and not 1" for i in range(5)), "3 more"]
    assert pins.constraints(tmp_path / "none.txt") == {}


def test_the_pins_of_this_repository_are_what_is_installed_here() -> None:
    assert pins.constraints()
    assert pins.differing(pins.constraints(), pins.installed()) == []

"""Runs behind a network that loses requests and replies, a server that is busy, credentials that end, and a disk that is full."""

from __future__ import annotations

import json
import os
import random
import resource
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pytest
from nodes import Nodes
from proxy import KINDS, Proxy
from s3 import S3
from stores import Entry, digest, every_row, expected, fill, rows, splice_junctions

import dnafeat
from dnafeat import storage
from dnafeat.cli.main import main
from dnafeat.errors import StoreError
from dnafeat.spill import Spill
from dnafeat.vectors import VECTORS

ENTRIES = [Entry(f"e{i}", letters, {"key": "a"}) for i, letters in enumerate(["ACGT", "GATTACA", "CCGG", "TTTTT", "ACGTACGT"])]


def some(count: int) -> dict[str, str]:
    return {f"e{i}": letters for i, letters in enumerate(list(splice_junctions())[:count])}


def write(path: Path, entries: dict[str, str]) -> Path:
    path.write_text("id,sequence\n" + "".join(f"{name},{letters}\n" for name, letters in entries.items()))
    return path


FULL = """
import errno, os, pathlib
real = os.fsync

def fsync(number):
    path = pathlib.Path(os.readlink(f"/proc/self/fd/{number}"))
    is_full = path.parent.name.startswith("feature_version=") and (path.parents[2] / "full").exists()
    if is_full and len(list(path.parent.glob("[!.]*.parquet"))) >= 2:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))
    real(number)

os.fsync = fsync
"""


class Wire(NamedTuple):
    """A proxy that lets everything through as yet, and the environment of a Ray whose workers reach storage through it."""

    proxy: Proxy
    environment: dict[str, str]


@pytest.fixture(scope="module")
def cluster(s3_server: S3, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Wire]:
    """Its workers also take the disk for full, from the third file of vectors of a store on, where the store has a file `full`."""
    folder = tmp_path_factory.mktemp("full")
    (folder / "sitecustomize.py").write_text(FULL)
    with Proxy(s3_server.endpoint) as proxy, s3_server.found():
        with s3_server.changed(AWS_ENDPOINT_URL=proxy.endpoint, PYTHONPATH=str(folder)):
            nodes = Nodes()
        yield Wire(proxy, nodes.environment | {"AWS_ENDPOINT_URL": proxy.endpoint})
        nodes.stop()


@pytest.fixture
def wire(cluster: Wire, s3: S3) -> Iterator[Wire]:
    yield cluster
    cluster.proxy.disturb(0)
    cluster.proxy.switch(None)


def dnafeat_embed(source: Path, store: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """The command in a process of its own, as somebody types it."""
    flags = ["--store", store, "--source-name", "splice", "--model", "dnafeat-mini", "--shard-rows", "40", "--num-actors", "2"]
    command = [sys.executable, "-c", "import sys; from dnafeat.cli.main import main; sys.exit(main())", "embed", str(source)]
    settings = os.environ | {"RAY_USAGE_STATS_ENABLED": "0", **environment}
    return subprocess.run([*command, *flags, "--json"], env=settings, capture_output=True, text=True, timeout=400)


def the_sentence(done: subprocess.CompletedProcess[str]) -> str:
    """The one that a command that fails ends with."""
    assert "Traceback" not in done.stderr, done.stderr
    assert done.stdout == ""
    said = [line for line in done.stderr.splitlines() if line.startswith("dnafeat: ")]
    assert said == done.stderr.splitlines()[-1:], done.stderr
    return said[0]


def check(store: str, entries: dict[str, str], ever: dict[str, str], runs: int) -> None:
    """Everything is there once, and as an undisturbed encoder has it."""
    held = dnafeat.Store(store)
    table = held.read()
    assert sorted(table["sequence_id"].to_pylist()) == sorted(entries)
    wanted = dnafeat.Encoder.from_pretrained("dnafeat-mini").encode([entries[one] for one in table["sequence_id"].to_pylist()])
    for name in VECTORS:
        np.testing.assert_allclose(dnafeat.matrix(table[name]), getattr(wanted, name), atol=1e-5, rtol=0)
    stored = held.features.read(["sequence_digest"])["sequence_digest"].to_pylist()
    assert sorted(stored) == sorted({digest(one) for one in ever.values()})
    assert held.runs.read().num_rows == runs


@pytest.mark.long
@pytest.mark.own_ray("workers of a cluster whose storage fails")
def test_nights_over_a_bad_wire_end_as_over_a_good_one(wire: Wire, s3: S3, tmp_path: Path) -> None:
    store, entries = s3.uri(), some(240)
    first, second = dict(list(entries.items())[:200]), dict(list(entries.items())[60:])
    before = wire.proxy.done
    wire.proxy.disturb(0.1)
    for number, night in enumerate((first, second)):
        done = dnafeat_embed(write(tmp_path / "source.csv", night), store, **wire.environment)
        assert done.returncode == 0, done.stderr
        summary = json.loads(done.stdout.splitlines()[-1])
        assert (summary["read"], summary["encoded"]) == ((200, 200), (180, 40))[number]
        check(store, night, first | night, number + 1)
    with s3.changed(AWS_ENDPOINT_URL=wire.proxy.endpoint):
        assert main(["maintain", "--store", store]) == 0
    counts = wire.proxy.done - before
    check(store, second, entries, 2)
    assert len(dnafeat.Store(store).features.paths()) == 1
    assert all(counts[kind] >= 5 for kind in KINDS), counts
    assert 0.05 < sum(counts[kind] for kind in KINDS) / (sum(counts[kind] for kind in KINDS) + counts["forwarded"]) < 0.2


@pytest.mark.parametrize("kind", ["dropped", "reply lost", "cut short"])
@pytest.mark.parametrize("of", ["PUT /dnafeat/", "_delta_log/", "features/"])
def test_whatever_goes_wrong_three_times_in_a_row_each_row_is_there_once(kind: str, of: str, s3: S3, tmp_path: Path) -> None:
    """The first three of the second run's requests of a kind; a write whose reply is lost is made and sent again."""
    store = s3.uri()
    fill(store, ENTRIES[:3], tmp_path)
    with Proxy(s3.endpoint) as proxy, s3.changed(AWS_ENDPOINT_URL=proxy.endpoint):
        proxy.switch(kind, of=of, times=3)
        run = fill(store, ENTRIES[1:], tmp_path)
        struck = proxy.done
    assert run.published
    assert struck[kind] == 3
    held = dnafeat.Store(store)
    assert rows(held.read()) == expected(ENTRIES[1:], ["key"])
    assert held.features.read().num_rows == 5
    assert held.sequences.read().num_rows == 5
    assert held.runs.read().num_rows == 2


@pytest.mark.parametrize("kind", ["dropped", "reply lost", "slow down", "internal error"])
def test_commits_whose_conditional_write_goes_wrong_are_made_once(kind: str, s3: S3, tmp_path: Path) -> None:
    store = s3.uri()
    fill(store, ENTRIES[:3], tmp_path)
    with Proxy(s3.endpoint) as proxy, s3.changed(AWS_ENDPOINT_URL=proxy.endpoint):
        for table in ("features", "sequences", "runs"):
            version = getattr(dnafeat.Store(store), table).version()
            proxy.switch(kind, of=f"{table}/_delta_log/{version + 1:020}.json", times=2)
            fill(store, ENTRIES[: len(ENTRIES) if table == "features" else 4], tmp_path)
            assert proxy.done[kind] > 0
    held = dnafeat.Store(store)
    assert rows(held.read()) == expected(ENTRIES[:4], ["key"])
    assert held.features.read().num_rows == 5
    assert held.runs.read().num_rows == 4


@pytest.mark.parametrize("kind", ["dropped", "reply lost"])
def test_an_upload_in_parts_over_a_bad_wire_is_whole(kind: str, s3: S3, monkeypatch: pytest.MonkeyPatch) -> None:
    uri = s3.uri() + "/file.bin"
    content = os.urandom(12 * 2**20)
    with Proxy(s3.endpoint) as proxy, s3.changed(AWS_ENDPOINT_URL=proxy.endpoint):
        monkeypatch.setattr(storage.filesystem(uri)[0], "default_block_size", 5 * 2**20)
        halves = content[: 6 * 2**20], content[6 * 2**20 :]
        for of in ("uploads", "partNumber=2", "POST /"):
            proxy.switch(kind, of=of, times=2)
            assert storage.write_whole(uri, lambda file: [file.write(half) for half in halves]) == len(content)
        assert proxy.done[kind] >= 5
    with storage.open_input(uri) as file:
        assert file.read() == content


@pytest.mark.parametrize("kind", ["dropped", "cut short"])
def test_a_spill_over_a_bad_wire_comes_back(kind: str, s3: S3) -> None:
    letters = [bytes(random.Random(i).choices(b"ACGT", k=2000)) for i in range(500)]
    batch = pa.record_batch([pa.array(letters, pa.large_binary())], ["sequence"])
    with Proxy(s3.endpoint) as proxy, s3.changed(AWS_ENDPOINT_URL=proxy.endpoint):
        proxy.switch(kind, of="PUT /", times=2)
        spill = Spill(s3.uri(), "x", batch.schema, 5)
        spill.add(batch, np.arange(500) % 5)
        spill.close()
        for i, part in enumerate(spill.each()):
            proxy.switch(kind, of="GET /", times=2)
            assert part.table()["sequence"].to_pylist() == letters[i::5]
        assert proxy.done[kind] >= 11


@pytest.mark.long
@pytest.mark.own_ray("workers of a cluster whose storage fails")
def test_credentials_that_end_in_the_middle_cost_nothing_but_a_second_command(wire: Wire, s3: S3, tmp_path: Path) -> None:
    store, entries = s3.uri(), some(200)
    source = write(tmp_path / "source.csv", entries)
    wire.proxy.switch("expired", of="PUT /dnafeat/" + store.partition("dnafeat/")[2] + "/features/feature_version", after=2)
    done = dnafeat_embed(source, store, **wire.environment)
    assert wire.proxy.done["expired"]
    assert done.returncode == 5, done.stderr
    said = the_sentence(done)
    assert "expired" in said
    assert "the same command" in said
    held = dnafeat.Store(store)
    assert [table.num_rows for _, table in every_row(held)] == [0] * 5
    with pytest.raises(StoreError, match="no run has been published"):
        held.read()
    wire.proxy.switch(None)
    again = dnafeat_embed(source, store, **wire.environment)
    assert again.returncode == 0, again.stderr
    summary = json.loads(again.stdout.splitlines()[-1])
    assert summary["salvaged"] == 80
    assert summary["encoded"] == 120
    check(store, entries, entries, 1)


@pytest.mark.parametrize("kind", ["slow down", "expired"])
def test_a_server_that_never_serves_ends_the_command_in_a_sentence(
    kind: str, s3: S3, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    store = s3.uri()
    fill(store, ENTRIES, tmp_path)
    source = write(tmp_path / "source.csv", {"a": "ACGT"})
    # Half a minute of patience otherwise, with botocore's five attempts for each of s3fs's five.
    with Proxy(s3.endpoint) as proxy, s3.changed(AWS_ENDPOINT_URL=proxy.endpoint, AWS_MAX_ATTEMPTS="2"):
        proxy.switch(kind)
        assert main(["embed", str(source), "--store", store, "--model", "dnafeat-mini"]) == 6
        assert main(["maintain", "--store", store]) == 6
        assert main(["versions", "--store", store]) == 6
        # Patience ends: few requests are sent again and again.
        assert proxy.done[kind] < 100
    said = capsys.readouterr().err.splitlines()
    assert len(said) == 3
    for line in said:
        assert line.startswith("dnafeat: ")
        assert store in line
    word = {"slow down": "reduce your request rate", "expired": "expired"}[kind]
    assert all(word in line for line in said), said


@pytest.mark.long
@pytest.mark.own_ray("workers of a cluster whose storage fails")
def test_a_disk_that_is_full_costs_nothing_but_a_second_command(wire: Wire, tmp_path: Path) -> None:
    """The disk is full for workers from the third file of vectors on."""
    store, entries = str(tmp_path / "store"), some(200)
    source = write(tmp_path / "source.csv", entries)
    (tmp_path / "store").mkdir()
    (tmp_path / "store" / "full").touch()
    done = dnafeat_embed(source, store, **wire.environment)
    assert done.returncode == 5, done.stderr
    said = the_sentence(done)
    assert f"{store}/features cannot be written" in said
    assert "No space left on device" in said
    assert "the same command" in said
    assert [table.num_rows for _, table in every_row(store)] == [0] * 5
    whole = [path for path in Path(store).rglob("*.parquet") if "work" not in path.parts]
    assert [path for path in whole if path.name.startswith(".")] == []
    (tmp_path / "store" / "full").unlink()
    again = dnafeat_embed(source, store, **wire.environment)
    assert again.returncode == 0, again.stderr
    assert json.loads(again.stdout.splitlines()[-1])["salvaged"] == 40 * len(whole)
    check(store, entries, entries, 1)


def test_maintenance_on_a_full_disk_changes_no_row(tmp_path: Path) -> None:
    store = str(tmp_path / "store")
    for count in range(1, 6):
        fill(store, ENTRIES[:count], tmp_path)
    before: dict[str, Any] = {name: rows(table) for name, table in every_row(store)}

    def full() -> None:
        # A file that grows beyond it fails like one on a full disk, with another number.
        resource.setrlimit(resource.RLIMIT_FSIZE, (1500, 1500))

    command = [
        sys.executable,
        "-c",
        "import sys; from dnafeat.cli.main import main; sys.exit(main())",
        "maintain",
        "--store",
        store,
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, preexec_fn=full)
    assert done.returncode == 6, done.stderr
    said = the_sentence(done)
    assert "File too large" in said
    assert "send the same command again" in said
    assert {name: rows(table) for name, table in every_row(store)} == before
    assert main(["maintain", "--store", store]) == 0
    assert {name: rows(table) for name, table in every_row(store)} == before

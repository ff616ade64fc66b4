"""Where a run encodes: the choice, the local runner alone, and that both runners make the same store."""

from __future__ import annotations

import itertools
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from models import dna
from shards import cut_shard
from stores import digest, fasta, stored_vectors

import dnafeat
from dnafeat.cluster.config import ActorsConfig
from dnafeat.embed.config import EmbedConfig
from dnafeat.embed.intake import SEQUENCE_SCHEMA
from dnafeat.embed.job import embed, gathered
from dnafeat.embed.local import run_here
from dnafeat.embed.plan import CHECK, Shard
from dnafeat.embed.runner import LocalRunner, choose, decide, expected_flops, prefers_ray
from dnafeat.embed.tokenise import Tokenised
from dnafeat.embed.worker import EncoderSettings, EncodeShards, ShardWorker, checked
from dnafeat.encoder.config import EncodingConfig
from dnafeat.encoder.engine import Encoder
from dnafeat.errors import EncodingError, UsageError
from dnafeat.spill import Spill
from dnafeat.vectors import VECTORS

# Embeds as the command does, but takes a moment over each shard, so that it can be killed between two.
SLOW = """
import sys, time
from dnafeat.embed import worker
shard = worker.EncodeShards.shard
def slowly(self, tokenised):
    row = shard(self, tokenised)
    time.sleep(0.5)
    return row
worker.EncodeShards.shard = slowly
from dnafeat.cli.main import main
sys.exit(main(sys.argv[1:]))
"""


@pytest.fixture(scope="module")
def encoder(model: str) -> Encoder:
    return Encoder.load(EncodingConfig.make(model=model, precision="float32"))


@pytest.fixture(scope="module")
def settings(model: str, encoder: Encoder) -> EncoderSettings:
    return EncoderSettings(
        config=EncodingConfig.make(model=model, precision="float32"),
        pins=(None, None),
        tokenizer=encoder.tokenizer,
        cutting=encoder.cutting,
        vectors=VECTORS,
        version=encoder.version.digest,
    )


# The choice.


@pytest.mark.parametrize(
    ("settings", "seconds", "gpus", "kept_out", "name", "reason"),
    [
        ({}, 0.2, 0, False, "local", "less than a second of encoding, and starting Ray takes 12 s"),
        ({}, 119, 0, False, "local", "about 119 s of encoding, and starting Ray takes 12 s"),
        ({}, 121, 0, False, "ray", "about 121 s of encoding, and starting Ray takes 12 s"),
        ({}, 0.2, 1, False, "local", "less than a second of encoding, and starting Ray takes 12 s"),
        ({}, 0.2, 2, False, "ray", "2 GPUs"),
        ({}, 0.2, 0, True, "ray", "keeps the GPU out of it"),
        ({"runner": "local"}, 1e6, 4, False, "local", "asked for"),
    ],
)
def test_ray_is_taken_where_its_start_is_worth_it(
    settings: dict[str, Any], seconds: float, gpus: int, kept_out: bool, name: str, reason: str
) -> None:
    assert decide(ActorsConfig.make(settings), seconds=seconds, gpus=gpus, kept_out=kept_out) == (name, reason)


def test_a_cluster_or_a_kind_of_gpu_decides_before_anything_is_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    assert prefers_ray(ActorsConfig.make(runner="ray")) == "asked for"
    assert prefers_ray(ActorsConfig.make(accelerator_type="L4")) is not None
    monkeypatch.setenv("RAY_ADDRESS", "127.0.0.1:1")
    assert prefers_ray(ActorsConfig.make()) == "RAY_ADDRESS names a cluster"
    assert prefers_ray(ActorsConfig.make(runner="local")) is None


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without a GPU")
def test_gpus_that_are_not_there_are_refused_before_anything_starts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    with pytest.raises(UsageError, match="gpus_per_actor is 1, and this machine has no GPU: leave it out"):
        choose(ActorsConfig.make(runner="local", gpus_per_actor=1), sequences=1, flops=1, cpu_only=False, show=False)


def test_the_work_is_foreseen_from_a_few_sequences(model: str, encoder: Encoder, tmp_path: Path) -> None:
    sequences = Spill(tmp_path, "sequences", SEQUENCE_SCHEMA)
    letters = [dna(90, seed=i) for i in range(200)]
    columns = [pa.array(map(digest, letters)), pa.array([one.encode() for one in letters], pa.large_binary())]
    sequences.add(pa.RecordBatch.from_arrays(columns, schema=SEQUENCE_SCHEMA))
    sequences.close()
    architecture = encoder.version.architecture
    network = dnafeat.load_model(model)
    products = sum(one.numel() for name, one in network.named_parameters() if ".layer." in name and one.dim() == 2)
    tokens = int(encoder.encode(letters).tokens.sum())
    found = expected_flops(architecture, sequences, encoder.tokenizer, encoder.cutting)
    assert found == pytest.approx(2 * products * tokens, rel=0.1)


# The local runner alone.


def run(shards: list[Shard], settings: EncoderSettings, store: Path, worker: type[EncodeShards] = EncodeShards) -> Any:
    return gathered(run_here(shards, settings, worker, (str(store), "run"), encoders=2, show=False))


def test_shards_become_files_with_the_encoders_own_vectors(encoder: Encoder, settings: EncoderSettings, tmp_path: Path) -> None:
    sequences = [dna(20 + 9 * i, seed=i) for i in range(30)]
    shards = [cut_shard(tmp_path / "work", f"shard-{i:05d}.parquet", sequences[6 * i : 6 * i + 6]) for i in range(5)]
    check = cut_shard(tmp_path / "work", CHECK, sequences[4:8])
    threads = torch.get_num_threads()
    receipts, refused = run([*shards[:2], check, *shards[2:]], settings, tmp_path / "store")
    assert refused == []
    assert [one.shard for one in receipts] == [f"shard-{i:05d}.parquet" for i in range(5)]
    assert torch.get_num_threads() == threads
    written = pa.concat_tables([pq.read_table(tmp_path / "store" / "features" / one.file.path) for one in receipts])
    assert sorted(written["sequence_digest"].to_pylist()) == sorted(map(digest, sequences))
    alone = {digest(one): encoder.encode([one]) for one in sequences}
    for row in [*written.to_pylist(), *pq.read_table(checked(check.uri)).to_pylist()]:
        for name in VECTORS:
            expected = getattr(alone[row["sequence_digest"]], name)[0]
            np.testing.assert_allclose(np.array(row[name], np.float32), expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize("gpu", [False, True])
def test_a_run_on_cpus_leaves_the_gpus_of_its_machine_alone(
    gpu: bool, settings: EncoderSettings, encoder: Encoder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[bool | None] = []

    def load(*_: Any, gpu: bool | None = None) -> Encoder:
        asked.append(gpu)
        return encoder

    monkeypatch.setattr("dnafeat.embed.worker.Encoder.load", load)
    runner = LocalRunner("asked for", workers=1, gpu=gpu, show=False)
    list(runner.run([cut_shard(tmp_path, "shard-00000.parquet", ["ACGT" * 9])], settings, EncodeShards, (str(tmp_path), "run")))
    assert asked == [gpu]


def test_an_encoder_that_is_kept_off_gpus_takes_none(model: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    kept_off = Encoder.load(EncodingConfig.make(model=model), gpu=False)
    assert (kept_off.device.type, kept_off.version.precision) == ("cpu", "float32")


class Failing(EncodeShards):
    """Cannot encode one of the shards."""

    def shard(self, shard: Tokenised) -> pa.Table:
        if shard.uri.endswith("shard-00001.parquet"):
            raise ValueError("something is wrong\nand more of it")
        return super().shard(shard)


@pytest.mark.parametrize(
    ("worker", "gone", "says"),
    [(Failing, False, "ValueError: something is wrong;"), (EncodeShards, True, "{work}/shard-00001.parquet cannot be read: ")],
)
def test_what_ends_a_run_is_one_sentence(
    worker: type[EncodeShards], gone: bool, says: str, settings: EncoderSettings, tmp_path: Path
) -> None:
    shards = [cut_shard(tmp_path / "work", f"shard-{i:05d}.parquet", [dna(40, seed=i)]) for i in range(6)]
    if gone:
        Path(shards[1].uri).unlink()
    with pytest.raises(EncodingError) as error:
        run(shards, settings, tmp_path / "store", worker)
    sentence = str(error.value)
    assert sentence.startswith("the encoding stopped and nothing was published: ")
    assert says.format(work=tmp_path / "work") in sentence
    assert sentence.endswith("; the same command tries again")
    assert "\n" not in sentence


def test_a_run_that_is_given_up_stops_its_threads(settings: EncoderSettings, tmp_path: Path) -> None:
    class Counting(ShardWorker):
        done = itertools.count()

        def shard(self, shard: Tokenised) -> pa.Table:
            next(self.done)
            return pa.table({"rows": [len(shard.digests)]})

    shards = [cut_shard(tmp_path, f"shard-{i:05d}.parquet", [dna(40, seed=i)]) for i in range(50)]
    before = threading.active_count()
    rows: Iterator[pa.Table] = run_here(shards, settings, Counting, (), encoders=2, show=False)
    next(rows)
    rows.close()  # type: ignore[attr-defined]
    assert threading.active_count() == before
    assert next(Counting.done) < 50


# Both make the same store.


def table(store: str) -> pa.Table:
    return dnafeat.Store(store).read(columns=[*VECTORS, "bases", "sequence_digest"]).drop_columns(["source_name"])


MIXED = {f"s{i}": dna(20 + 7 * i, seed=i) for i in range(40)}


def test_the_same_store_comes_out_of_both_runners(model: str, tmp_path: Path, two_cpus: None) -> None:
    source = fasta(tmp_path / "mixed.fa", {**MIXED, "again": MIXED["s3"]})
    tables = {}
    for runner in ("local", "ray"):
        config = EmbedConfig.make(
            sources=(source,), store=str(tmp_path / runner), model=model, runner=runner, num_actors=2, shard_rows=7
        )
        summary = embed(config, show=False)
        assert (summary.runner, summary.runner_reason) == (runner, "asked for")
        assert (summary.read, summary.encoded, summary.files) == (41, 40, 6)
        tables[runner] = table(config.store).sort_by("sequence_id")
        other = EmbedConfig.make(sources=(source,), store=config.store, model=model, runner="local" if runner == "ray" else "ray")
        assert embed(other, show=False).encoded == 0
    one, two = tables["local"], tables["ray"]
    for column in ("sequence_id", "sequence_digest", "bases"):
        assert one[column].equals(two[column])
    for column in VECTORS:
        np.testing.assert_allclose(np.array(one[column].to_pylist()), np.array(two[column].to_pylist()), atol=1e-5, rtol=0)


@pytest.mark.parametrize(("first", "second"), [("local", "ray"), pytest.param("ray", "local", marks=pytest.mark.long)])
def test_a_run_that_was_killed_is_continued_by_the_other_runner(
    first: str, second: str, model: str, tmp_path: Path, two_cpus: None
) -> None:
    """The Ray of `first` is its own, on this machine, and ends with it."""
    source, store = fasta(tmp_path / "mixed.fa", MIXED), tmp_path / "store"
    command = ["embed", source, "--store", str(store), "--model", model, "--num-actors", "1", "--shard-rows", "4"]
    environment = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}
    running = subprocess.Popen(
        [sys.executable, "-c", SLOW, *command, "--runner", first],
        env=environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        end = time.monotonic() + 120
        while len(list(store.glob("features/*/*.parquet"))) < 2:
            assert running.poll() is None
            assert time.monotonic() < end
            time.sleep(0.05)
    finally:
        running.send_signal(signal.SIGKILL)
        running.wait()
    with pytest.raises(dnafeat.DnafeatError):
        table(str(store))
    config = EmbedConfig.make(sources=(source,), store=str(store), model=model, runner=second)
    summary = embed(config, show=False)
    assert summary.runner == second
    assert summary.salvaged >= 8
    assert summary.salvaged + summary.encoded == len(MIXED)
    stored = stored_vectors(dnafeat.Store(str(store)).read())
    expected = dnafeat.Encoder.from_pretrained(model).encode(list(MIXED.values()))
    for i, name in enumerate(MIXED):
        np.testing.assert_allclose(stored[name]["mean"], expected.mean[i], atol=1e-5, rtol=0)

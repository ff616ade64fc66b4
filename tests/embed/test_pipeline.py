"""The pipeline on real Ray, where workers die: what they were doing is done again, and what ends every one of them is left out."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import ray
import rays
from models import dna, random_folder
from shards import cut_shard

from dnafeat import storage
from dnafeat.cluster import attempts
from dnafeat.cluster import packages as pins
from dnafeat.cluster.observe import Job
from dnafeat.cluster.progress import RayBoard
from dnafeat.embed import pipeline
from dnafeat.embed.job import gathered
from dnafeat.embed.plan import CHECK, Shard
from dnafeat.embed.tokenise import Tokenised, tokenise_shards
from dnafeat.embed.worker import EncoderSettings, EncodeShards, ShardWorker, checked
from dnafeat.encoder import Encoder
from dnafeat.encoder.config import EncodingConfig
from dnafeat.errors import EncodingError
from dnafeat.sequence import digest
from dnafeat.store.table import Table
from dnafeat.store.vector_files import Receipt, read_receipt
from dnafeat.vectors import VECTORS

pytestmark = pytest.mark.own_ray("has what it takes for a GPU, which all other tests would use")


@pytest.fixture(scope="module", autouse=True)
def two_cpus() -> Iterator[None]:
    """Ray with two CPUs and one GPU by its name."""
    with rays.own(num_gpus=1, resources={"accelerator_type:L4": 1}):
        yield


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> Encoder:
    return Encoder.load(config(tmp_path_factory))


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory, encoder: Encoder) -> EncoderSettings:
    return EncoderSettings(
        config=config(tmp_path_factory),
        pins=(None, None),
        tokenizer=encoder.tokenizer,
        cutting=encoder.cutting,
        vectors=VECTORS,
        version=encoder.version.digest,
    )


def config(factory: pytest.TempPathFactory) -> EncodingConfig:
    folder = factory.getbasetemp() / "model"
    if not folder.exists():
        random_folder(folder)
    return EncodingConfig.make({"model": str(folder), "precision": "float32"})


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fewer deaths are waited for, since each takes seconds; how many it would be says test_attempts."""

    def change(_: Any) -> None:
        attempts._CARELESS, attempts._ATTEMPTS, attempts._STARTS = 1, 2, 2

    def start(*arguments: Any) -> RayBoard:
        board = ordinary(*arguments)
        ray.get(board.actor.__ray_call__.remote(change))
        return board

    ordinary = pipeline.start
    monkeypatch.setattr(pipeline, "start", start)


def encode(
    shards: Sequence[Shard], settings: EncoderSettings, store: Path, worker: type[EncodeShards] = EncodeShards, actors: int = 2
) -> tuple[list[Receipt], list[str]]:
    """Receipts and refused digests of a run with actors of a class of the test's own."""
    arguments = (str(store), "run")
    return gathered(pipeline.run_on_ray(shards, settings, worker, arguments, actors=actors, gpus_per_actor=0, show=False))


# Classes are made in functions, so that Ray sends them as they are: its workers cannot import this file.


def deadly(encoder: Encoder, poison: Sequence[str], once: str, deaths: Path) -> type[EncodeShards]:
    """An actor whose process ends when it encodes some sequences, and the first time it encodes another; each death leaves a file."""
    tokens = {tuple(encoder.tokenizer.ragged([one]).ids.tolist()): one for one in (*poison, once)}

    class Deadly(EncodeShards):
        def __init__(self, *arguments: Any) -> None:
            super().__init__(*arguments)
            alive = self.encoder.begin

            def begin(windows: Any, report: Any = None) -> Any:
                for start, stop in zip(windows.start, windows.stop, strict=True):
                    found = tokens.get(tuple(windows.ids[start:stop].tolist()))
                    if found is not None and not (found == once and (deaths / once).exists()):
                        (deaths / (once if found == once else str(os.getpid()))).touch()
                        os.kill(os.getpid(), signal.SIGKILL)
                return alive(windows, report)

            self.encoder.begin = begin  # type: ignore[method-assign]

    return Deadly


def test_sequences_that_end_every_worker_are_left_out_and_told_and_all_others_are_written(
    encoder: Encoder, settings: EncoderSettings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sequences = [dna(40 + i, seed=i) for i in range(16)]
    poison, once = [sequences[3], sequences[6]], sequences[8]
    shards = [
        cut_shard(tmp_path / "work", "shard-00000.parquet", sequences[:6]),
        cut_shard(tmp_path / "work", "shard-00001.parquet", sequences[6:7]),  # nothing else in it
        cut_shard(tmp_path / "work", "shard-00002.parquet", sequences[7:11]),
        cut_shard(tmp_path / "work", "shard-00003.parquet", sequences[11:]),
        cut_shard(tmp_path / "work", CHECK, sequences[5:8]),
    ]
    (tmp_path / "deaths").mkdir()
    receipts, refused = encode(shards, settings, tmp_path / "store", deadly(encoder, poison, once, tmp_path / "deaths"))
    assert sorted(refused) == sorted(digest(one.encode()) for one in poison)
    assert {receipt.shard: receipt.refused for receipt in receipts} == {
        "shard-00000.parquet": (digest(poison[0].encode()),),
        "shard-00002.parquet": (),
        "shard-00003.parquet": (),
    }
    assert (tmp_path / "deaths" / once).exists()
    # 3 and 2 for the two that are refused, 1 for the other; up to 3 more where the sample, which has one, was encoded meanwhile.
    assert 6 <= len(list((tmp_path / "deaths").iterdir())) <= 9

    written = pa.concat_tables([pq.read_table(tmp_path / "store" / "features" / receipt.file.path) for receipt in receipts])
    good = [one for one in sequences if one not in poison]
    assert sorted(written["sequence_digest"].to_pylist()) == sorted(digest(one.encode()) for one in good)
    assert sum(receipt.file.rows for receipt in receipts) == len(good)
    expected = encoder.encode(good)
    place = [written["sequence_digest"].to_pylist().index(digest(one.encode())) for one in good]
    for name in VECTORS:
        np.testing.assert_allclose(np.array(written[name].to_pylist())[place], getattr(expected, name), atol=1e-5, rtol=0)

    sample = pq.read_table(checked(shards[-1].uri))
    assert set(sample["sequence_digest"].to_pylist()) == {digest(sequences[i].encode()) for i in (5, 7)}
    first = next(receipt for receipt in receipts if receipt.refused)
    assert Receipt.from_json(first.to_json()) == first
    again = read_receipt(Table(str(tmp_path / "store"), "features"), first.file.path, first.file.size, settings.version)
    assert again is not None
    assert again.refused == first.refused


def unloadable() -> type[EncodeShards]:
    class Unloadable(EncodeShards):
        def __init__(self, *arguments: Any) -> None:
            os.kill(os.getpid(), signal.SIGKILL)

    return Unloadable


def failing(error: Exception) -> type[EncodeShards]:
    class Failing(EncodeShards):
        def shard(self, shard: Tokenised) -> pa.Table:
            raise error

    return Failing


def without_space() -> type[EncodeShards]:
    class WithoutSpace(EncodeShards):
        def __init__(self, *arguments: Any) -> None:
            super().__init__(*arguments)

            def write_whole(uri: str, write: Any) -> int:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

            storage.write_whole = write_whole  # in the actor's process, which is this run's alone

    return WithoutSpace


@pytest.mark.parametrize(
    ("actor", "says"),
    [
        (unloadable(), "2 processes in a row died before they began a shard, so the model cannot be loaded"),
        pytest.param(
            failing(ValueError("something is wrong\nand more of it")), "ValueError: something is wrong;", marks=pytest.mark.long
        ),
        (without_space(), "{store}/features cannot be written: [Errno 28] No space left on device;"),
        pytest.param(EncodeShards, "{work}/none.parquet cannot be read: ", marks=pytest.mark.long),
    ],
    ids=["unloadable", "failing", "without space", "unreadable"],
)
def test_what_ends_a_run_is_one_sentence(
    actor: type[EncodeShards],
    says: str,
    settings: EncoderSettings,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    shards = [cut_shard(tmp_path / "work", "shard-00000.parquet", ["ACGTACGT", "GATTACA"])]
    if actor is EncodeShards:
        shards = [Shard(str(tmp_path / "work" / "none.parquet"), 1)]
    with pytest.raises(EncodingError) as error:
        encode(shards, settings, tmp_path / "store", actor)
    sentence = str(error.value)
    assert sentence.startswith("the encoding stopped and nothing was published: ")
    assert says.format(store=tmp_path / "store", work=tmp_path / "work") in sentence
    assert "\n" not in sentence
    assert "dnafeat.errors" not in sentence
    assert "Traceback" not in capfd.readouterr().err


def test_actors_ask_for_a_kind_of_gpu(settings: EncoderSettings, tmp_path: Path) -> None:
    # Stands before a run that fails: its actor keeps the GPU for as long as somebody holds the exception.
    class Asks(ShardWorker):
        def shard(self, shard: Tokenised) -> pa.Table:
            return pa.table({"asked": [sorted(ray.get_runtime_context().get_assigned_resources())]})

    shards = [cut_shard(tmp_path, "shard-00000.parquet", ["ACGTACGT"])]
    (row,) = pipeline.run_on_ray(shards, settings, Asks, (), actors=1, gpus_per_actor=0.5, accelerator_type="L4", show=False)
    assert row["asked"].to_pylist() == [["CPU", "GPU", "accelerator_type:L4"]]


@pytest.mark.long
def test_a_shard_that_ends_every_worker_of_another_kind_ends_the_run_and_is_named(
    settings: EncoderSettings, tmp_path: Path
) -> None:
    class Answers(ShardWorker):
        def shard(self, shard: Tokenised) -> pa.Table:
            if len(shard.digests) == 2:
                os.kill(os.getpid(), signal.SIGKILL)
            return pa.table({"rows": [len(shard.digests)]})

    shards = [
        cut_shard(tmp_path, "shard-00000.parquet", ["ACGTACGT"]),
        cut_shard(tmp_path, "shard-00001.parquet", ["GATTACA", "ACGT"]),
    ]
    with pytest.raises(EncodingError, match=r"shard-00001\.parquet was begun 2 times"):
        list(pipeline.run_on_ray(shards, settings, Answers, (), actors=1, gpus_per_actor=1, show=False))


@pytest.mark.long
def test_a_shard_whose_task_is_late_is_not_encoded_last(
    settings: EncoderSettings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shards = [cut_shard(tmp_path, f"shard-{i:05d}.parquet", [dna(50, seed=i)]) for i in range(5)]

    def late(batch: pa.Table, settings: Any, board: Any) -> Any:
        import time

        if "shard-00001" in batch["uri"][0].as_py():
            time.sleep(1)
        return tokenise_shards(batch, settings, board)

    monkeypatch.setattr(pipeline, "_tokenised", late)
    arguments = (str(tmp_path / "store"), "run")
    rows = pipeline.run_on_ray(shards, settings, EncodeShards, arguments, actors=1, gpus_per_actor=0, show=False)
    receipts = [Receipt.from_json(row["receipt"][0].as_py()) for row in rows]
    assert [one.shard for one in receipts] == [storage.name(shard.uri) for shard in shards]
    # An actor has two at hand, and may take the second first.
    assert shards[1].uri.endswith(tuple(one.shard for one in sorted(receipts, key=lambda one: one.began)[:3]))


def test_a_tokenising_task_starts_no_thread_for_each_core(settings: EncoderSettings, tmp_path: Path) -> None:
    rows = pa.table({"uri": [cut_shard(tmp_path, "shard-00000.parquet", [dna(300, seed=i) for i in range(64)]).uri]})
    progress = pipeline.start(settings.job, 1)

    @ray.remote(num_cpus=0.25, max_calls=1)
    def threads() -> tuple[int, int]:
        os.environ["RAYON_NUM_THREADS"] = "200"  # as on a large machine
        running = Path("/proc/self/task")
        before = len(list(running.iterdir()))
        tokens = tokenise_shards(rows, settings, progress)["ids"].combine_chunks().flatten()
        return len(tokens), len(list(running.iterdir())) - before

    tokens, started = ray.get(threads.remote())
    assert tokens > 64
    assert started < 100


def test_a_tokenising_task_is_sent_nothing_that_loads_torch(settings: EncoderSettings) -> None:
    sent = ray.cloudpickle.dumps((tokenise_shards, settings.of_tokeniser))
    code = "import pickle, sys; pickle.load(sys.stdin.buffer); print(*({'torch', 'transformers', 'pandas'} & sys.modules.keys()))"
    done = subprocess.run([sys.executable, "-c", code], input=sent, capture_output=True, check=True)
    assert done.stdout.split() == []


@pytest.mark.long
def test_a_node_with_other_versions_than_the_driver_is_told_once(
    settings: EncoderSettings, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    job = Job(run_id="other")
    settings = replace(settings, packages={**pins.installed(), "numpy": "0.1"}, job=job)
    shards = [cut_shard(tmp_path / "work", f"shard-0000{i}.parquet", [dna(40, seed=i)]) for i in range(4)]
    receipts, _ = encode(shards, settings, tmp_path)
    assert len(receipts) == 4
    told = [line for line in capsys.readouterr().err.splitlines() if line.startswith("dnafeat: ")]
    assert len(told) == 1
    assert f"other versions than the driver: numpy {pins.installed()['numpy']} and not 0.1; install" in told[0]

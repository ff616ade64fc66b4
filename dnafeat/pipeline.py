"""The Ray Data pipeline: shard -> tokenise (tasks) -> encode, pool, project, write (actors, one model each) -> receipts.

One row of the dataset is one work shard from end to end, so that nothing in between can cut or merge it; vectors are written where
they are made and never travel. A receipt is a row that says what file a shard became.
"""

from __future__ import annotations

import contextlib
import functools
import logging
import os
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import ray
import ray.data
import torch
from tqdm import tqdm

from dnafeat import storage
from dnafeat.encoder import Encoder
from dnafeat.models import checkpoint as checkpoints
from dnafeat.plan import Shard
from dnafeat.schema import VECTORS, arrow_schema
from dnafeat.tables import DataFile, Table
from dnafeat.tokenizers import Tokens

# An actor and a tokenising task ask for different shares of a CPU: equal ones would be fused into one operator by Ray Data, and
# together they must fit into a single CPU.
_ACTOR_CPUS = 0.75
_TASK_CPUS = 0.25
_LOCAL_OBJECT_STORE = 512 * 2**20


@dataclass(frozen=True, kw_only=True)
class EncoderSettings:
    """What an actor needs to build the run's encoder."""

    model: str
    adapter: str | None
    precision: str
    window_tokens: int
    overlap_tokens: int
    projector: str
    version: str
    """Digest the driver planned for; an actor that arrives at another one stops the run."""


@dataclass(frozen=True)
class Receipt:
    """What became of a shard: its vector file, and what the audit and the summary need.

    Attributes
    ----------
    shard : str
    file : DataFile
    tokens : int
        Content tokens.
    computed, needed : int
        Tokens that went through the encoder, with special tokens; with and without padding.
    not_finite : int
        Vectors with a NaN or an infinity.
    began, ended : float
        Seconds since the epoch.
    """

    shard: str
    file: DataFile
    tokens: int
    computed: int
    needed: int
    not_finite: int
    began: float
    ended: float


def start_ray() -> None:
    """Connects to the cluster that RAY_ADDRESS names, or starts Ray on this machine for this process alone."""
    if ray.is_initialized():
        return
    if os.environ.get("RAY_ADDRESS"):
        ray.init(logging_level=logging.WARNING)
    else:
        # Ray logs an error about arguments of its own actors whenever a pool starts (ray-project/ray#57733); on a cluster its logs are
        # somebody's business, on a laptop they would bury ours.
        os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")
        with _without_chatter():
            # Vectors do not pass through the object store, so that a small one does.
            ray.init(
                address="local",
                include_dashboard=False,
                logging_level=logging.ERROR,
                log_to_driver=False,
                object_store_memory=_LOCAL_OBJECT_STORE,
            )


@contextlib.contextmanager
def _without_chatter() -> Iterator[None]:
    """Keeps what Ray's compiled part writes to standard error while it starts, and shows it only when the start fails."""
    sys.stderr.flush()
    kept = os.dup(2)
    with tempfile.TemporaryFile() as held:
        os.dup2(held.fileno(), 2)
        try:
            yield
        except BaseException:
            held.seek(0)
            os.write(kept, held.read())
            raise
        finally:
            os.dup2(kept, 2)
            os.close(kept)


def default_actors() -> int:
    """One encoder for each GPU of the cluster; without any, one for each CPU."""
    resources = ray.cluster_resources()
    return max(1, int(resources.get("GPU", 0)) or int(resources.get("CPU", 1)))


def has_gpus() -> bool:
    return ray.cluster_resources().get("GPU", 0) > 0


@ray.remote(num_cpus=0)
class Progress:
    """Counts what the actors have done, for the driver to show."""

    def __init__(self) -> None:
        self.sequences = self.tokens = 0

    def add(self, sequences: int, tokens: int) -> None:
        self.sequences += sequences
        self.tokens += tokens

    def read(self) -> tuple[int, int]:
        return self.sequences, self.tokens


@functools.cache
def _tokenizer(model: str) -> checkpoints.BPETokenizer:
    return checkpoints.find(model).tokenizer()


def tokenise_shards(batch: Any, model: str) -> Any:
    """Reads shards (an Arrow table with column uri) and adds their token ids: one row in, one row out, arrays as lists within it."""
    rows = []
    for uri in batch["uri"].to_pylist():
        fs, path = storage.filesystem(uri)
        with fs.open(path, "rb") as file:
            table = pq.read_table(file)
        letters = table["sequence"].cast(pa.large_string()).to_pylist()
        tokens = _tokenizer(model).encode(letters)
        columns = {
            "digests": table["sequence_digest"].combine_chunks(),
            "bases": pa.array([len(one) for one in letters], pa.int64()),
            "ids": pa.array(tokens.ids),
            "offsets": pa.array(tokens.offsets),
        }
        rows.append(pa.table({"uri": [uri], **{name: _one_list(column) for name, column in columns.items()}}))
    return pa.concat_tables(rows)


def _one_list(values: pa.Array) -> pa.Array:
    """An array as the only row of a list column, not copied."""
    return pa.LargeListArray.from_arrays(pa.array([0, len(values)]), values)


class EncodeShards:
    """Actor: encodes shards and writes each as one file below `features`."""

    def __init__(self, settings: EncoderSettings, store: str, run_id: str, threads: int, progress: ray.actor.ActorHandle) -> None:
        torch.set_num_threads(threads)
        self.encoder = Encoder.from_pretrained(
            settings.model,
            settings.adapter,
            precision=settings.precision,
            window=settings.window_tokens,
            overlap=settings.overlap_tokens,
            projector=settings.projector,
        )
        if self.encoder.version.digest != settings.version:
            raise RuntimeError(
                f"this worker's encoder has feature version {self.encoder.version.digest} and the run was planned for "
                f"{settings.version}: {settings.model} is not the same on all nodes"
            )
        self.features = Table(store, "features")
        self.run_id, self.version, self.progress = run_id, settings.version, progress

    def __call__(self, batch: pa.Table) -> pa.Table:
        return pa.Table.from_pylist([self._encode(batch.slice(i, 1)) for i in range(len(batch))])

    def _encode(self, row: pa.Table) -> dict:
        began = time.time()
        numbers = {name: row[name].combine_chunks().flatten().to_numpy() for name in ("ids", "offsets", "bases")}
        names = row["digests"].combine_chunks().flatten().cast(pa.string())
        computed = waiting = waiting_tokens = 0
        last = time.monotonic()

        def report(sequences: int, tokens: int, with_padding: int) -> None:
            nonlocal computed, waiting, waiting_tokens, last
            computed, waiting, waiting_tokens = computed + with_padding, waiting + sequences, waiting_tokens + tokens
            if time.monotonic() - last > 0.5:
                self.progress.add.remote(waiting, waiting_tokens)
                waiting = waiting_tokens = 0
                last = time.monotonic()

        vectors = self.encoder.encode_tokens(Tokens(numbers["ids"], numbers["offsets"]), report)
        self.progress.add.remote(waiting, waiting_tokens)
        columns = {
            "sequence_digest": names,
            **{name: _lists(getattr(vectors, name)) for name in VECTORS},
            "bases": pa.array(numbers["bases"]),
            "tokens": pa.array(vectors.tokens),
            "windows": pa.array(vectors.windows),
            "run_id": pa.array([self.run_id] * len(names)),
        }
        schema = pa.schema([f for f in arrow_schema("features") if f.name in columns])
        table = pa.Table.from_arrays([columns[f.name] for f in schema], schema=schema)
        shard = row["uri"][0].as_py()
        stem = f"{self.run_id}-{storage.name(shard).removesuffix('.parquet').removeprefix('shard-')}"
        file = self.features.write(table, stem=stem, partition={"feature_version": self.version})
        return {
            "shard": shard,
            "path": file.path,
            "size": file.size,
            "rows": file.rows,
            "first": file.minimum["sequence_digest"],
            "last": file.maximum["sequence_digest"],
            "tokens": int(vectors.tokens.sum()),
            "computed": computed,
            "needed": round(computed * (1 - vectors.padding_share)),
            "not_finite": sum(int((~np.isfinite(getattr(vectors, name))).any(1).sum()) for name in VECTORS),
            "began": began,
            "ended": time.time(),
        }


def _lists(vectors: np.ndarray) -> pa.Array:
    """(n, width) float32 as an Arrow list column, without copying the numbers."""
    n, width = vectors.shape
    offsets = pa.array(np.arange(0, (n + 1) * width, width, dtype=np.int32))
    return pa.ListArray.from_arrays(offsets, pa.array(vectors.ravel())).cast(arrow_schema("features").field("mean").type)


def encode_shards(
    shards: Sequence[Shard], settings: EncoderSettings, *, store: str, run_id: str, actors: int, show: bool
) -> Iterator[Receipt]:
    """Encodes and writes every shard, and yields a receipt for each as it is done, in no particular order.

    Ray must be running. A worker or node that dies has its shards encoded again; a file it left behind has another name and no receipt.
    """
    logging.getLogger("ray.data").setLevel(logging.ERROR)
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    context.enable_operator_progress_bars = False
    resources = ray.cluster_resources()
    gpus = resources.get("GPU", 0)
    actors = min(actors, len(shards))
    threads = max(1, int(resources.get("CPU", 1)) // actors)
    progress = Progress.remote()  # type: ignore[attr-defined]
    items = [{"uri": shard.uri} for shard in shards]
    encoded = (
        ray.data.from_items(items, override_num_blocks=len(items))
        .map_batches(
            tokenise_shards,  # type: ignore[arg-type]
            fn_kwargs={"model": settings.model},
            batch_size=None,
            batch_format="pyarrow",
            num_cpus=_TASK_CPUS,
        )
        .map_batches(
            EncodeShards,
            fn_constructor_args=(settings, store, run_id, threads, progress),
            compute=ray.data.ActorPoolStrategy(size=actors),
            batch_size=None,
            batch_format="pyarrow",
            num_cpus=_ACTOR_CPUS,
            num_gpus=min(1.0, gpus / actors) if gpus else None,
        )
    )
    with _shown(progress, sum(shard.rows for shard in shards), show):
        for batch in encoded.iter_batches(batch_size=None, batch_format="pyarrow", prefetch_batches=0):
            for row in pa.Table.to_pylist(batch):
                ends = {"sequence_digest": row["first"]}, {"sequence_digest": row["last"]}
                file = DataFile(
                    row["path"], row["size"], row["rows"], *ends, {"sequence_digest": 0}, {"feature_version": settings.version}
                )
                counts = {name: row[name] for name in ("shard", "tokens", "computed", "needed", "not_finite", "began", "ended")}
                yield Receipt(file=file, **counts)


@contextlib.contextmanager
def _shown(progress: ray.actor.ActorHandle, total: int, show: bool) -> Iterator[None]:
    """A bar on standard error with sequences done, rate and time left, for as long as the block runs."""
    if not show:
        yield
        return
    done = threading.Event()
    # A log file gets a line now and then and not a bar that redraws itself.
    interval = 0.1 if os.isatty(2) else 15.0
    with tqdm(total=total, desc="encoding", unit=" sequences", unit_scale=True, mininterval=interval, smoothing=0.1) as bar:

        def follow() -> None:
            while not done.wait(0.5):
                with contextlib.suppress(ray.exceptions.RayError):
                    sequences, tokens = cast(tuple[int, int], ray.get(progress.read.remote()))
                    bar.set_postfix_str(f"{tokens / max(bar.format_dict['elapsed'], 1e-9):,.0f} tokens/s", refresh=False)
                    bar.update(sequences - bar.n)

        thread = threading.Thread(target=follow, daemon=True)
        thread.start()
        try:
            yield
            bar.update(total - bar.n)
        finally:
            done.set()
            thread.join()

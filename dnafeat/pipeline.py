"""The Ray Data pipeline: shard -> tokenise (tasks) -> encode, pool, project, write (actors, one model each) -> receipts.

One row of the dataset is one work shard from end to end, so that nothing in between can cut or merge it; vectors are written where
they are made and never travel. A receipt is a row that says what file a shard became. Other actors make other rows of a shard:
`run_shards` takes their class.
"""

from __future__ import annotations

import contextlib
import functools
import logging
import math
import os
import re
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import ray
import ray.data
import torch

from dnafeat import storage
from dnafeat.config import EncodingConfig
from dnafeat.encoder import Encoder
from dnafeat.errors import EncodingError, one_line
from dnafeat.models.adapter import Source
from dnafeat.plan import Shard
from dnafeat.progress import shown, start
from dnafeat.schema import arrow_schema
from dnafeat.tables import DataFile, Table
from dnafeat.tokenizers import Tokenizer
from dnafeat.windows import ARRAYS, Cutting, Windows, cut

# What a tokenising task asks for. An actor asks for more or less, never for the same: Ray Data would fuse the two into one operator.
_TASK_CPUS = 0.25
_ACTOR_CPUS = 0.75
_ours = False  # whether this process's Ray was started here
PIECE_ROWS = 2048  # encoded and written at a time
_LOCAL_OBJECT_STORE = 512 * 2**20


@dataclass(frozen=True, kw_only=True)
class EncoderSettings:
    """What an actor needs to build the run's encoder."""

    config: EncodingConfig
    """With the precision the driver has resolved."""
    pins: tuple[str | None, str | None]
    """Revisions of model and adapter, so that a worker fetches what the driver has seen, and nothing where it has that already."""
    cutting: Cutting
    vectors: tuple[str, ...]
    """Columns to store."""
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
    windowed, truncated : int
        Sequences that took several windows, and those whose end was left out.
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
    windowed: int
    truncated: int
    computed: int
    needed: int
    not_finite: int
    began: float
    ended: float


_COUNTS = tuple(field.name for field in fields(Receipt) if field.name != "file")


def start_ray() -> None:
    """Connects to the cluster that RAY_ADDRESS names, or starts Ray on this machine for this process alone."""
    global _ours
    if ray.is_initialized():
        return
    _ours = True
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


def stop_ray() -> None:
    """Leaves the Ray that `start_ray` connected to or started; one that was there before is let be."""
    global _ours
    if _ours:
        ray.shutdown()
        _ours = False


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


def default_gpus() -> float:
    """GPUs an actor should hold: one where the cluster has any now. A cluster that starts its GPU nodes on demand cannot tell."""
    return 1.0 if ray.cluster_resources().get("GPU", 0) else 0.0


def default_actors(gpus_per_actor: float) -> int:
    """As many encoders as the cluster's GPUs hold at once; one for each CPU where they run on CPUs."""
    resources = ray.cluster_resources()
    room = resources.get("GPU", 0) / gpus_per_actor if gpus_per_actor else resources.get("CPU", 1)
    return max(1, int(room))


@functools.cache
def _tokenizer(config: EncodingConfig, pins: tuple[str | None, str | None]) -> Tokenizer:
    return Source.find(config, pins).tokenizer(config)


def tokenise_shards(batch: Any, settings: EncoderSettings) -> Any:
    """Reads shards (an Arrow table with column uri) and adds their windows of token ids: one row in, one row out, arrays as lists."""
    rows = []
    for uri in batch["uri"].to_pylist():
        fs, path = storage.filesystem(uri)
        with fs.open(path, "rb") as file:
            table = pq.read_table(file)
        letters = table["sequence"].cast(pa.large_string()).to_pylist()
        windows = cut(letters, _tokenizer(settings.config, settings.pins), settings.cutting)
        columns = {
            "digests": table["sequence_digest"].combine_chunks(),
            "bases": pa.array([len(one) for one in letters], pa.int64()),
            **{name: pa.array(getattr(windows, name)) for name in ARRAYS},
        }
        rows.append(pa.table({"uri": [uri], **{name: one_list(column) for name, column in columns.items()}}))
    return pa.concat_tables(rows)


def one_list(values: pa.Array) -> pa.Array:
    """An array as the only row of a list column, not copied."""
    return pa.LargeListArray.from_arrays(pa.array([0, len(values)]), values)


@dataclass(frozen=True)
class Tokenised:
    """A tokenised shard as an actor takes it.

    Attributes
    ----------
    uri : str
    digests : pa.StringArray, length n
    bases : np.ndarray, shape=(n,), int64
    windows : Windows
    """

    uri: str
    digests: pa.Array
    bases: np.ndarray
    windows: Windows

    @classmethod
    def of(cls, row: pa.Table) -> Tokenised:
        """From one row of what `tokenise_shards` returns."""
        arrays = {name: row[name].combine_chunks().flatten() for name in (*ARRAYS, "bases", "digests")}
        digests, bases = arrays.pop("digests").cast(pa.string()), arrays.pop("bases").to_numpy()
        windows = Windows(**{name: array.to_numpy(zero_copy_only=False) for name, array in arrays.items()})
        return cls(row["uri"][0].as_py(), digests, bases, windows)

    @property
    def counts(self) -> dict[str, int]:
        """What a receipt says of its length."""
        windows = self.windows
        return {
            "tokens": int(windows.tokens().sum()),
            "windowed": int((windows.counts() > 1).sum()),
            "truncated": int(windows.cut.sum()),
        }


class Tally:
    """What an actor has computed: an encoder's `report`, which tells the driver's bar of it twice a second."""

    def __init__(self, progress: ray.actor.ActorHandle) -> None:
        self.computed = 0  # tokens, with padding
        self._progress = progress
        self._sequences = self._tokens = 0
        self._last = time.monotonic()

    def __call__(self, sequences: int, tokens: int, with_padding: int) -> None:
        self.computed += with_padding
        self._sequences, self._tokens = self._sequences + sequences, self._tokens + tokens
        if time.monotonic() - self._last > 0.5:
            self.flush()

    def flush(self) -> None:
        self._progress.add.remote(self._sequences, self._tokens)
        self._sequences = self._tokens = 0
        self._last = time.monotonic()


class ShardActor:
    """What an actor over tokenised shards has: the run's encoder, and the bar that it tells how far it is."""

    def __init__(self, settings: EncoderSettings, threads: int, progress: ray.actor.ActorHandle) -> None:
        torch.set_num_threads(threads)
        self.encoder = Encoder.load(settings.config, settings.pins)
        if self.encoder.version.digest != settings.version:
            raise RuntimeError(
                f"this worker's encoder has feature version {self.encoder.version.digest} and the run was planned for "
                f"{settings.version}: {settings.config.model} is not the same on all nodes"
            )
        self.progress = progress

    def __call__(self, batch: pa.Table) -> pa.Table:
        return pa.concat_tables([self.shard(Tokenised.of(batch.slice(i, 1))) for i in range(len(batch))])

    def shard(self, shard: Tokenised) -> pa.Table:
        """One row for a shard."""
        raise NotImplementedError


class EncodeShards(ShardActor):
    """Actor: encodes shards and writes each as one file below `features`."""

    def __init__(self, settings: EncoderSettings, store: str, run_id: str, threads: int, progress: ray.actor.ActorHandle) -> None:
        super().__init__(settings, threads, progress)
        self.features = Table(store, "features")
        self.run_id, self.version, self.vectors = run_id, settings.version, settings.vectors

    def shard(self, shard: Tokenised) -> pa.Table:
        began = time.time()
        names, bases, windows, tally = shard.digests, shard.bases, shard.windows, Tally(self.progress)
        needed = strange = 0

        def encoded() -> Iterator[pa.Table]:
            # Piece by piece, so that memory does not grow with the file.
            nonlocal needed, strange
            for at in range(0, len(names), PIECE_ROWS):
                end = min(at + PIECE_ROWS, len(names))
                before = tally.computed
                vectors = self.encoder.encode_windows(windows.part(at, end), tally)
                needed += round((tally.computed - before) * (1 - vectors.padding_share))
                strange += sum(int((~np.isfinite(getattr(vectors, name))).any(1).sum()) for name in self.vectors)
                columns = {
                    "sequence_digest": names[at:end],
                    **{name: _lists(getattr(vectors, name)) for name in self.vectors},
                    "bases": pa.array(bases[at:end]),
                    "tokens": pa.array(vectors.tokens),
                    "windows": pa.array(vectors.windows),
                    "run_id": pa.array([self.run_id] * (end - at)),
                }
                schema = pa.schema([f for f in arrow_schema("features") if f.name in columns])
                yield pa.Table.from_arrays([columns[f.name] for f in schema], schema=schema)

        stem = f"{self.run_id}-{storage.name(shard.uri).removesuffix('.parquet').removeprefix('shard-')}"
        file = self.features.write(encoded(), stem=stem, partition={"feature_version": self.version})
        tally.flush()
        receipt = {
            "shard": shard.uri,
            "path": file.path,
            "size": file.size,
            "rows": file.rows,
            "first": file.minimum["sequence_digest"],
            "last": file.maximum["sequence_digest"],
            **shard.counts,
            "computed": tally.computed,
            "needed": needed,
            "not_finite": strange,
            "began": began,
            "ended": time.time(),
        }
        return pa.Table.from_pylist([receipt])


def _lists(vectors: np.ndarray) -> pa.Array:
    """(n, width) float32 as an Arrow list column, without copying the numbers."""
    n, width = vectors.shape
    offsets = pa.array(np.arange(0, (n + 1) * width, width, dtype=np.int32))
    return pa.ListArray.from_arrays(offsets, pa.array(vectors.ravel())).cast(arrow_schema("features").field("mean").type)


def actor_cpus(cpus: float, actors: int) -> float:
    """Share of a CPU for each actor that leaves room for one tokenising task beside them all, however many were asked for."""
    share = max(0.01, math.floor(100 * min(_ACTOR_CPUS, (cpus - _TASK_CPUS) / actors)) / 100)
    return share if share != _TASK_CPUS else share - 0.01


def encode_shards(
    shards: Sequence[Shard],
    settings: EncoderSettings,
    *,
    store: str,
    run_id: str,
    actors: int,
    gpus_per_actor: float,
    show: bool,
) -> Iterator[Receipt]:
    """Encodes and writes every shard, and yields a receipt for each as it is done, in no particular order.

    A file that a dying worker left behind has another name and no receipt.
    """
    own = (store, run_id)
    for batch in run_shards(shards, settings, EncodeShards, own, actors=actors, gpus_per_actor=gpus_per_actor, show=show):
        for row in batch.to_pylist():
            ends = {"sequence_digest": row["first"]}, {"sequence_digest": row["last"]}
            file = DataFile(
                row["path"], row["size"], row["rows"], *ends, {"sequence_digest": 0}, {"feature_version": settings.version}
            )
            counts = {name: row[name] for name in _COUNTS}
            yield Receipt(file=file, **counts)


def run_shards(
    shards: Sequence[Shard],
    settings: EncoderSettings,
    actor: type[ShardActor],
    arguments: Sequence[Any],
    *,
    actors: int,
    gpus_per_actor: float,
    show: bool,
) -> Iterator[pa.Table]:
    """Tokenises every shard, sends it through a pool of actors, and yields what they return as it comes, in no particular order.

    An actor is made as `actor(settings, *arguments, threads, progress)`. Ray must be running. A worker or node that dies has its
    shards done again.
    """
    logging.getLogger("ray.data").setLevel(logging.ERROR)
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    context.enable_operator_progress_bars = False
    actors = min(actors, len(shards))
    cpus = max(1.0, ray.cluster_resources().get("CPU", 1))
    threads = max(1, int(cpus) // actors)
    progress = start()
    items = [{"uri": shard.uri} for shard in shards]
    encoded = (
        ray.data.from_items(items, override_num_blocks=len(items))
        .map_batches(
            tokenise_shards,  # type: ignore[arg-type]
            fn_kwargs={"settings": settings},
            batch_size=None,
            batch_format="pyarrow",
            num_cpus=_TASK_CPUS,
        )
        .map_batches(
            actor,
            fn_constructor_args=(settings, *arguments, threads, progress),
            compute=ray.data.ActorPoolStrategy(size=actors),
            batch_size=None,
            batch_format="pyarrow",
            num_cpus=actor_cpus(cpus, actors),
            num_gpus=gpus_per_actor or None,
        )
    )
    with shown(progress, sum(shard.rows for shard in shards), show), _explained():
        yield from encoded.iter_batches(batch_size=None, batch_format="pyarrow", prefetch_batches=0)


@contextlib.contextmanager
def _explained() -> Iterator[None]:
    """Turns what Ray raises for a failed job into one sentence that ends in the cause."""
    try:
        yield
    except ray.exceptions.RayError as error:
        # Ray gives the whole story as text, the first exception first.
        cause = re.search(r"^(?!ray\.)[\w.]*(?:Error|Exception|Interrupt): .+$", str(error), re.MULTILINE)
        raise EncodingError(
            f"the encoding stopped and nothing was published: {cause[0] if cause else one_line(error)}; the same command tries again"
        ) from error

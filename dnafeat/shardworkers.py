"""What workers do with a shard: tasks tokenise it, actors, which have one model each, encode, pool, project and write it.

A shard comes to an actor as one row and leaves it as one row. An actor says which shard it begins; how that gets a run past a sequence
that ends its worker says `attempts`.
"""

from __future__ import annotations

import contextlib
import functools
import itertools
import os
import time
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any, cast

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import ray
import torch
from botocore.exceptions import BotoCoreError, ClientError

from dnafeat import pins, storage, vectorfiles
from dnafeat.attempts import Attempt
from dnafeat.config import EncodingConfig
from dnafeat.encoder import Encoder
from dnafeat.errors import EncodingError, one_line
from dnafeat.matrices import as_lists
from dnafeat.models.adapter import Source
from dnafeat.observe import Job
from dnafeat.plan import CHECK
from dnafeat.progress import TOKENISING
from dnafeat.schema import arrow_schema
from dnafeat.tables import Table, write_parquet
from dnafeat.tokenizers import Tokenizer
from dnafeat.windows import ARRAYS, Cutting, Windows, cut

PIECE_ROWS = 2048  # encoded and written at a time


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
    job: Job = field(default_factory=Job)
    packages: dict[str, str] = field(default_factory=dict)
    """Versions of the libraries in the driver; a process that has others says so."""


@contextlib.contextmanager
def _stored(uri: str, how: str) -> Iterator[None]:
    """Raises EncodingError, which names the place, where the block cannot reach its storage; s3fs and botocore have tried again by then."""
    try:
        yield
    except (OSError, pa.ArrowException, BotoCoreError, ClientError) as error:
        raise EncodingError(f"{uri} cannot be {how}: {one_line(error)}") from error


@functools.cache
def _tokenizer(config: EncodingConfig, pins: tuple[str | None, str | None]) -> Tokenizer:
    # The library starts a thread for every core unless told not to, in each of the tasks beside the encoders.
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    return Source.find(config, pins).tokenizer(config)


def tokenise_shards(batch: Any, settings: EncoderSettings, progress: ray.actor.ActorHandle) -> Any:
    """Reads shards (an Arrow table with column uri) and adds their windows of token ids: one row in, one row out, arrays as lists."""
    return pa.concat_tables([_tokenised(uri, settings, progress) for uri in batch["uri"].to_pylist()])


def _tokenised(uri: str, settings: EncoderSettings, progress: ray.actor.ActorHandle) -> pa.Table:
    name = TOKENISING + storage.name(uri)
    _begun(name, progress)
    _compare_packages(settings, progress)
    with _stored(uri, "read"):
        fs, path = storage.filesystem(uri)
        with fs.open(path, "rb") as file:
            table = pq.read_table(file)
    letters = table["sequence"].cast(pa.large_string()).to_pylist()
    windows = cut(letters, _tokenizer(settings.config, settings.pins), settings.cutting)
    columns = {
        "digests": table["sequence_digest"].combine_chunks(),
        "bases": pc.binary_length(table["sequence"]).cast(pa.int64()).combine_chunks(),
        **{name: pa.array(getattr(windows, name)) for name in ARRAYS},
    }
    progress.finish.remote(name)
    return pa.table({"uri": [uri], **{name: one_list(column) for name, column in columns.items()}})


def _begun(name: str, progress: ray.actor.ActorHandle) -> Attempt:
    """Says that this process begins something, and waits until that is known, whatever becomes of the process."""
    attempt = cast(Attempt, ray.get(progress.begin.remote(name)))
    if attempt.stop is not None:
        raise EncodingError(attempt.stop)
    return attempt


_compared: set[str] = set()


def _compare_packages(settings: EncoderSettings, progress: ray.actor.ActorHandle) -> None:
    """Notes, once in a process and run, where it has other versions than the driver."""
    if settings.job.run_id in _compared:
        return
    _compared.add(settings.job.run_id)
    if other := pins.differing(settings.packages, pins.installed()):
        node = ray.util.get_node_ip_address()
        progress.note.remote(f"node {node} has other versions than the driver: {', '.join(other)}; install the same on all nodes")


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
    def truncated(self) -> int:
        """Sequences whose end was left out."""
        return int(self.windows.cut.sum())

    @property
    def counts(self) -> dict[str, int]:
        """What a receipt says of its length."""
        windows = self.windows
        counted = {"tokens": int(windows.tokens().sum()), "windowed": int((windows.counts() > 1).sum())}
        return counted | {"truncated": self.truncated}


class Tally:
    """What an actor has computed of a shard: an encoder's `report`, which tells the driver's bar and the meters of it twice a second."""

    def __init__(self, progress: ray.actor.ActorHandle, job: Job) -> None:
        self.computed = 0  # tokens, with padding
        self._progress, self._job = progress, job
        self._sequences = self._tokens = self._counted = 0
        self._last = time.monotonic()

    def __call__(self, sequences: int, tokens: int, with_padding: int) -> None:
        self.computed += with_padding
        self._sequences, self._tokens = self._sequences + sequences, self._tokens + tokens
        if time.monotonic() - self._last > 0.5:
            self.flush()

    def flush(self) -> None:
        self._progress.add.remote(self._sequences, self._tokens)
        self._job.count("dnafeat_sequences", self._sequences)
        self._job.count("dnafeat_tokens", self._tokens)
        self._job.count("dnafeat_computed_tokens", self.computed - self._counted)
        self._sequences, self._tokens, self._counted = 0, 0, self.computed
        self._last = time.monotonic()


class ShardActor(ABC):
    """What an actor over tokenised shards has: the run's encoder, and the run's `Progress`, which it tells how far it is.

    Attributes
    ----------
    encoder : Encoder
    progress : ActorHandle
        Of a `Progress`.
    attempt : Attempt
        At the present shard. An actor that does not heed it ends the run with the shard on which too many processes have died.
    """

    encoder: Encoder
    attempt: Attempt

    def __init__(self, settings: EncoderSettings, threads: int, progress: ray.actor.ActorHandle) -> None:
        self.progress, self.job = progress, settings.job
        # Before the model is loaded, which may end this process.
        stop = cast(str | None, ray.get(progress.start.remote(ray.get_runtime_context().get_actor_id())))
        if stop is not None:
            raise EncodingError(stop)
        _compare_packages(settings, progress)
        torch.set_num_threads(min(threads, os.cpu_count() or 1))
        began = time.monotonic()
        self.encoder = Encoder.load(settings.config, settings.pins)
        self.job.record("encoder loaded", device=str(self.encoder.device), threads=torch.get_num_threads(), seconds=_since(began))
        if self.encoder.version.digest != settings.version:
            raise RuntimeError(
                f"this worker's encoder has feature version {self.encoder.version.digest} and the run was planned for "
                f"{settings.version}: {settings.config.model} is not the same on all nodes"
            )

    def __call__(self, batch: pa.Table) -> pa.Table:
        return pa.concat_tables([self._attempted(Tokenised.of(batch.slice(i, 1))) for i in range(len(batch))])

    def _attempted(self, shard: Tokenised) -> pa.Table:
        name = storage.name(shard.uri)
        self.attempt = _begun(name, self.progress)
        began, halved = time.monotonic(), self.encoder.halved
        row = self.shard(shard)
        self.progress.finish.remote(name)
        sequences, tokens, seconds = len(shard.digests), shard.counts["tokens"], _since(began)
        needed = shard.windows.stop - shard.windows.start + self.encoder.tokenizer.specials
        self.job.count("dnafeat_needed_tokens", int(needed.sum()))
        self.job.count("dnafeat_retries", self.encoder.halved - halved, what="batch")
        self.job.observe("dnafeat_encode_seconds", seconds)
        self.job.record("shard done", shard=name, sequences=sequences, tokens=tokens, seconds=seconds)
        return row

    @abstractmethod
    def shard(self, shard: Tokenised) -> pa.Table:
        """One row for a shard."""


class EncodeShards(ShardActor):
    """Actor: encodes shards and writes each as one file below `features`, a piece of it while the next is encoded.

    A row of it has `receipt`, the JSON of a Receipt or an empty text where no file was written for the store, and `refused`, the digests
    that were left out.
    """

    def __init__(self, settings: EncoderSettings, store: str, run_id: str, threads: int, progress: ray.actor.ActorHandle) -> None:
        super().__init__(settings, threads, progress)
        self.features = Table(store, "features")
        self.run_id, self.version, self.vectors = run_id, settings.version, settings.vectors

    def shard(self, shard: Tokenised) -> pa.Table:
        began, name, tally = time.time(), storage.name(shard.uri), Tally(self.progress, self.job)
        out = pc.is_in(shard.digests, value_set=pa.array(self.attempt.refused, pa.string())).to_numpy(zero_copy_only=False)
        refused = shard.digests.filter(pa.array(out)).to_pylist()
        ranges = row_ranges(len(out), self.attempt.cuts, np.flatnonzero(out).tolist())
        stored = {"sequence_digest", *self.vectors, "bases", "tokens", "windows", "run_id"}
        schema = pa.schema([f for f in arrow_schema("features") if f.name in stored])
        needed = 0

        def encoded() -> Iterator[pa.Table]:
            # Piece by piece, so that memory does not grow with the file.
            for _, piece in itertools.groupby(ranges, key=lambda one: one[0] // PIECE_ROWS):
                yield pa.concat_tables([one_range(first, end) for first, end in piece])
            if self.attempt.careful:
                ray.get(self.progress.leave.remote(name))

        def one_range(first: int, end: int) -> pa.Table:
            nonlocal needed
            if self.attempt.careful:
                ray.get(self.progress.enter.remote(name, first, end, shard.digests[first].as_py()))
            before = tally.computed
            vectors = self.encoder.encode_windows(shard.windows.part(first, end), tally)
            needed += round((tally.computed - before) * (1 - vectors.padding_share))
            columns = {
                "sequence_digest": shard.digests[first:end],
                **{name: as_lists(getattr(vectors, name)) for name in self.vectors},
                "bases": pa.array(shard.bases[first:end]),
                "tokens": pa.array(vectors.tokens),
                "windows": pa.array(vectors.windows),
                "run_id": pa.array([self.run_id] * (end - first)),
            }
            return pa.Table.from_arrays([columns[f.name] for f in schema], schema=schema)

        def about() -> dict[str, Any]:
            truncated = int(shard.windows.cut[~out].sum())
            counts = {"truncated": truncated, "computed": tally.computed, "needed": needed}
            return {"shard": name, **counts, "refused": refused, "began": began, "ended": time.time()}

        receipt = ""
        if name == CHECK:
            # Not a part of the store: the audit compares it with what was written. Another shard tells what is refused.
            refused = []
            with _stored(checked(shard.uri), "written"):
                write_parquet(checked(shard.uri), [pa.concat_tables([schema.empty_table(), *encoded()])])
        elif ranges:
            stem = f"{self.run_id}-{name.removesuffix('.parquet').removeprefix('shard-')}"
            with _stored(self.features.uri, "written"):
                written = vectorfiles.write(self.features, encoded(), stem=stem, version=self.version, about=about)
                receipt = written.to_json()
                self.job.count("dnafeat_written_bytes", written.file.size)
        tally.flush()
        return pa.table({"receipt": [receipt], "refused": pa.array([refused], pa.list_(pa.string()))})


def _since(began: float) -> float:
    return round(time.monotonic() - began, 3)


def checked(uri: str) -> str:
    """Where the vectors of the shard of `plan.cut_check` lie."""
    return uri.removesuffix(".parquet") + "-vectors.parquet"


def row_ranges(rows: int, cuts: Iterable[int], refused: Iterable[int]) -> list[tuple[int, int]]:
    """First and one past the last row of what is encoded at a time: pieces that are cut where asked, without the refused rows."""
    refused = set(refused)
    borders = {*range(0, rows, PIECE_ROWS), rows, *cuts, *refused, *(row + 1 for row in refused)}
    return [(first, end) for first, end in itertools.pairwise(sorted(borders)) if first not in refused]

"""Encode, pool, project and write a tokenised shard: what one worker does, whichever runner made it.

A worker has the run's encoder and says which shard it begins; how that gets a run past a sequence that ends its process is told in
`attempts`.
"""

from __future__ import annotations

import itertools
import time
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch

from dnafeat import storage
from dnafeat.cluster.attempts import Attempt
from dnafeat.cluster.board import Board
from dnafeat.cluster.observe import Job
from dnafeat.embed.plan import CHECK
from dnafeat.embed.tokenise import Tokenised, TokeniserSettings, begun, reached
from dnafeat.encoder import Encoder
from dnafeat.encoder.config import EncodingConfig
from dnafeat.encoder.results import Begun, one_behind
from dnafeat.errors import EncodingError
from dnafeat.parquet import write_parquet
from dnafeat.store import vector_files as vectorfiles
from dnafeat.store.matrices import as_lists
from dnafeat.store.schema import arrow_schema
from dnafeat.store.table import Table

PIECE_ROWS = 2048  # encoded and written at a time


@dataclass(frozen=True, kw_only=True)
class EncoderSettings(TokeniserSettings):
    """What a worker needs to build the run's encoder, and what the tasks before it need."""

    config: EncodingConfig
    """With the precision the driver has resolved."""
    pins: tuple[str | None, str | None]
    """Revisions of model and adapter, so that a worker fetches what the driver has seen, and nothing where it has that already."""
    vectors: tuple[str, ...]
    """Columns to store."""
    version: str
    """Digest the driver planned for; a worker that arrives at another one stops the run."""

    @property
    def of_tokeniser(self) -> TokeniserSettings:
        """The tasks' own, which a process can take that has no torch loaded."""
        return TokeniserSettings(**{one.name: getattr(self, one.name) for one in fields(TokeniserSettings)})


def load_encoder(settings: EncoderSettings, *, gpu: bool) -> Encoder:
    """Load the run's encoder, onto a GPU where the worker has one. Raises RuntimeError where it is not what the run was planned for."""
    began = time.monotonic()
    encoder = Encoder.load(settings.config, settings.pins, gpu=gpu)
    settings.job.record("encoder loaded", device=str(encoder.device), threads=torch.get_num_threads(), seconds=_since(began))
    if encoder.version.digest != settings.version:
        raise RuntimeError(
            f"this worker's encoder has feature version {encoder.version.digest} and the run was planned for {settings.version}: "
            f"{settings.config.model} is not the same on all nodes"
        )
    return encoder


def stopped(cause: str) -> EncodingError:
    """The error of a run whose shards cannot all be encoded, in one sentence."""
    return EncodingError(f"the encoding stopped and nothing was published: {cause}; the same command tries again")


class Tally:
    """What a worker has computed of a shard: an encoder's `report`, which tells the board and the meters of it twice a second.

    The sequences of the audit's sample are not the user's, so that they are not `shown`.
    """

    def __init__(self, board: Board, job: Job, *, shown: bool = True) -> None:
        self.computed = 0  # tokens, with padding
        self._board, self._job, self._shown = board, job, shown
        self._sequences = self._tokens = self._counted = 0
        self._last = time.monotonic()

    def __call__(self, sequences: int, tokens: int, with_padding: int) -> None:
        self.computed += with_padding
        self._sequences, self._tokens = self._sequences + sequences, self._tokens + tokens
        if time.monotonic() - self._last > 0.5:
            self.flush()

    def flush(self) -> None:
        self._board.add(self._sequences if self._shown else 0, self._tokens)
        self._job.count("dnafeat_sequences", self._sequences)
        self._job.count("dnafeat_tokens", self._tokens)
        self._job.count("dnafeat_computed_tokens", self.computed - self._counted)
        self._sequences, self._tokens, self._counted = 0, 0, self.computed
        self._last = time.monotonic()


class ShardWorker(ABC):
    """Work on tokenised shards with the run's encoder, one at a time.

    Attributes
    ----------
    encoder : Encoder
    board : Board
    attempt : Attempt
        At the present shard. A worker that does not heed it ends the run with the shard on which too many processes have died.
    """

    attempt: Attempt

    def __init__(self, encoder: Encoder, settings: EncoderSettings, board: Board) -> None:
        self.encoder, self.board, self.job = encoder, board, settings.job

    def __call__(self, shard: Tokenised) -> pa.Table:
        name = storage.name(shard.uri)
        self.attempt = begun(name, self.board)
        began, halved = time.monotonic(), self.encoder.halved
        row = self.shard(shard)
        self.board.finish(name)
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


class EncodeShards(ShardWorker):
    """Encode shards and write each as one file below `features`, a piece of it while the next is encoded.

    A row of it has `receipt`, the JSON of a Receipt or an empty text where no file was written for the store, and `refused`, the digests
    that were left out.
    """

    def __init__(self, encoder: Encoder, settings: EncoderSettings, board: Board, store: str, run_id: str) -> None:
        super().__init__(encoder, settings, board)
        self.features = Table(store, "features")
        self.run_id, self.version, self.vectors = run_id, settings.version, settings.vectors

    def shard(self, shard: Tokenised) -> pa.Table:
        began, name = time.time(), storage.name(shard.uri)
        tally = Tally(self.board, self.job, shown=name != CHECK)
        out = pc.is_in(shard.digests, value_set=pa.array(self.attempt.refused, pa.string())).to_numpy(zero_copy_only=False)
        refused = shard.digests.filter(pa.array(out)).to_pylist()
        ranges = row_ranges(len(out), self.attempt.cuts, np.flatnonzero(out).tolist())
        stored = {"sequence_digest", *self.vectors, "bases", "tokens", "windows", "run_id"}
        schema = pa.schema([f for f in arrow_schema("features") if f.name in stored])
        needed = 0

        def encoded() -> Iterator[pa.Table]:
            # Piece by piece, so that memory does not grow with the file; on a GPU one is computed while that before it is written.
            pieces = itertools.groupby(ranges, key=lambda one: one[0] // PIECE_ROWS)
            for some in one_behind([begin(first, end) for first, end in piece] for _, piece in pieces):
                yield pa.concat_tables([table(*one) for one in some])
            if self.attempt.careful:
                self.board.leave(name)

        def begin(first: int, end: int) -> tuple[int, int, Begun]:
            if self.attempt.careful:
                self.board.enter(name, first, end, shard.digests[first].as_py())
            begun = self.encoder.begin(shard.windows.part(first, end), tally)
            if self.attempt.careful:
                begun.wait()
            return first, end, begun

        def table(first: int, end: int, begun: Begun) -> pa.Table:
            nonlocal needed
            vectors = begun.vectors()
            needed += vectors.needed
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
            with reached(checked(shard.uri), "written"):
                write_parquet(checked(shard.uri), [pa.concat_tables([schema.empty_table(), *encoded()])])
        elif ranges:
            stem = f"{self.run_id}-{name.removesuffix('.parquet').removeprefix('shard-')}"
            with reached(self.features.uri, "written"):
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

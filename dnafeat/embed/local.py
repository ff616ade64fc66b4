"""The local runner: the shards of a run on this machine's cores, in this process and without Ray.

One thread for each encoder, and torch with one thread in each of them, as in the actors of a cluster: a product cut over all cores waits
for its slowest part after each step, and encoders beside one another never wait. They share one model. A GPU has one encoder, and threads
beside it that tokenise.
"""

from __future__ import annotations

import copy
import itertools
import os
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from typing import Any

import pyarrow as pa
import torch

from dnafeat.cluster.bar import shown
from dnafeat.cluster.board import RunBoard
from dnafeat.embed.plan import Shard, own
from dnafeat.embed.tokenise import Tokenised, tokenise
from dnafeat.embed.worker import EncoderSettings, ShardWorker, load_encoder, stopped
from dnafeat.errors import DnafeatError, one_line

# Shards that wait for an encoder, tokenised: one each keeps all at work.
_TOKENISERS_BESIDE_A_GPU = 4


class _Stopped(Exception):
    """The run has ended while this thread was at work."""


class _LocalBoard(RunBoard):
    """The run's board, which also tells threads at work that the run has ended."""

    def __init__(self, settings: EncoderSettings, shards: int) -> None:
        super().__init__(settings.job, shards)
        self.ended = threading.Event()

    def add(self, sequences: int, tokens: int) -> None:
        if self.ended.is_set():
            raise _Stopped
        super().add(sequences, tokens)


def run_here(
    shards: Sequence[Shard],
    settings: EncoderSettings,
    worker: type[ShardWorker],
    arguments: Sequence[Any],
    *,
    encoders: int,
    gpu: bool = False,
    show: bool,
) -> Iterator[pa.Table]:
    """Tokenise and encode every shard in threads of this process, and yield what the workers return, in the order in which they end.

    A worker is made as `worker(encoder, settings, board, *arguments)`, one for each thread.

    Raises
    ------
    EncodingError
        While iterating: a shard could not be read, encoded or written.
    """
    # The tokenizers' own threads would take the encoders' cores.
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    board = _LocalBoard(settings, len(shards))
    encoder = load_encoder(settings, gpu=gpu)
    on_gpu = encoder.device.type == "cuda"
    encoders = 1 if on_gpu else min(encoders, max(1, len(own(shards))))
    mine, threads = threading.local(), torch.get_num_threads()

    def begin() -> None:
        torch.set_num_threads(1 if encoders > 1 else threads)
        mine.worker = worker(copy.copy(encoder), settings, board, *arguments)

    def encoded(tokenised: Future[Tokenised]) -> pa.Table:
        return mine.worker(tokenised.result())

    total = sum(shard.rows for shard in own(shards))
    tokenisers = _TOKENISERS_BESIDE_A_GPU if on_gpu else 1
    with (
        shown(board.read, total, show, settings.job),
        ThreadPoolExecutor(tokenisers, "tokenise") as before,
        ThreadPoolExecutor(encoders, "encode", initializer=begin) as pool,
    ):
        waiting: set[Future[pa.Table]] = set()
        left = iter(shards)

        def send(count: int) -> None:
            for shard in itertools.islice(left, count):
                waiting.add(pool.submit(encoded, before.submit(tokenise, shard.uri, settings, board)))

        try:
            send(2 * encoders)
            while waiting:
                done, _ = wait(waiting, return_when=FIRST_COMPLETED)
                send(len(done))
                waiting.difference_update(done)
                yield from [future.result() for future in done]
        except Exception as error:
            cause = str(error) if isinstance(error, DnafeatError) else f"{type(error).__name__}: {one_line(error)}"
            raise stopped(cause) from error
        finally:
            # Threads at work stop at their next batch; those that wait never begin.
            board.ended.set()
            pool.shutdown(wait=False, cancel_futures=True)
            before.shutdown(wait=False, cancel_futures=True)
            # Threads take this number from the one that asked for it last.
            torch.set_num_threads(threads)

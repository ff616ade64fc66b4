"""The Ray Data pipeline: shard -> tokenise (tasks) -> encode, pool, project, write (actors, one model each) -> receipts.

One row of the dataset is one work shard from end to end, so that nothing in between can cut or merge it; vectors are written where
they are made and never travel. What happens in the workers stands in `tokenise` and `worker`.
"""

from __future__ import annotations

import contextlib
import math
import os
from collections.abc import Iterator, Sequence
from typing import Any

import pyarrow as pa
import ray
import ray.data
import torch

from dnafeat.cluster import packages
from dnafeat.cluster import session as cluster
from dnafeat.cluster.bar import shown
from dnafeat.cluster.guard import NothingMoves, guarded
from dnafeat.cluster.progress import RayBoard, start
from dnafeat.cluster.watch import LOADING, STALL_SECONDS
from dnafeat.embed.plan import Shard, own
from dnafeat.embed.tokenise import Tokenised, TokeniserSettings, tokenise_shards
from dnafeat.embed.worker import EncoderSettings, ShardWorker, load_encoder, stopped
from dnafeat.errors import DnafeatError, EncodingError, one_line

# What a tokenising task asks for. An actor asks for more or less, never for the same: Ray Data would fuse the two into one operator.
_TASK_CPUS = 0.25
_ACTOR_CPUS = 0.75


def actor_cpus(cpus: float, actors: int) -> float:
    """Share of a CPU for each actor that leaves room for one tokenising task beside them all, however many were asked for."""
    share = max(0.01, math.floor(100 * min(_ACTOR_CPUS, (cpus - _TASK_CPUS) / actors)) / 100)
    return share if share != _TASK_CPUS else share - 0.01


class _Actor:
    """A worker in a process of its own: what Ray Data makes for each place of the pool."""

    def __init__(
        self,
        worker: type[ShardWorker],
        settings: EncoderSettings,
        arguments: Sequence[Any],
        threads: int,
        board: RayBoard,
        gpu: bool,
    ) -> None:
        self._board = board
        board.give_signs(LOADING)
        # Before the model is loaded, which may end this process.
        if (stop := board.start(str(ray.get_runtime_context().get_actor_id()))) is not None:
            board.fail(stop)
            raise EncodingError(stop)
        _compare_packages(settings, board)
        torch.set_num_threads(min(threads, os.cpu_count() or 1))
        with _told(board):
            self._worker = worker(load_encoder(settings, gpu=gpu), settings, board, *arguments)
        board.rest()

    def __call__(self, batch: pa.Table) -> pa.Table:
        with _told(self._board):
            return pa.concat_tables([self._worker(Tokenised.of(batch.slice(i, 1))) for i in range(len(batch))])


def _tokenised(batch: Any, settings: TokeniserSettings, board: RayBoard) -> Any:
    board.give_signs()
    try:
        _compare_packages(settings, board)
        with _told(board):
            return tokenise_shards(batch, settings, board)
    finally:
        board.end_signs()


_compared: set[str] = set()


def _compare_packages(settings: TokeniserSettings, board: RayBoard) -> None:
    """Note, once in a process and run, where it has other versions than the driver."""
    if settings.job.run_id in _compared:
        return
    _compared.add(settings.job.run_id)
    if other := packages.differing(settings.packages, packages.installed()):
        node = ray.util.get_node_ip_address()
        board.note(f"node {node} has other versions than the driver: {', '.join(other)}; install the same on all nodes")


@contextlib.contextmanager
def _told(board: RayBoard) -> Iterator[None]:
    """Leave our own errors on the board, where the driver finds them as they are: what Ray raises for them has all of its own story."""
    try:
        yield
    except DnafeatError as error:
        board.fail(str(error))
        raise


def run_on_ray(
    shards: Sequence[Shard],
    settings: EncoderSettings,
    worker: type[ShardWorker],
    arguments: Sequence[Any],
    *,
    actors: int,
    gpus_per_actor: float,
    accelerator_type: str | None = None,
    stall_seconds: float = STALL_SECONDS,
    show: bool,
) -> Iterator[pa.Table]:
    """Tokenise every shard, send it through a pool of actors, and yield what they return, in the shards' order.

    A worker is made as `worker(encoder, settings, board, *arguments)`. Ray must be running. A process or node that dies has its shards
    done again, which ends where `attempts` says; one that stops or hangs is ended (`watch`).

    Raises
    ------
    EncodingError
        While iterating: the workers failed, or more sequences ended their worker than can be the sequences' doing.
    """
    cluster.quiet()
    actors = min(actors, max(1, len(own(shards))))
    cpus = max(1.0, cluster.most("CPU"))
    threads = max(1, int(cpus) // actors)
    board = start(settings.job, len(shards), stall_seconds)
    items = [{"uri": shard.uri} for shard in shards]
    # Ray names the operator and its processes after the class.
    actor = type(worker.__name__, (_Actor,), {})
    encoded: ray.data.Dataset = (
        ray.data.from_items(items, override_num_blocks=len(items))
        .map_batches(
            _tokenised,  # type: ignore[arg-type]
            fn_kwargs={"settings": settings.of_tokeniser, "board": board},
            batch_size=None,
            batch_format="pyarrow",
            num_cpus=_TASK_CPUS,
        )
        .map_batches(
            actor,
            fn_constructor_args=(worker, settings, arguments, threads, board, gpus_per_actor > 0),
            compute=ray.data.ActorPoolStrategy(size=actors),
            batch_size=1,  # None, which would do as well, is refused together with GPUs
            batch_format="pyarrow",
            num_cpus=actor_cpus(cpus, actors),
            num_gpus=gpus_per_actor or None,
            accelerator_type=accelerator_type,
        )
    )
    # Keep shard order: the plan puts small shards last so that all actors finish together.
    encoded.context.execution_options.preserve_order = True
    encoded.set_name(f"dnafeat {settings.job.name} {settings.job.run_id}")
    total = sum(shard.rows for shard in own(shards))
    with shown(board.read, total, show, settings.job), _explained(board), guarded(board, settings.job):
        yield from encoded.iter_batches(batch_size=None, batch_format="pyarrow", prefetch_batches=0)


@contextlib.contextmanager
def _explained(board: RayBoard) -> Iterator[None]:
    """Turn what Ray raises for a failed job into one sentence that ends in the cause."""
    try:
        yield
    except NothingMoves as error:
        raise stopped(str(error)) from error
    except ray.exceptions.RayError as error:
        cause = board.failure() or (cluster.causes(error) or [one_line(error)])[0]
        raise stopped(cause) from error

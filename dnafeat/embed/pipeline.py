"""The Ray Data pipeline: shard -> tokenise (tasks) -> encode, pool, project, write (actors, one model each) -> receipts.

One row of the dataset is one work shard from end to end, so that nothing in between can cut or merge it; vectors are written where
they are made and never travel. A receipt is a row that says what file a shard became. Other actors make other rows of a shard:
`run_shards` takes their class. What happens in the workers stands in `tokenise` and
`actors`.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import pyarrow as pa
import ray.data

from dnafeat import storage
from dnafeat.cluster import session as cluster
from dnafeat.cluster.progress import shown, start
from dnafeat.embed.actors import EncoderSettings, EncodeShards, ShardActor
from dnafeat.embed.plan import CHECK, Shard
from dnafeat.embed.tokenise import tokenise_shards
from dnafeat.errors import EncodingError, one_line
from dnafeat.store.vector_files import Receipt

# What a tokenising task asks for. An actor asks for more or less, never for the same: Ray Data would fuse the two into one operator.
_TASK_CPUS = 0.25
_ACTOR_CPUS = 0.75


def actor_cpus(cpus: float, actors: int) -> float:
    """Share of a CPU for each actor that leaves room for one tokenising task beside them all, however many were asked for."""
    share = max(0.01, math.floor(100 * min(_ACTOR_CPUS, (cpus - _TASK_CPUS) / actors)) / 100)
    return share if share != _TASK_CPUS else share - 0.01


class Receipts:
    """The receipts of a run's shards in their order, as they come; to be iterated over once.

    Attributes
    ----------
    refused : list of str
        Digests of sequences that ended every worker process that encoded them, and that no file holds; all of them once the last
        receipt has come. A shard of which nothing else is left has no receipt.
    """

    def __init__(self, rows: Iterable[pa.Table]) -> None:
        self.refused: list[str] = []
        self._rows = rows

    def __iter__(self) -> Iterator[Receipt]:
        for batch in self._rows:
            self.refused += batch["refused"].combine_chunks().flatten().to_pylist()
            yield from (Receipt.from_json(text) for text in batch["receipt"].to_pylist() if text)


def encode_shards(
    shards: Sequence[Shard],
    settings: EncoderSettings,
    *,
    store: str,
    run_id: str,
    actors: int,
    gpus_per_actor: float,
    accelerator_type: str | None = None,
    show: bool,
) -> Receipts:
    """Encodes and writes every shard while the receipts are iterated over.

    A file that a dying worker left behind has another name and no receipt. The shard of `plan.cut_check` has none either.

    Raises
    ------
    EncodingError
        While iterating: the workers failed, or more sequences ended their worker than can be the sequences' doing.
    """
    rows = run_shards(
        shards,
        settings,
        EncodeShards,
        (store, run_id),
        actors=actors,
        gpus_per_actor=gpus_per_actor,
        accelerator_type=accelerator_type,
        show=show,
    )
    return Receipts(rows)


def run_shards(
    shards: Sequence[Shard],
    settings: EncoderSettings,
    actor: type[ShardActor],
    arguments: Sequence[Any],
    *,
    actors: int,
    gpus_per_actor: float,
    accelerator_type: str | None = None,
    show: bool,
) -> Iterator[pa.Table]:
    """Tokenises every shard, sends it through a pool of actors, and yields what they return, in the shards' order.

    An actor is made as `actor(settings, *arguments, threads, progress)`. Ray must be running. A worker or node that dies has its
    shards done again, which ends where `attempts` says.
    """
    cluster.quiet()
    actors = min(actors, max(1, sum(storage.name(shard.uri) != CHECK for shard in shards)))
    cpus = max(1.0, cluster.most("CPU"))
    threads = max(1, int(cpus) // actors)
    progress = start(settings.job, len(shards))
    items = [{"uri": shard.uri} for shard in shards]
    encoded: ray.data.Dataset = (
        ray.data.from_items(items, override_num_blocks=len(items))
        .map_batches(
            tokenise_shards,  # type: ignore[arg-type]
            fn_kwargs={"settings": settings.of_tokeniser, "progress": progress},
            batch_size=None,
            batch_format="pyarrow",
            num_cpus=_TASK_CPUS,
        )
        .map_batches(
            actor,
            fn_constructor_args=(settings, *arguments, threads, progress),
            compute=ray.data.ActorPoolStrategy(size=actors),
            batch_size=1,  # None, which would do as well, is refused together with GPUs
            batch_format="pyarrow",
            num_cpus=actor_cpus(cpus, actors),
            num_gpus=gpus_per_actor or None,
            accelerator_type=accelerator_type,
        )
    )
    # The last shards are the small ones, and a task whose process starts late must not make a large one of them the last.
    encoded.context.execution_options.preserve_order = True
    encoded.set_name(f"dnafeat {settings.job.name} {settings.job.run_id}")
    with shown(progress, sum(shard.rows for shard in shards), show, settings.job), _explained():
        yield from encoded.iter_batches(batch_size=None, batch_format="pyarrow", prefetch_batches=0)


@contextlib.contextmanager
def _explained() -> Iterator[None]:
    """Turns what Ray raises for a failed job into one sentence that ends in the cause."""
    try:
        yield
    except ray.exceptions.RayError as error:
        # Ours says more than what it was raised from, and needs no name.
        found = cluster.causes(error)
        own = [cause.partition(": ")[2] for cause in found if cause.startswith("dnafeat.errors.")]
        cause = (own or found or [one_line(error)])[0]
        raise EncodingError(f"the encoding stopped and nothing was published: {cause}; the same command tries again") from error

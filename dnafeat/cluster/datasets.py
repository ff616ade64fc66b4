"""The steps of a join on Ray Data: one row of a dataset for each part, as many at once as there are CPUs, receipts alone coming back.

What the parts hold goes from task to task over files (`spill`), never through the object store, so that memory does not grow with it.
"""

from __future__ import annotations

import pickle
from collections.abc import Callable, Sequence
from typing import Any, cast

import pyarrow as pa
import ray.data

from dnafeat.cluster import session as cluster
from dnafeat.cluster.counter import counter
from dnafeat.cluster.observe import Job, told_in_records
from dnafeat.cluster.spread import Each, Item, Result
from dnafeat.errors import DnafeatError, EncodingError, one_line

# Workers of a part that may die. Ray Data has no such limit, and what it can be told of retries goes in Ray 2.64.
_ATTEMPTS = 6


def _called(batch: pa.Table, function: ray.ObjectRef, items: ray.ObjectRef) -> pa.Table:
    """What a part gives, pickled; an error of ours as it is, since Ray would tell it with all of its own."""
    at = batch["item"][0].as_py()
    if ray.get_runtime_context().worker.core_worker.get_current_task_attempt_number() >= _ATTEMPTS:
        raise EncodingError(f"part {at} ended {_ATTEMPTS} workers, so it may be short of memory")
    # Its arrays lie in the object store, once for all tasks of a node.
    call, parts = ray.get([function, items])
    try:
        found: Any = call(parts[at])
    except DnafeatError as error:
        found = error
    # What Arrow keeps for later would add up over parts of many sizes.
    pa.default_memory_pool().release_unused()
    return pa.table({"item": [at], "found": pa.array([pickle.dumps(found)], pa.large_binary())})


def over_data(job: Job, show: bool) -> Each:
    """`Each` over datasets of the Ray that runs, named after the job; with `show` a bar on standard error counts parts, or a record tells
    of a step that is done.

    A task whose worker or node dies is done again: what a function writes must have a name of its own each time.
    """

    def each(function: Callable[[Item], Result], items: Sequence[Item], what: str) -> list[Result]:
        if not items:
            return []
        cluster.quiet()
        shared = ray.put(function), ray.put(items)
        parts: ray.data.Dataset = ray.data.from_items(
            [{"item": i} for i in range(len(items))], override_num_blocks=len(items)
        ).map_batches(
            _called,  # type: ignore[arg-type]
            fn_args=shared,
            batch_size=None,
            batch_format="pyarrow",
            num_cpus=1,
        )
        parts.set_name(f"dnafeat {job.name} {job.run_id}: {what}")
        found: dict[int, Result] = {}
        hidden = not show or told_in_records()
        try:
            with counter(total=len(items), desc=what, unit="parts", disable=hidden) as bar:
                for batch in parts.iter_batches(batch_size=None, batch_format="pyarrow", prefetch_batches=0):
                    for row in cast(pa.Table, batch).to_pylist():
                        found[row["item"]] = result = pickle.loads(row["found"])
                        if isinstance(result, DnafeatError):
                            raise result
                        bar.update()
        except ray.exceptions.RayError as error:
            told = ([cause.partition(": ")[2] for cause in cluster.causes(error)] or [one_line(error)])[0]
            raise EncodingError(f"{what} stopped and nothing was published: {told}; the same command tries again") from error
        job.record(f"{what} is done", parts=len(items))
        return [found[i] for i in range(len(items))]

    return each

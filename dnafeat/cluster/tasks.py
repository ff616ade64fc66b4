"""The steps of a plan as Ray tasks: one CPU for each part, on whatever node has one, as many at once as there are."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from typing import Any

import ray

from dnafeat.cluster.counter import counter
from dnafeat.cluster.observe import told_in_records
from dnafeat.cluster.session import most
from dnafeat.cluster.spread import Each, Item, Result
from dnafeat.errors import EncodingError, one_line

# Tasks of a step that are there at once, at the least.
_AT_LEAST = 16


def _called(function: Callable[[Any], Any], item: Any) -> Any:
    return function(item)


def over_tasks(show: bool) -> Each:
    """`Each` over tasks of the Ray that runs; with `show` a bar on standard error counts them.

    A task whose worker or node dies is sent again, so that a function may be called several times for an item, even at the same time:
    what it writes must have a name of its own each time. What a function raises is raised here as it was there, once no task of the
    step runs any more: none writes what nobody would take away.
    """
    # What a part may do is bounded by its size, so that a death is the machine's and not the part's; memory that runs out again and
    # again ends it.
    task = ray.remote(num_cpus=1, max_retries=5, scheduling_strategy="SPREAD")(_called)

    def each(function: Callable[[Item], Result], items: Sequence[Item], what: str) -> list[Result]:
        shared, numbered = ray.put(function), iter(enumerate(items))
        # So many that a cluster has reason to grow, and few to wait for where one fails: a task that is cancelled as it ends takes Ray
        # 2.60's driver with it (a failed check in task_manager.cc), so that none is.
        room = max(_AT_LEAST, 2 * int(most("CPU")))
        waiting: dict[ray.ObjectRef, int] = {}
        found: dict[int, Result] = {}

        def send(count: int) -> None:
            waiting.update({task.options(name=what).remote(shared, item): i for i, item in itertools.islice(numbered, count)})

        hidden = not show or told_in_records()
        with counter(total=len(items), desc=what, unit="parts", disable=hidden) as bar:
            try:
                send(room)
                while waiting:
                    for done in ray.wait(list(waiting), timeout=None)[0]:
                        found[waiting.pop(done)] = ray.get(done)
                        send(1)
                        bar.update()
            except ray.exceptions.RayError as error:
                ray.wait(list(waiting), num_returns=len(waiting))
                if isinstance(error, ray.exceptions.RayTaskError):
                    raise error.cause from None
                raise EncodingError(
                    f"{what} stopped and nothing was published: {one_line(error)}; the same command tries again"
                ) from error
        return [found[i] for i in range(len(items))]

    return each

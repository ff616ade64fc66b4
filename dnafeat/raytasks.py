"""The steps of a plan as Ray tasks: one CPU for each part, on whatever node has one, as many at once as there are."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import ray
from tqdm import tqdm

from dnafeat.errors import EncodingError, one_line
from dnafeat.progress import interval
from dnafeat.spread import Each, Item, Result


def _called(function: Callable[[Any], Any], item: Any) -> Any:
    return function(item)


def over_tasks(show: bool) -> Each:
    """`Each` over tasks of the Ray that runs; with `show` a bar on standard error counts them.

    A task whose worker or node dies is sent again, so that a function may be called several times for an item, even at the same time:
    what it writes must have a name of its own each time. What a function raises is raised here as it was there.
    """
    # What a part may do is bounded by its size, so that a death is the machine's and not the part's; memory that runs out again and
    # again ends it.
    task = ray.remote(num_cpus=1, max_retries=5, scheduling_strategy="SPREAD")(_called)

    def each(function: Callable[[Item], Result], items: Sequence[Item], what: str) -> list[Result]:
        shared = ray.put(function)
        waiting = {task.options(name=what).remote(shared, item): i for i, item in enumerate(items)}
        found: dict[int, Result] = {}
        with tqdm(total=len(items), desc=what, unit=" parts", mininterval=interval(), disable=not show) as bar:
            try:
                while waiting:
                    for done in ray.wait(list(waiting), timeout=None)[0]:
                        found[waiting.pop(done)] = ray.get(done)
                        bar.update()
            except ray.exceptions.RayTaskError as error:
                raise error.cause from None
            except ray.exceptions.RayError as error:
                raise EncodingError(
                    f"{what} stopped and nothing was published: {one_line(error)}; the same command tries again"
                ) from error
            finally:
                for ref in waiting:
                    ray.cancel(ref, force=False)
        return [found[i] for i in range(len(items))]

    return each

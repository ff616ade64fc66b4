"""Ray in the tests' own processes: one that all tests of a pytest worker share, and others for the few that need settings of their own.

`start_ray` and `stop_ray` let a Ray be that runs already, so whatever a test calls uses the shared one.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import ray


def shared() -> None:
    """Start Ray with two CPUs unless it runs. Its workers keep the environment that this process has at the start."""
    if not ray.is_initialized():
        _start()


@contextlib.contextmanager
def own(**settings: Any) -> Iterator[None]:
    """A block with a Ray of its own: other resources, or workers with another environment. The shared one is stopped before."""
    ray.shutdown()
    _start(**settings)
    try:
        yield
    finally:
        ray.shutdown()


def _start(**settings: Any) -> None:
    # Two CPUs whatever the machine has, and a little more than the smallest object store that Ray accepts.
    ray.init(
        address="local",
        num_cpus=2,
        include_dashboard=False,
        object_store_memory=128 * 2**20,
        log_to_driver=False,
        **settings,
    )

"""Ray in the tests: one of a pytest worker, to which a test connects as a job of its own, and others for the few that need settings.

`start_ray` and `stop_ray` let a Ray be that this process is connected to, so whatever a test calls uses the one given here. Where none is
given, the process is connected to none, and `--runner auto` chooses as for a user.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import ray
from ray.cluster_utils import Cluster

# Two CPUs whatever the machine has, and a little more than the smallest object store that Ray accepts.
_SMALL: dict[str, Any] = {"num_cpus": 2, "include_dashboard": False, "object_store_memory": 128 * 2**20}


@contextlib.contextmanager
def shared(**settings: Any) -> Iterator[str]:
    """The address of a Ray in processes of its own, whose workers keep the environment that this process has now."""
    cluster = Cluster()
    try:
        try:
            cluster.add_node(**{**_SMALL, **settings})
        except Exception:
            # Ray waits half a minute for a node to answer, and two workers of pytest may start theirs on a busy machine.
            cluster.shutdown()
            cluster = Cluster()
            cluster.add_node(**{**_SMALL, **settings})
        yield cluster.address
    finally:
        # Ray refuses to end a node that this process is still connected to.
        ray.shutdown()
        cluster.shutdown()


@contextlib.contextmanager
def connected(address: str) -> Iterator[None]:
    """A block as one job. The actors and workers that it leaves end with it. Within such a block nothing changes."""
    if ray.is_initialized():
        yield
        return
    ray.init(address=address, log_to_driver=False)
    try:
        yield
    finally:
        ray.shutdown()


@contextlib.contextmanager
def own(**settings: Any) -> Iterator[None]:
    """A block with a Ray of its own: other resources, or workers with another environment.

    Its processes are its own, too: after one that `ray.init` starts, Ray Data waits for ever on the shared one.
    """
    with shared(**settings) as address, connected(address):
        yield

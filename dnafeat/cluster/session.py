"""The Ray that a job runs on, what it has, and what it could have."""

from __future__ import annotations

import logging
import os
import re
from pathlib import Path

import ray.data
import yaml

from dnafeat.cluster import observe, raylet, starting
from dnafeat.cluster import packages as pins
from dnafeat.cluster.bar import say
from dnafeat.cluster.config import on_cluster as on_cluster
from dnafeat.cluster.observe import Job
from dnafeat.errors import UsageError

_ours = False  # whether this process's Ray was started here
_raylet: raylet.RayletWatch | None = None
# Sequences that make up for the minutes until a node of the cloud is there.
_WORTH_A_NODE = 100_000
# More processes than that on a CPU are of no use, and each has a model in memory.
_ACTORS_PER_CPU = 16
# `ray up` leaves it on the head, where drivers run.
_LAUNCHED = Path("~/ray_bootstrap_config.yaml")


def start_ray() -> None:
    """Connect to the cluster that RAY_ADDRESS names, or start Ray on this machine for this process alone.

    Raises
    ------
    ClusterError
        Nobody answers there, or Ray does not start here.
    """
    global _ours, _raylet
    if ray.is_initialized():
        return
    _ours = True
    if on_cluster():
        starting.connect(os.environ["RAY_ADDRESS"])
        if not observe.told_in_records():
            # Somebody sits at this terminal and looks at a bar.
            for handler in logging.getLogger().handlers:
                handler.setLevel(logging.WARNING)
        if other := pins.differing(pins.constraints(), pins.installed()):
            say(
                f"the driver's node has other versions than constraints.txt: {', '.join(other)}; install those on all nodes",
                Job(),
            )
    else:
        starting.start_here()
    _raylet = raylet.watch()


def only_here() -> bool:
    """Whether `start_ray` started Ray on this machine alone, so that all workers see its disk."""
    return _ours and not on_cluster()


def stop_ray() -> None:
    """Leaves the Ray that `start_ray` connected to or started; one that was there before is let be."""
    global _ours, _raylet
    if _raylet is not None:
        _raylet.stop()
        _raylet = None
    if _ours:
        ray.shutdown()
        _ours = False


def quiet() -> None:
    """Leaves it to us to tell of datasets: a sentence says what ends a job, and Ray's own account goes to its log file alone."""
    log = logging.getLogger("ray.data")
    log.setLevel(logging.ERROR)
    for handler in log.handlers:
        if handler.name == "console":
            handler.setLevel(logging.CRITICAL + 1)
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    context.enable_operator_progress_bars = False


def causes(error: Exception) -> list[str]:
    """The exceptions that Ray's whole story of a failure names, in a line each, the first first; its own are left out."""
    return re.findall(r"^(?!ray\.)[\w.]*(?:Error|Exception|Interrupt): .+$", str(error), re.MULTILINE)


def most(resource: str) -> float:
    """What the cluster has of a resource, or could start of it as far as that can be known."""
    return float(max(ray.cluster_resources().get(resource, 0), _could(resource)))


def _could(resource: str) -> float:
    """What the cluster launcher's autoscaler could start of a resource: 0 away from its head, and on Kubernetes, where it keeps no file."""
    # Ray's services do not tell it: what `get_max_resources_from_cluster_config` asks for, no open part of Ray 2.60 puts there.
    try:
        config = yaml.safe_load(_LAUNCHED.expanduser().read_text())
        types = [one for name, one in config["available_node_types"].items() if name != config.get("head_node_type")]
        amounts = [(one["resources"].get(resource, 0), one.get("max_workers", 0)) for one in types]
        nodes = int(config.get("max_workers", sum(count for _, count in amounts)))
    except (OSError, yaml.YAMLError, KeyError, TypeError, AttributeError):
        return 0.0
    found = 0.0
    for amount, count in sorted(amounts, reverse=True):
        found += amount * min(count, nodes)
        nodes -= min(count, nodes)
    return found


def default_cpus(workers: int) -> int:
    """CPUs for each of some training workers: all that there are, shared out, but not more than one node has."""
    nodes = [node["Resources"].get("CPU", 0) for node in ray.nodes() if node["Alive"]]
    return max(1, int(min(most("CPU") // workers, max(nodes, default=1))))


def default_gpus() -> float:
    """GPUs an actor should hold: one where the cluster has any, or could start any."""
    return 1.0 if most("GPU") else 0.0


def gpus(per_actor: float | None, kind: str | None) -> float:
    """GPUs an actor should hold: those that were asked for, or `default_gpus`.

    Raises UsageError for more than this machine has, where no cluster could start more, and for a kind of GPU and none to hold.
    """
    found = default_gpus() if per_actor is None else per_actor
    here = most("GPU")
    if found > here and not on_cluster():
        raise UsageError(
            f"gpus_per_actor is {found:g}, and this machine has {here:g} GPUs: ask for fewer, or set RAY_ADDRESS to a cluster that has them"
        )
    if found > here:
        say(f"an actor is to hold {found:g} GPUs, and the cluster has {here:g}: the run waits until some are added", Job())
    if kind and not found:
        raise UsageError(
            f"accelerator_type {kind} is asked for, and actors would run on CPUs: leave it out, or say with gpus_per_actor how many GPUs "
            f"an actor holds"
        )
    return found


def fitting_actors(actors: int, gpus_per_actor: float) -> int:
    """Of so many actors those that this machine can hold at once; a cluster may grow."""
    if on_cluster():
        return actors
    room = most("GPU") / gpus_per_actor if gpus_per_actor else most("CPU") * _ACTORS_PER_CPU
    return max(1, min(actors, int(room + 1e-9)))


def default_actors(gpus_per_actor: float, sequences: int) -> int:
    """Encoders for so many sequences: as many as the cluster's GPUs hold at once, or one for each CPU where they run on CPUs.

    Those for which a node would have to be started must have enough to do to make up for its start.
    """
    resource, share = ("GPU", gpus_per_actor) if gpus_per_actor else ("CPU", 1.0)
    present, could = (int(amount / share) for amount in (ray.cluster_resources().get(resource, 0), most(resource)))
    return max(1, present, min(could, sequences // _WORTH_A_NODE))

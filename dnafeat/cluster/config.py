"""Settings of the actors that encode or predict, and whether a cluster is named. Imports no Ray."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Literal

from dnafeat.cluster.watch import STALL_SECONDS
from dnafeat.settings import Settings, option


@dataclass(frozen=True, kw_only=True)
class ActorsConfig(Settings, section="workers"):
    """Where sequences are encoded, by how many actors, and what each holds. None of it changes a result beyond rounding."""

    runner: Literal["auto", "local", "ray"] = option(
        "where to encode; local: on this machine without Ray; auto: ray with a cluster, several GPUs or enough work", "auto"
    )
    num_actors: int | None = option("actors that encode or predict (default: one per GPU, or one per CPU)", None, ge=1)
    gpus_per_actor: float | None = option(
        "GPUs that each actor holds; 0: use CPUs (default: 1 if the cluster has GPUs)", None, ge=0
    )
    accelerator_type: str | None = option(
        "GPU type that the node of an actor must have, as Ray names it, such as L4 or A100 (default: any)", None
    )
    stall_seconds: float = option(
        "seconds without progress after which Ray's worker process is ended and its shard begun again; without any sign of life a fifth",
        STALL_SECONDS,
        ge=10,
    )


def on_cluster() -> bool:
    """Whether RAY_ADDRESS names a cluster."""
    return bool(os.environ.get("RAY_ADDRESS"))

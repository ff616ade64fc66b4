"""Where a run's shards are encoded: in this process, or on Ray. Both write the same files and return the same rows."""

from __future__ import annotations

import importlib.util
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import pyarrow as pa

from dnafeat.cluster.config import ActorsConfig, on_cluster
from dnafeat.embed.plan import Shard
from dnafeat.encoder.models.tokenizers import Tokenizer
from dnafeat.encoder.windows import Cutting, cut
from dnafeat.errors import UsageError
from dnafeat.spill import Spill

if TYPE_CHECKING:
    from dnafeat.embed.worker import EncoderSettings, ShardWorker

# From the command to the first batch on a Ray that has to be started, measured on two cores.
RAY_START_SECONDS = 12.0
# Ray is started where that is less than this share of the whole.
_START_SHARE = 0.1
# What an encoder computes in a second, to foresee how long a run takes: measured on two cores with AVX2, and on an H100 in bfloat16.
_CORE_FLOPS, _GPU_FLOPS = 6e10, 2e14
# Sequences that are tokenised to foresee how many tokens there are.
_SAMPLE = 64


class Runner(Protocol):
    """Encodes shards somewhere.

    Attributes
    ----------
    name : str
        `local` or `ray`.
    reason : str
        Why this one, in a few words.
    workers : int
        Encoders at work at once, for the plan's shards.
    gpu : bool
        Whether they have GPUs.
    """

    @property
    def name(self) -> str: ...

    @property
    def reason(self) -> str: ...

    @property
    def workers(self) -> int: ...

    @property
    def gpu(self) -> bool: ...

    def run(
        self, shards: Sequence[Shard], settings: EncoderSettings, worker: type[ShardWorker], arguments: Sequence[Any] = ()
    ) -> Iterator[pa.Table]:
        """Yield a row for each shard, made by workers `worker(encoder, settings, board, *arguments)`.

        Raises EncodingError, while iterating, where a shard cannot be encoded.
        """


@dataclass(frozen=True)
class LocalRunner:
    """Threads of this process."""

    reason: str
    workers: int
    gpu: bool
    show: bool
    name: str = "local"

    def run(
        self, shards: Sequence[Shard], settings: EncoderSettings, worker: type[ShardWorker], arguments: Sequence[Any] = ()
    ) -> Iterator[pa.Table]:
        from dnafeat.embed.local import run_here

        return run_here(shards, settings, worker, arguments, encoders=self.workers, gpu=self.gpu, show=self.show)


@dataclass(frozen=True)
class RayRunner:
    """Actors of the Ray that runs."""

    reason: str
    workers: int
    show: bool
    gpus_per_actor: float
    accelerator_type: str | None
    stall_seconds: float
    name: str = "ray"

    @property
    def gpu(self) -> bool:
        return self.gpus_per_actor > 0

    def run(
        self, shards: Sequence[Shard], settings: EncoderSettings, worker: type[ShardWorker], arguments: Sequence[Any] = ()
    ) -> Iterator[pa.Table]:
        from dnafeat.embed.pipeline import run_on_ray

        return run_on_ray(
            shards,
            settings,
            worker,
            arguments,
            actors=self.workers,
            gpus_per_actor=self.gpus_per_actor,
            accelerator_type=self.accelerator_type,
            stall_seconds=self.stall_seconds,
            show=self.show,
        )


def expected_flops(architecture: Mapping[str, Any], sequences: Spill, tokenizer: Tokenizer, cutting: Cutting) -> float:
    """Operations that encoding some sequences takes in matrix products, as far as the tokens of a few of them tell."""
    first = next((batch for batch in sequences.every_batch() if len(batch)), None)
    if first is None:
        return 0.0
    letters = first.slice(0, _SAMPLE)["sequence"].cast(pa.large_string()).to_pylist()
    windows = cut(letters, tokenizer, cutting)
    tokens = float((windows.stop - windows.start).sum()) / len(letters) * sequences.rows
    # The four projections of attention, and the layers behind it, which are gated in DNABERT-2.
    width, layers = architecture["hidden_size"], architecture["num_hidden_layers"]
    inner = architecture.get("intermediate_size", 4 * width)
    return 2.0 * layers * (4 * width * width + 3 * width * inner) * tokens


def prefers_ray(config: ActorsConfig) -> str | None:
    """Why Ray is taken whatever there is to do, or None. Looks at no GPU, so that torch is not loaded for it."""
    if config.runner == "ray":
        return "asked for"
    if config.runner == "local":
        return None
    if on_cluster():
        return "RAY_ADDRESS names a cluster"
    if "ray" in sys.modules and sys.modules["ray"].is_initialized():
        return "this process is connected to one"
    if config.accelerator_type is not None:
        return "a kind of GPU is asked for"
    return None


def decide(config: ActorsConfig, *, seconds: float, gpus: int, kept_out: bool = False) -> tuple[str, str]:
    """`local` or `ray` for an encoding on this machine, and why.

    Parameters
    ----------
    config : ActorsConfig
    seconds : float
        That the encoding is expected to take.
    gpus : int
        That it can use here.
    kept_out : bool
        Whether there are GPUs that it must not use.
    """
    about = f"about {seconds:,.0f} s of encoding" if seconds >= 1 else "less than a second of encoding"
    if config.runner == "local":
        return "local", "asked for"
    if importlib.util.find_spec("ray") is None:
        return "local", "Ray is not installed"
    if kept_out:
        return "ray", "keeps the GPU out of it"
    if gpus > 1:
        return "ray", f"{gpus} GPUs"
    if _START_SHARE * seconds > RAY_START_SECONDS:
        return "ray", f"{about}, and starting Ray takes {RAY_START_SECONDS:.0f} s"
    return "local", f"{about}, and starting Ray takes {RAY_START_SECONDS:.0f} s"


def choose(config: ActorsConfig, *, sequences: int, flops: float, cpu_only: bool, show: bool) -> Runner:
    """Choose where to encode.

    Parameters
    ----------
    config : ActorsConfig
    sequences : int
        Distinct ones to encode.
    flops : float
        Estimated operations of all of them.
    cpu_only : bool
        Whether the precision is one for CPUs alone.
    show : bool
        Whether to draw progress.

    Raises
    ------
    UsageError
        The settings name GPUs that are not there.
    """
    if (reason := prefers_ray(config)) is not None:
        return _on_ray(config, reason, sequences, cpu_only, show)
    there = 0 if cpu_only else _gpus()
    if config.gpus_per_actor and not there:
        raise UsageError(
            f"gpus_per_actor is {config.gpus_per_actor:g}, and this machine has no GPU: leave it out to encode on CPUs, or set "
            f"RAY_ADDRESS to a cluster that has some"
        )
    gpus = 0 if config.gpus_per_actor == 0 else there
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    seconds = flops / (_GPU_FLOPS if gpus else _CORE_FLOPS * cores)
    name, reason = decide(config, seconds=seconds, gpus=gpus, kept_out=there > gpus)
    if name == "ray":
        return _on_ray(config, reason, sequences, cpu_only, show)
    return LocalRunner(reason, workers=1 if gpus else config.num_actors or cores, gpu=gpus > 0, show=show)


def _gpus() -> int:
    import torch

    return torch.cuda.device_count() if torch.cuda.is_available() else 0


def _on_ray(config: ActorsConfig, reason: str, sequences: int, cpu_only: bool, show: bool) -> RayRunner:
    from dnafeat.cluster import session

    session.start_ray()
    gpus = session.gpus(0 if cpu_only else config.gpus_per_actor, config.accelerator_type)
    actors = session.fitting_actors(config.num_actors or session.default_actors(gpus, sequences), gpus)
    return RayRunner(reason, actors, show, gpus, config.accelerator_type, config.stall_seconds)

"""A run of workers on Ray Train, from its start or its last checkpoint to its last one. All that trains takes this way."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import ray
from ray import train
from ray.train.torch import TorchTrainer
from torch import Tensor

from dnafeat import storage
from dnafeat.cluster.observe import Job
from dnafeat.cluster.progress import Steps, steps_shown
from dnafeat.cluster.session import causes, default_cpus, default_gpus, start_ray
from dnafeat.errors import EncodingError, UsageError, one_line
from dnafeat.training.checkpoints import finished
from dnafeat.training.config import WorkersConfig


def fit(
    worker: Callable[[dict[str, Any]], None],
    job: Mapping[str, Any],
    data: Any,
    config: WorkersConfig,
    *,
    batch_size: int,
    name: str,
    output: str,
    told: str,
    show: bool,
    say: Callable[[str], None],
) -> tuple[Mapping[str, Tensor], dict[str, Any]]:
    """The trained tensors and the results that the last checkpoint of a run holds.

    Parameters
    ----------
    worker : function
        What Ray Train runs in every worker.
    job : mapping
        What it is called with, besides `data` (a reference to it), `progress`, `threads` and `events`.
    name : str
        Of the run, `KIND-DIGEST`: one of the same name goes on where it ended.
    output : str
        Absolute URI; checkpoints lie beside it unless the settings say where.
    told : str
        What is trained on, in words.

    Raises
    ------
    UsageError
        This machine has fewer CPUs than the workers hold.
    EncodingError
        The workers failed more often than they may; the same command goes on from the last checkpoint.
    """
    start_ray()
    gpus = config.gpus_per_worker if config.gpus_per_worker is not None else default_gpus()
    cpus = config.cpus_per_worker or default_cpus(config.num_workers)
    fewest, have = config.min_workers or config.num_workers, ray.cluster_resources().get("CPU", 0)
    # A cluster may grow, a machine does not: Ray would wait for ever.
    if fewest * cpus > have and not os.environ.get("RAY_ADDRESS"):
        raise UsageError(
            f"{fewest} workers with {cpus} CPU{'s' * (cpus > 1)} each are more than the {have:g} CPUs of this machine hold: "
            "give fewer --num-workers"
        )
    place = storage.absolute(config.storage) if config.storage else f"{output}.runs"
    workers: Any = (config.min_workers, config.num_workers) if config.min_workers else config.num_workers
    say(
        f"run {name}: {told}, {config.num_workers} worker(s) on {'GPU' if gpus else 'CPU'}, batches of "
        f"{batch_size}; checkpoints in {place}"
    )
    progress = Steps.remote()  # type: ignore[attr-defined]
    trainer = TorchTrainer(
        worker,
        train_loop_config={
            **job,
            "data": ray.put(data),
            "progress": progress,
            "threads": cpus,
            "events": storage.join(place, name, "tensorboard") if storage.is_local(place) else None,
        },
        scaling_config=train.ScalingConfig(
            num_workers=workers, use_gpu=bool(gpus), resources_per_worker={"CPU": cpus} | ({"GPU": gpus} if gpus else {})
        ),
        run_config=train.RunConfig(
            name=name,
            storage_path=place,
            checkpoint_config=train.CheckpointConfig(num_to_keep=2),
            failure_config=train.FailureConfig(max_failures=config.max_failures),
        ),
    )
    with steps_shown(progress, show, Job(name=name.partition("-")[0], run_id=name)), last_checkpoint(trainer) as folder:
        return finished(folder)


@contextlib.contextmanager
def last_checkpoint(trainer: TorchTrainer) -> Iterator[Path]:
    """Runs a trainer to its end; what its last checkpoint holds, while the block lasts.

    Raises EncodingError for a run that failed, or left no checkpoint.
    """
    name = trainer.run_config.name
    try:
        outcome = trainer.fit()
    except train.TrainingFailedError as error:
        raise EncodingError(
            f"run {name} failed, and the same command goes on from its last checkpoint: {cause(error)}"
        ) from error
    if outcome.checkpoint is None:
        raise EncodingError(f"run {name} ended without a checkpoint in {trainer.run_config.storage_path}")
    with outcome.checkpoint.as_directory() as folder:
        yield Path(folder)


def cause(error: Exception) -> str:
    """What a failed run failed of, in a few words."""
    story = str(error)
    if "actor died" in story or "health check" in story:
        return "a worker process died, killed or out of memory"
    told = causes(error)
    # Workers that wait for a failed one say that its connection was closed.
    return next((line for line in told if "gloo" not in line and "NCCL" not in line), told[0] if told else one_line(error))

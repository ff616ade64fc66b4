"""Workers of a training run on Ray Train, from the run's start or its last checkpoint to its end."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import ray
import ray.train.torch
import torch
from ray import train
from ray.train.torch import TorchTrainer

from dnafeat import storage
from dnafeat.cluster.bar import say, steps_shown
from dnafeat.cluster.observe import Job
from dnafeat.cluster.progress import Steps, steps_of
from dnafeat.cluster.session import causes, default_cpus, default_gpus, most, on_cluster, start_ray
from dnafeat.errors import EncodingError, UsageError, one_line
from dnafeat.training.checkpoints import read_finished
from dnafeat.training.config import WorkersConfig
from dnafeat.training.worker import Outcome, TrainingRun, run_worker


class RayContext:
    """A worker of Ray Train."""

    def __init__(self, progress: ray.actor.ActorHandle, events: str | None) -> None:
        context = train.get_context()
        self.rank, self.world_size = context.get_world_rank(), context.get_world_size()
        self.device, self.events, self._progress = ray.train.torch.get_device(), events, progress
        if self.device.type == "cuda":
            # Of several GPUs that this process sees, its own.
            torch.cuda.set_device(self.device)

    def last_checkpoint(self, folder: Path) -> Path | None:
        found = train.get_checkpoint()
        return None if found is None else Path(found.to_directory(str(folder)))

    def save(self, folder: Path, values: Mapping[str, float]) -> None:
        train.report(dict(values), checkpoint=train.Checkpoint.from_directory(str(folder)) if self.rank == 0 else None)

    def preempted(self) -> bool:
        return train.get_preemption_info() is not None

    def log(self, step: int, steps: int, values: Mapping[str, float]) -> None:
        self._progress.tell.remote(step, steps, dict(values))


def ray_worker(config: dict[str, Any]) -> None:
    """Run one worker: what Ray Train calls, with the keys that `train_on_ray` gives."""
    context = RayContext(config["progress"], config["events"])
    run_worker(context, config["work"], config["job"], lambda: ray.get(config["data"]), config["threads"])


def train_on_ray(run: TrainingRun, *, show: bool, say: Callable[[str], None]) -> Outcome:
    """Run a training run to its end, from its start or its last checkpoint.

    Parameters
    ----------
    show : bool
        Whether to show a progress bar.
    say : function
        Called with one sentence when the run begins.

    Raises
    ------
    UsageError
        This machine has fewer CPUs or GPUs than the workers hold.
    ClusterError
        Ray does not start or does not answer.
    EncodingError
        The workers failed more often than they may; the same command resumes from the last checkpoint.
    """
    start_ray()
    config = run.workers
    gpus = config.gpus_per_worker if config.gpus_per_worker is not None else default_gpus()
    cpus = config.cpus_per_worker or default_cpus(config.num_workers)
    _check_room(config, cpus, gpus)
    place = run.place
    workers: Any = (config.min_workers, config.num_workers) if config.min_workers else config.num_workers
    say(
        f"run {run.name}: {run.subject}, {config.num_workers} worker(s) on {'GPU' if gpus else 'CPU'}, {run.batch}; "
        f"checkpoints in {place}"
    )
    progress = Steps.remote()  # type: ignore[attr-defined]
    trainer = TorchTrainer(
        ray_worker,
        train_loop_config={
            "work": run.work,
            "job": run.job,
            # By reference: every node fetches the data once, and the settings stay small.
            "data": ray.put(run.data),
            "progress": progress,
            "threads": cpus,
            "events": storage.join(place, run.name, "tensorboard") if storage.is_local(place) else None,
        },
        scaling_config=train.ScalingConfig(
            num_workers=workers, use_gpu=bool(gpus), resources_per_worker={"CPU": cpus} | ({"GPU": gpus} if gpus else {})
        ),
        run_config=train.RunConfig(
            name=run.name,
            storage_path=place,
            checkpoint_config=train.CheckpointConfig(num_to_keep=2),
            failure_config=train.FailureConfig(max_failures=config.max_failures),
        ),
    )
    with steps_shown(lambda: steps_of(progress), show, Job(name=run.name.partition("-")[0], run_id=run.name)):
        try:
            outcome = trainer.fit()
        except train.TrainingFailedError as error:
            raise EncodingError(
                f"run {run.name} failed, and the same command goes on from its last checkpoint: {cause(error)}"
            ) from error
        if outcome.checkpoint is None:
            raise EncodingError(f"run {run.name} ended without a checkpoint in {place}")
        with outcome.checkpoint.as_directory() as folder:
            return Outcome(*read_finished(Path(folder)))


def _check_room(config: WorkersConfig, cpus: int, gpus: float) -> None:
    """Raise UsageError where this machine alone cannot hold the workers, for which Ray would wait for ever; a cluster may grow."""
    fewest = config.min_workers or config.num_workers
    for resource, share in (("CPU", cpus), ("GPU", gpus)):
        have = most(resource)
        if fewest * share <= have:
            continue
        wanted = f"{fewest} workers with {share:g} {resource}{'s' * (share > 1)} each are more than the {have:g} {resource}s of"
        if not on_cluster():
            raise UsageError(f"{wanted} this machine hold: give fewer --num-workers")
        say(f"{wanted} the cluster hold: the run waits until some are added", Job())


def cause(error: Exception) -> str:
    """Say in a few words what a failed run failed of."""
    story = str(error)
    if "actor died" in story or "health check" in story:
        return "a worker process died, killed or out of memory"
    told = causes(error)
    # Workers that wait for a failed one say that its connection was closed.
    return next((line for line in told if "gloo" not in line and "NCCL" not in line), told[0] if told else one_line(error))

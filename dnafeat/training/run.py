"""The launcher of training runs: a single worker in this process, or workers on Ray Train."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from dnafeat import storage
from dnafeat.cluster.config import on_cluster
from dnafeat.training.worker import Outcome, TrainingRun

# What Ray Train keeps of a run beside its checkpoints.
_SNAPSHOT = "checkpoint_manager_snapshot.json"


def train(run: TrainingRun, *, show: bool, say: Callable[[str], None]) -> Outcome:
    """Run a training run to its end, from its start or its last checkpoint, where its settings say.

    Parameters
    ----------
    show : bool
        Whether to show a progress bar.
    say : function
        Called with one sentence when the run begins.

    Raises
    ------
    UsageError
        This machine, or this process, cannot hold the workers.
    EncodingError
        Training failed; the same command resumes from the last checkpoint.
    """
    if runs_locally(run):
        from dnafeat.training.local import train_locally

        return train_locally(run, show=show, say=say)
    from dnafeat.training.on_ray import train_on_ray

    return train_on_ray(run, show=show, say=say)


def runs_locally(run: TrainingRun) -> bool:
    """Whether a run takes place in this process: as its settings say, else where one worker is enough and no cluster is named.

    A run that Ray Train has begun stays there.
    """
    workers = run.workers
    if workers.runner != "auto":
        return workers.runner == "local"
    if workers.num_workers > 1 or on_cluster() or not storage.is_local(run.place):
        return False
    return not (Path(run.place) / run.name / _SNAPSHOT).is_file()

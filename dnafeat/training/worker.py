"""One worker of a training run: its interface to the launcher, and how it starts and ends. No Ray.

`training.on_ray` runs workers on Ray Train, `training.local` a single one in this process. Either calls `run_worker`.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, Protocol, TypeVar

import torch
from torch import Tensor, distributed

from dnafeat import storage
from dnafeat.training.checkpoints import is_finished, write_finished
from dnafeat.training.config import WorkersConfig

T = TypeVar("T")


class Outcome(NamedTuple):
    """What a run ends in: the trained tensors on the CPU, and its results as JSON takes them."""

    tensors: Mapping[str, Tensor]
    results: dict[str, Any]


class Context(Protocol):
    """Where a worker runs.

    Attributes
    ----------
    rank, world_size : int
    device : torch.device
    events : str | None
        Folder of TensorBoard files, where there is one.
    """

    rank: int
    world_size: int
    device: torch.device
    events: str | None

    def last_checkpoint(self, folder: Path) -> Path | None:
        """Return a folder with the run's last checkpoint, copied into `folder` where it is not on this machine."""

    def save(self, folder: Path, values: Mapping[str, float]) -> None:
        """Hand a checkpoint's folder over to the run's storage. All workers have to call it; the first one's folder counts."""

    def preempted(self) -> bool:
        """Whether a node of the run is about to go away. All workers have to ask at the same step and get the same answer."""

    def log(self, step: int, steps: int, values: Mapping[str, float]) -> None:
        """Report how far the run is to whoever watches it."""


@dataclass(frozen=True, kw_only=True)
class TrainingAttempt:
    """One worker's attempt at a run, from its start or from a checkpoint.

    Attributes
    ----------
    job : Any
        Settings of the run, of the kind that its worker function takes.
    data : Any
        What is trained on.
    scratch : Path
        A folder for temporary files.
    resume : Path | None
        A folder with the checkpoint to resume from.
    """

    context: Context
    job: Any
    data: Any
    scratch: Path
    resume: Path | None


Work = Callable[[TrainingAttempt], Outcome]


@dataclass(frozen=True, kw_only=True)
class TrainingRun:
    """A run as a launcher takes it.

    Attributes
    ----------
    name : str
        `KIND-DIGEST`: a run of the same name is resumed.
    work : function
        What every worker calls.
    output : str
        Absolute URI of the artifact; checkpoints lie beside it unless `workers` says where.
    subject, batch : str
        What is trained on, and what a step takes of it, in words.
    """

    name: str
    work: Work
    job: Any
    data: Any
    workers: WorkersConfig
    output: str
    subject: str
    batch: str

    @property
    def place(self) -> str:
        """Absolute URI of checkpoints."""
        return storage.absolute(self.workers.storage) if self.workers.storage else f"{self.output}.runs"


class Launch(Protocol):
    """Runs a training run to its end, from its start or its last checkpoint."""

    def __call__(self, run: TrainingRun, *, show: bool, say: Callable[[str], None]) -> Outcome: ...


def run_worker(context: Context, work: Work, job: Any, data: Callable[[], Any], threads: int) -> None:
    """Carry out one worker's part of a run, and save what comes of it as the run's last checkpoint."""
    torch.set_num_threads(threads)
    with tempfile.TemporaryDirectory(prefix="dnafeat-") as scratch:
        last = context.last_checkpoint(Path(scratch) / "before")
        if last is not None and is_finished(last):
            context.save(last, {"finished": 1})
            return
        outcome = work(TrainingAttempt(context=context, job=job, data=data(), scratch=Path(scratch), resume=last))
        folder = Path(scratch) / "final"
        if context.rank == 0:
            write_finished(folder, *outcome)
        context.save(folder, {"finished": 1})


def device_name(device: torch.device) -> str:
    """Name a worker's device for the artifact: `CPU`, or the GPU's product name."""
    return "CPU" if device.type == "cpu" else torch.cuda.get_device_name(device)


def agreed(context: Context, value: Callable[[], T]) -> T:
    """Return what the first worker computes, on all workers."""
    found = [value() if context.rank == 0 else None]
    if context.world_size > 1:
        distributed.broadcast_object_list(found, 0)
    return found[0]  # type: ignore[return-value]

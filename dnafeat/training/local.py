"""A training run by a single worker in this process, without Ray: for small runs and tests."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path

import torch

from dnafeat import storage
from dnafeat.errors import DnafeatError, EncodingError, UsageError, one_line
from dnafeat.training.checkpoints import is_finished, read_finished
from dnafeat.training.worker import Outcome, TrainingRun, run_worker

# Checkpoints that are kept.
_KEPT = 2


class LocalContext:
    """A lone worker of this process, whose checkpoints are numbered folders of one local folder."""

    rank, world_size = 0, 1

    def __init__(self, folder: Path, log: Callable[[int, int, Mapping[str, float]], None] | None = None) -> None:
        self.folder, self._log = folder, log
        self.events: str | None = str(folder / "tensorboard")
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")

    def checkpoints(self) -> list[Path]:
        """List the checkpoints, the last one last."""
        return sorted(self.folder.glob("checkpoint_*"))

    def last_checkpoint(self, folder: Path) -> Path | None:
        found = self.checkpoints()
        return found[-1] if found else None

    def save(self, folder: Path, values: Mapping[str, float]) -> None:
        before = self.checkpoints()
        if folder in before:
            return
        number = int(before[-1].name.partition("_")[2]) + 1 if before else 0
        # Renamed when it is whole: a killed run leaves no half of one.
        partial = self.folder / "partial"
        shutil.rmtree(partial, ignore_errors=True)
        shutil.copytree(folder, partial)
        partial.rename(self.folder / f"checkpoint_{number:06}")
        for old in before[: 1 - _KEPT]:
            shutil.rmtree(old)

    def preempted(self) -> bool:
        return False

    def log(self, step: int, steps: int, values: Mapping[str, float]) -> None:
        if self._log is not None:
            self._log(step, steps, values)


def train_locally(run: TrainingRun, *, show: bool, say: Callable[[str], None]) -> Outcome:
    """Run one worker of a training run in this process, to its end, from its start or its last checkpoint.

    Raises
    ------
    UsageError
        There are several workers, or checkpoints are not to lie on a local disk.
    EncodingError
        Training failed; the same call resumes from the last checkpoint.
    """
    place = storage.absolute(run.workers.storage) if run.workers.storage else f"{run.output}.runs"
    if run.workers.num_workers > 1:
        raise UsageError(f"{run.workers.num_workers} workers need Ray: in this process there is one")
    if not storage.is_local(place):
        raise UsageError(f"checkpoints in {place} need Ray: without it they lie on a local disk, which --storage names")
    # Apart from checkpoints of Ray Train, which keeps a record of its own.
    context = LocalContext(Path(place) / run.name / "local")
    say(f"run {run.name}: {run.subject}, in this process, {run.batch}; checkpoints in {place}")
    threads = torch.get_num_threads()
    try:
        run_worker(context, run.work, run.job, lambda: run.data, run.workers.cpus_per_worker or os.cpu_count() or 1)
    except DnafeatError:
        raise
    except Exception as error:
        raise EncodingError(
            f"run {run.name} failed, and the same command goes on from its last checkpoint: {type(error).__name__}: {one_line(error)}"
        ) from error
    finally:
        torch.set_num_threads(threads)
    last = context.last_checkpoint(context.folder)
    if last is None or not is_finished(last):
        raise EncodingError(f"run {run.name} ended without a checkpoint in {place}")
    return Outcome(*read_finished(last))

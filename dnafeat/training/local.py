"""A training run by a single worker in this process, without Ray."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import torch
import transformers

from dnafeat import storage
from dnafeat.cluster.bar import steps_shown
from dnafeat.cluster.observe import Job
from dnafeat.errors import DnafeatError, EncodingError, UsageError, one_line
from dnafeat.training.checkpoints import is_finished, read_finished
from dnafeat.training.worker import Outcome, TrainingRun, run_worker

# Checkpoints that are kept.
_KEPT = 2


class LocalContext:
    """A lone worker of this process, whose checkpoints are numbered folders of one local folder.

    Attributes
    ----------
    now : (int, int, dict of str to float)
        Steps done, steps of the run, and the values that were logged last.
    """

    rank, world_size = 0, 1

    def __init__(self, folder: Path, *, gpu: bool = True) -> None:
        self.folder = folder
        self.events: str | None = str(folder.parent / "tensorboard")
        self.device = torch.device("cuda" if gpu and torch.cuda.is_available() else "cpu")
        self.now: tuple[int, int, dict[str, float]] = (0, 0, {})

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
        self.now = (step, steps, {**self.now[2], **values})


def train_locally(run: TrainingRun, *, show: bool, say: Callable[[str], None]) -> Outcome:
    """Run one worker of a training run in this process, to its end, from its start or its last checkpoint.

    Raises
    ------
    UsageError
        There are several workers, or checkpoints are not to lie on a local disk.
    EncodingError
        Training failed; the same call resumes from the last checkpoint.
    """
    workers = run.workers
    if workers.num_workers > 1:
        raise UsageError(f"{workers.num_workers} workers need Ray: in this process there is one")
    if not storage.is_local(run.place):
        raise UsageError(f"checkpoints in {run.place} need Ray: without it they lie on a local disk, which --storage names")
    # Apart from checkpoints of Ray Train, which keeps a record of its own.
    context = LocalContext(Path(run.place) / run.name / "local", gpu=workers.gpus_per_worker != 0)
    where = "CPU" if context.device.type == "cpu" else "GPU"
    say(f"run {run.name}: {run.subject}, in this process on {where}, {run.batch}; checkpoints in {run.place}")
    threads = torch.get_num_threads()
    job = Job(name=run.name.partition("-")[0], run_id=run.name)
    try:
        with steps_shown(lambda: context.now, show, job), _quiet():
            # PyTorch's own number by default: the cores that this process may use, or OMP_NUM_THREADS.
            run_worker(context, run.work, run.job, lambda: run.data, workers.cpus_per_worker or threads)
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
        raise EncodingError(f"run {run.name} ended without a checkpoint in {run.place}")
    return Outcome(*read_finished(last))


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep transformers from writing to standard error for as long as the block runs."""
    before = transformers.logging.get_verbosity()
    transformers.logging.set_verbosity_error()
    try:
        yield
    finally:
        transformers.logging.set_verbosity(before)

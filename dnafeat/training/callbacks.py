"""Checkpoints to Ray Train, progress to the driver, TensorBoard."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import transformers
from ray import train

from dnafeat.training.checkpoints import report

# Steps from one question to the next whether a node is about to go: Ray answers after a barrier over all workers, 3 to 20 ms long.
_ASK_EVERY = 10


class Reports(transformers.TrainerCallback):
    """Hands checkpoints to Ray Train, asks for one when a node is about to go, and tells the driver how far the run is."""

    def __init__(self, progress: Any) -> None:
        self.progress, self.warned = progress, False

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        # All workers ask at the same steps, and get the first one's answer: they save together.
        if not self.warned and state.global_step % _ASK_EVERY == 0 and train.get_preemption_info() is not None:
            self.warned, control.should_save = True, True
        if state.global_step >= state.max_steps:
            control.should_evaluate = True

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, float] | None = None, **kwargs: Any) -> None:
        if state.is_world_process_zero:
            self.progress.tell.remote(state.global_step, state.max_steps, dict(logs or {}))

    def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        folder = Path(args.output_dir) / f"checkpoint-{state.global_step}"
        report(folder if state.is_world_process_zero else None, {"step": state.global_step})


class Events(transformers.TrainerCallback):
    """Writes what is logged as TensorBoard files into a folder, from the first worker."""

    def __init__(self, folder: str) -> None:
        self.folder = folder
        self.writer: Any = None

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, float] | None = None, **kwargs: Any) -> None:
        if not state.is_world_process_zero:
            return
        if self.writer is None:
            from tensorboardX import SummaryWriter

            self.writer = SummaryWriter(self.folder)
        for name, value in (logs or {}).items():
            if isinstance(value, int | float):
                self.writer.add_scalar(name, value, state.global_step)
        self.writer.flush()

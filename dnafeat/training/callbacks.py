"""Progress of a run to its driver and to TensorBoard, and callbacks by which transformers' Trainer reports as our own loop does. No Ray."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import transformers

from dnafeat.training.schedule import seed_step
from dnafeat.training.worker import Context

# Steps from one question to the next whether a node is about to go: Ray answers after a barrier over all workers, 3 to 20 ms long.
_ASK_EVERY = 10


class Reporter:
    """Reports logged values from the first worker, and asks whether a node is about to go away."""

    def __init__(self, context: Context) -> None:
        self.context, self._warned = context, False
        self._writer: Any = None

    def preempted(self, step: int) -> bool:
        """Whether to save now because a node is about to go away: once in a run, and asked at every tenth step."""
        # All workers ask at the same steps, and get the first one's answer: they save together.
        if self._warned or step % _ASK_EVERY:
            return False
        self._warned = self.context.preempted()
        return self._warned

    def log(self, step: int, steps: int, values: Mapping[str, float]) -> None:
        """Report values to whoever watches the run, and write them as TensorBoard files."""
        if self.context.rank != 0:
            return
        self.context.log(step, steps, values)
        if self.context.events is None:
            return
        if self._writer is None:
            from tensorboardX import SummaryWriter

            self._writer = SummaryWriter(self.context.events)
        for name, value in values.items():
            if isinstance(value, int | float):
                self._writer.add_scalar(name, value, step)
        self._writer.flush()

    def close(self) -> None:
        """Finish TensorBoard's file."""
        if self._writer is not None:
            self._writer.close()
            self._writer = None


class Reports(transformers.TrainerCallback):
    """Saves checkpoints to the run's storage, one more when a node is about to go away, and reports logged values."""

    def __init__(self, context: Context) -> None:
        self.context, self.reporter = context, Reporter(context)

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if self.reporter.preempted(state.global_step):
            control.should_save = True
        if state.global_step >= state.max_steps:
            control.should_evaluate = True

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, float] | None = None, **kwargs: Any) -> None:
        self.reporter.log(state.global_step, state.max_steps, logs or {})

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.reporter.close()

    def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.context.save(Path(args.output_dir) / f"checkpoint-{state.global_step}", {"step": state.global_step})


class Draws(transformers.TrainerCallback):
    """Seeds each step, so that a resumed run draws what it would have drawn."""

    def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        seed_step(args.seed, state.global_step, args.process_index)

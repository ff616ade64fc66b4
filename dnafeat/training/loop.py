"""The training loop of alignment and pretraining, whose steps do not fit transformers' Trainer. No Ray.

A step's loss is a sum over workers, each of which computes the share of its rows in a global batch that depends on seed and step alone;
gradients are summed. So neither the loss nor what is learned depends on how many workers there are.
"""

from __future__ import annotations

import shutil
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import transformers
from torch import Tensor, distributed
from torch.optim.lr_scheduler import LambdaLR

from dnafeat.training.callbacks import Reporter
from dnafeat.training.checkpoints import OPTIMIZER, SCHEDULER, STATE, TrainingProgress, known
from dnafeat.training.schedule import Decay, schedule, seed_step
from dnafeat.training.worker import Outcome, TrainingAttempt, agreed, device_name

# Of the gradient's norm.
_CLIP = 1.0


class TrainingTask(ABC):
    """What a loop trains: a model on its device, with its optimisers, batches and losses."""

    @property
    @abstractmethod
    def optimizers(self) -> Sequence[torch.optim.Optimizer]:
        """The optimisers, each parameter group with its peak learning rate."""

    @abstractmethod
    def loss(self, step: int) -> Tensor:
        """Return this worker's share of the loss of a 0-based step, a scalar with gradients; shares sum up to the loss."""

    def after_step(self) -> None:  # noqa: B027, most tasks have nothing to do here
        """Keep parameters within their bounds."""

    @abstractmethod
    def evaluate(self) -> dict[str, float]:
        """Measure the model on what it is not trained on. Called on the first worker alone."""

    @abstractmethod
    def tensors(self) -> dict[str, Tensor]:
        """Copy what is trained to the CPU, by name."""

    @abstractmethod
    def load(self, tensors: Mapping[str, Tensor]) -> None:
        """Take up what `tensors` gave."""


@dataclass(frozen=True, kw_only=True)
class LoopPlan:
    """How a task is trained.

    Attributes
    ----------
    steps : int
        Optimiser steps.
    evaluate_every : int
        Steps from one evaluation and checkpoint to the next; the last step has one, too.
    log_every : int
        Steps from one logged loss to the next, which is the mean since the one before.
    metric : str | None
        Evaluated value, lower is better, by which the best state is kept and early stopping decides; None: the last state counts.
    patience : int
        Evaluations without a better one after which the run ends; 0: never.
    """

    steps: int
    evaluate_every: int
    warmup_steps: int
    decay: Decay
    seed: int
    log_every: int = 1
    metric: str | None = None
    patience: int = 0


class Loop:
    """A task between two steps, with all that a checkpoint holds.

    Attributes
    ----------
    step : int
        Optimiser steps done.
    history : list of dict
        Logged values: rows of `step`, `loss` and `learning_rate`, and rows of `step` and evaluated values, None where not finite.
    progress : TrainingProgress
    """

    def __init__(
        self, task: TrainingTask, plan: LoopPlan, attempt: TrainingAttempt, decided: Mapping[str, Any] | None = None
    ) -> None:
        self.task, self.plan, self.context, self.scratch = task, plan, attempt.context, attempt.scratch
        self.schedules = [schedule(one, plan.decay, steps=plan.steps, warmup_steps=plan.warmup_steps) for one in task.optimizers]
        groups = [group for one in task.optimizers for group in one.param_groups]
        self.parameters = [value for group in groups for value in group["params"]]
        self.step, self.history, self.progress = 0, list[dict[str, float | None]](), TrainingProgress(decided=dict(decided or {}))
        if plan.metric is not None:
            # Where the metric is never defined, the state before the first step counts.
            self.progress.best.tensors = task.tensors()
        self.reporter = Reporter(self.context)
        self._since_log, self._rate = list[Tensor](), 0.0
        if attempt.resume is not None:
            self.load(attempt.resume)

    @property
    def over(self) -> bool:
        return self.step >= self.plan.steps or self.progress.best.exhausted(self.plan.patience)

    def run(self) -> Outcome:
        """Train to the end. Returns the best state, or the last one where the plan has no metric, and what is known of the run."""
        while not self.over:
            self.advance()
        self.reporter.close()
        best = self.progress.best
        tensors = self.task.tensors() if self.plan.metric is None else best.tensors
        return Outcome(
            tensors,
            {
                "steps": self.step,
                "best_step": self.step if self.plan.metric is None else best.step,
                "best_value": best.value,
                "seconds": self.progress.elapsed(),
                "workers": self.context.world_size,
                "device": device_name(self.context.device),
                "decided": self.progress.decided,
                "history": self.history,
            },
        )

    def advance(self) -> None:
        """Do one optimiser step, and log, evaluate and save where it is time to."""
        self._train_step()
        evaluating = self.step % self.plan.evaluate_every == 0 or self.step == self.plan.steps
        preempted = self.reporter.preempted(self.step)
        if evaluating or preempted or self.step % self.plan.log_every == 0:
            self._log_loss()
        if evaluating:
            self._evaluate()
        if evaluating or preempted:
            folder = self.scratch / f"checkpoint-{self.step}"
            if self.context.rank == 0:
                self.save(folder)
            self.context.save(folder, {"step": self.step})
            shutil.rmtree(folder, ignore_errors=True)

    def _train_step(self) -> None:
        seed_step(self.plan.seed, self.step, self.context.rank)
        loss = self.task.loss(self.step)
        for optimizer in self.task.optimizers:
            optimizer.zero_grad()
        loss.backward()
        total = loss.detach()
        if self.context.world_size > 1:
            total = self._sum_gradients(total)
        torch.nn.utils.clip_grad_norm_(self.parameters, _CLIP)
        for optimizer in self.task.optimizers:
            optimizer.step()
        self.task.after_step()
        self._since_log.append(total)
        self._rate = float(self.schedules[0].get_last_lr()[0])
        for one in self.schedules:
            one.step()
        self.step += 1

    def _sum_gradients(self, loss: Tensor) -> Tensor:
        """Sum gradients over workers in one message; returns the summed loss."""
        # A worker without rows has no gradient for what makes vectors of them.
        gradients = [torch.zeros_like(one) if one.grad is None else one.grad for one in self.parameters]
        flat = torch.cat([one.ravel() for one in gradients] + [loss.ravel()])
        distributed.all_reduce(flat)
        for one, part in zip(self.parameters, flat[:-1].split([one.numel() for one in gradients]), strict=True):
            one.grad = part.view_as(one).clone()
        return flat[-1]

    def _log_loss(self) -> None:
        """Log the mean loss since it was logged last, and the learning rate of the last step."""
        if self._since_log:
            loss = float(torch.stack(self._since_log).double().mean())
            self._since_log = []
            self._log({"loss": known(loss), "learning_rate": self._rate})

    def _evaluate(self) -> None:
        """Evaluate, and keep the state where it is the best so far."""
        values = agreed(self.context, self.task.evaluate)
        if self.plan.metric is not None:
            value = values[self.plan.metric]
            self.progress.best.update(value, self.step, self.task.tensors, better=lambda new, old: new < old)
        self._log({name: known(value) for name, value in values.items()})

    def _log(self, values: Mapping[str, float | None]) -> None:
        self.history.append({"step": self.step, **values})
        self.reporter.log(self.step, self.plan.steps, {name: value for name, value in values.items() if value is not None})

    def save(self, folder: Path) -> None:
        """Write a checkpoint."""
        self.progress.save(folder, self.task.tensors())
        torch.save([one.state_dict() for one in self.task.optimizers], folder / OPTIMIZER)
        torch.save([one.state_dict() for one in self.schedules], folder / SCHEDULER)
        state = transformers.TrainerState(global_step=self.step, max_steps=self.plan.steps, log_history=self.history)  # type: ignore[arg-type]
        state.save_to_json(str(folder / STATE))

    def load(self, folder: Path) -> None:
        """Take up a checkpoint."""
        self.progress, trained = TrainingProgress.load(folder)
        self.task.load(trained)
        self._load_each(self.task.optimizers, folder / OPTIMIZER)
        self._load_each(self.schedules, folder / SCHEDULER)
        state = transformers.TrainerState.load_from_json(str(folder / STATE))
        self.step, self.history = state.global_step, list(state.log_history)

    def _load_each(self, parts: Sequence[torch.optim.Optimizer] | Sequence[LambdaLR], file: Path) -> None:
        states = torch.load(file, map_location=self.context.device, weights_only=True)
        for i, state in enumerate(states):
            parts[i].load_state_dict(state)

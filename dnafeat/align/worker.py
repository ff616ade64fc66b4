"""One worker of an alignment: global batches, gathered negatives, the contrastive loss, and the dev loss. No Ray."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from dnafeat.align.config import AlignConfig
from dnafeat.align.encoder import Letters, SubjectEncoder, encoding, subject_encoder
from dnafeat.align.model import Alignment, batches, dev_loss, gather, losses
from dnafeat.encoder.source import Source
from dnafeat.training.loop import Loop, LoopPlan, TrainingTask
from dnafeat.training.worker import Context, Outcome, TrainingAttempt

TUNED = "tuned."
"""Prefix of the encoder's tensors among those that were trained."""
_EPOCHS_BETWEEN = 5


@dataclass(frozen=True, kw_only=True)
class AlignData:
    """Prepared vectors of training and dev rows.

    Attributes
    ----------
    dna, partner : mapping of str to np.ndarray, shape=(n, width), float32
        Of `train` and of `dev`.
    same : mapping of str to np.ndarray, shape=(n, kinds), int64
        Rows that are equal in any column are not told apart.
    tuning : Tuning | None
        Where the DNA vectors are made in the loop, by an encoder that learns.
    """

    dna: Mapping[str, np.ndarray]
    partner: Mapping[str, np.ndarray]
    same: Mapping[str, np.ndarray]
    tuning: Tuning | None = None


@dataclass(frozen=True, kw_only=True)
class Tuning:
    """What turns sequences into prepared DNA vectors.

    Attributes
    ----------
    letters : Letters
    rows : mapping of str to np.ndarray
        Rows of `letters` on each side.
    mean, gain : np.ndarray, shape=(hidden_size,)
        Of the z-scores, as they were fitted on the stored vectors.
    rate : float
        Peak learning rate of what is tuned.
    """

    letters: Letters
    rows: Mapping[str, np.ndarray]
    mean: np.ndarray
    gain: np.ndarray
    rate: float


@dataclass(frozen=True, kw_only=True)
class AlignJob:
    """Settings of a run for its workers.

    Attributes
    ----------
    pins : (str | None, str | None)
        Revisions of base and adapter that the driver found.
    """

    config: AlignConfig
    pins: tuple[str | None, str | None] = (None, None)


def align_worker(attempt: TrainingAttempt) -> Outcome:
    """Train from the run's start or its last checkpoint."""
    outcome = align_loop(attempt).run()
    results = outcome.results
    names = ("steps", "best_step", "seconds", "workers", "device", "history")
    return Outcome(outcome.tensors, {name: results[name] for name in names} | {"dev_loss": results["best_value"]})


def align_loop(attempt: TrainingAttempt) -> Loop:
    """Make the loop that trains an alignment, where its attempt begins."""
    config, data = attempt.job.config, attempt.data
    settings, encoder = config.training(), None
    # The same weights on every worker.
    torch.manual_seed(settings["seed"])
    if data.tuning is not None:
        source = Source.find(encoding(config), attempt.job.pins)
        encoder = subject_encoder(source, config, data.tuning.letters)
    task = AlignTask(settings, data, attempt.context, encoder)
    steps = settings["steps"] or settings["epochs"] * task.steps_per_epoch
    plan = LoopPlan(
        steps=steps,
        evaluate_every=min(settings["eval_steps"] or _EPOCHS_BETWEEN * task.steps_per_epoch, steps),
        warmup_steps=min(settings["warmup_steps"], steps // 10),
        decay="linear",
        seed=settings["seed"],
        metric="eval_loss",
        patience=settings["patience"],
    )
    return Loop(task, plan, attempt)


class AlignTask(TrainingTask):
    """Two projectors, and an encoder where one is tuned, with the batches and the contrastive loss that train them.

    A global batch depends on the seed, the epoch and the subjects alone. Each worker projects its rows of it, and all rows are gathered
    with their gradients.
    """

    def __init__(
        self, settings: Mapping[str, Any], data: AlignData, context: Context, encoder: SubjectEncoder | None = None
    ) -> None:
        self.settings, self.context, self.device = settings, context, context.device
        torch.manual_seed(settings["seed"])
        widths = data.dna["train"].shape[1], data.partner["train"].shape[1]
        self.model = Alignment(*widths, settings["dropout"], settings["temperature"]).to(self.device)
        self.data = {
            side: tuple(torch.tensor(part[side]).to(self.device) for part in (data.dna, data.partner, data.same))
            for side in ("train", "dev")
        }
        self.tuning = data.tuning
        self.encoder = None if encoder is None else encoder.to(self.device)
        self.count = len(data.dna["train"])
        self.steps_per_epoch = len(batches(self.count, settings["batch_size"], 0, 0))
        rate = settings["learning_rate"]
        groups: list[dict[str, Any]] = [
            {"params": [value for value in self.model.parameters() if value.ndim > 1], "weight_decay": settings["weight_decay"]},
            {"params": [value for value in self.model.parameters() if value.ndim <= 1], "weight_decay": 0.0},
        ]
        if self.tuning is not None:
            groups.append({"params": list(self._tuned().values()), "weight_decay": 0.0, "lr": self.tuning.rate})
        self._optimizers = [torch.optim.AdamW(groups, lr=rate)]

    @property
    def optimizers(self) -> list[torch.optim.AdamW]:
        return self._optimizers

    def loss(self, step: int) -> Tensor:
        epoch, number = divmod(step, self.steps_per_epoch)
        batch = batches(self.count, self.settings["batch_size"], self.settings["seed"], epoch)[number]
        parts = np.array_split(np.arange(len(batch)), self.context.world_size)
        rows = parts[self.context.rank]
        places, own = (torch.from_numpy(one).to(self.device) for one in (rows, batch[rows]))
        self.model.train()
        _, partner, same = self.data["train"]
        x, y = self.model(self._dna("train", batch[rows]), partner[own])
        sizes = [len(part) for part in parts]
        everybody = gather(x, sizes), gather(y, sizes)
        each = losses((x, y), everybody, places, same[torch.from_numpy(batch).to(self.device)], self.model.log_scale)
        # Divided by the global count: summed over workers, this is the mean over the batch.
        return each.sum() / len(batch)

    def after_step(self) -> None:
        self.model.clamp()

    @torch.no_grad()
    def evaluate(self) -> dict[str, float]:
        _, partner, same = self.data["dev"]
        loss = dev_loss(self.model, self._dna("dev", np.arange(len(partner))), partner, same)
        return {"eval_loss": loss, "eval_temperature": float(torch.exp(-self.model.log_scale.detach()))}

    def tensors(self) -> dict[str, Tensor]:
        whole = {**self.model.state_dict(), **{f"{TUNED}{name}": value for name, value in self._tuned().items()}}
        return {name: value.detach().cpu().clone().contiguous() for name, value in whole.items()}

    def load(self, tensors: Mapping[str, Tensor]) -> None:
        own, tuned = split_state(tensors)
        self.model.load_state_dict(own)
        with torch.no_grad():
            for name, value in self._tuned().items():
                value.copy_(tuned[name])

    def _dna(self, side: str, rows: np.ndarray) -> Tensor:
        """Return the prepared DNA vectors of some rows of a side, (rows, width): stored ones, or made here of their sequences."""
        if self.tuning is None or self.encoder is None:
            return self.data[side][0][torch.from_numpy(rows).to(self.device)]
        mean, gain = (torch.from_numpy(one).float().to(self.device) for one in (self.tuning.mean, self.tuning.gain))
        return (self.encoder(self.tuning.rows[side][rows]) - mean) * gain

    def _tuned(self) -> dict[str, Tensor]:
        """Return what is trained of the encoder, by name."""
        named = () if self.encoder is None else self.encoder.encoder.named_parameters()
        return {name: value for name, value in named if value.requires_grad}


def split_state(state: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Split trained tensors into those of the projectors and those of the encoder."""
    own = {name: value for name, value in state.items() if not name.startswith(TUNED)}
    return own, {name.removeprefix(TUNED): value for name, value in state.items() if name.startswith(TUNED)}

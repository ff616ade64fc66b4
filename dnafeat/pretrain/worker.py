"""One worker of a pretraining run: masked crops, the loss on masked tokens, and held-out losses. No Ray."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel

from dnafeat.encoder.models.base import Config
from dnafeat.encoder.models.dnabert2 import DNABERT2
from dnafeat.encoder.models.heads import MaskedLM
from dnafeat.pretrain.config import PretrainConfig
from dnafeat.pretrain.corpus import CLS, SEP
from dnafeat.pretrain.masking import IGNORED, autocast, crops, faster_precision, framed, mask, masked_score
from dnafeat.training.checkpoints import decided
from dnafeat.training.loop import Loop, LoopPlan, TrainingTask
from dnafeat.training.worker import Context, Outcome, TrainingAttempt, agreed

# Losses that are logged in a run, about.
_LOGGED = 200


@dataclass(frozen=True, kw_only=True)
class PretrainJob:
    """Settings of a run for its workers, and the encoder's shape."""

    config: PretrainConfig
    shape: Config


@dataclass(frozen=True, kw_only=True)
class PretrainData:
    """Training and held-out data, as token ids.

    Attributes
    ----------
    stream, offsets : np.ndarray
        Training token ids, uint16, and the bounds of the stretches in them, int64.
    heldout : mapping of str to (ids, scored)
        Token ids of each held-out stretch, uint16, and which of them count, bool.
    shortened : np.ndarray | None, shape=(vocab, k), int64
        For k-mers: the entries that a crop's last token may become.
    """

    stream: np.ndarray
    offsets: np.ndarray
    heldout: Mapping[str, tuple[np.ndarray, np.ndarray]]
    shortened: np.ndarray | None = None


def pretrain_worker(attempt: TrainingAttempt) -> Outcome:
    """Train from the run's start or its last checkpoint."""
    config, context, resume = attempt.job.config, attempt.context, attempt.resume
    torch.manual_seed(config.seed)
    precision = config.precision
    if precision == "auto":
        # One worker decides for all, and for all attempts: two workers with different arithmetic would not train one model.
        before = None if resume is None else decided(resume).get("precision")
        precision = before or agreed(context, lambda: faster_precision(context.device))
    task = PretrainTask(config, attempt.job.shape, attempt.data, context, precision)
    plan = LoopPlan(
        steps=config.steps,
        evaluate_every=config.evaluate_every,
        log_every=max(1, config.steps // _LOGGED),
        warmup_steps=config.warmup_steps,
        decay="cosine",
        seed=config.seed,
    )
    outcome = Loop(task, plan, attempt, {"precision": precision}).run()
    names = ("steps", "seconds", "workers", "device", "history")
    return Outcome(outcome.tensors, {name: outcome.results[name] for name in names} | outcome.results["decided"])


class PretrainTask(TrainingTask):
    """A DNABERT-2 with its masked-language-modelling head, in some precision of its matrix products."""

    def __init__(self, config: PretrainConfig, shape: Config, data: PretrainData, context: Context, precision: str) -> None:
        self.config, self.data, self.context, self.precision = config, data, context, precision
        encoder = DNABERT2(shape)
        self.vocab_size = shape.vocab_size
        self.model = MaskedLM(encoder).to(context.device)
        self._optimizers = make_optimizers(self.model, config.optimizer, config.learning_rate, config.weight_decay)
        if config.compile:
            for layer in encoder.encoder.layer:
                layer.compile()

    @property
    def optimizers(self) -> list[torch.optim.Optimizer]:
        return self._optimizers

    def loss(self, step: int) -> Tensor:
        context = self.context
        inputs, targets, count = training_batch(self.config, self.vocab_size, self.data, step, context.rank, context.world_size)
        inputs, targets = inputs.to(context.device), targets.to(context.device)
        with self._attention(), autocast(context.device, self.precision):
            logits = self.model(inputs, positions=targets != IGNORED).logits
        # Divided by the global count: summed over workers, this is the mean over the batch.
        return F.cross_entropy(logits.float(), targets[targets != IGNORED], reduction="sum") / count

    def evaluate(self) -> dict[str, float]:
        """Measure loss and accuracy on each held-out stretch: one group of masks on 128 windows, the same every time."""
        values: dict[str, float] = {}
        with self._attention():
            for name, (ids, scored) in self.data.heldout.items():
                found = masked_score(self.model, ids, scored, precision=self.precision, passes=1, windows=128)
                values |= {f"heldout_loss/{name}": found[0], f"heldout_accuracy/{name}": found[1]}
        losses = [value for name, value in values.items() if name.startswith("heldout_loss/")]
        return {"eval_loss": sum(losses) / len(losses), **values}

    def tensors(self) -> dict[str, Tensor]:
        return {name: value.detach().cpu().clone().contiguous() for name, value in self.model.state_dict().items()}

    def load(self, tensors: Mapping[str, Tensor]) -> None:
        self.model.load_state_dict(tensors)

    def _attention(self) -> AbstractContextManager[Any]:
        # PyTorch's fused attention for CPUs is several times slower backwards than plain products, at crops of this length.
        on_cpu = self.context.device.type == "cpu"
        return sdpa_kernel(SDPBackend.MATH) if on_cpu else nullcontext()


def training_batch(
    config: PretrainConfig, vocab_size: int, data: PretrainData, step: int, rank: int, world_size: int
) -> tuple[Tensor, Tensor, int]:
    """Draw a worker's rows of the global batch of one step, which follows from the seed and the step alone.

    Returns
    -------
    inputs, targets : Tensor, shape=(rows, length), int64
    count : int
        Masked tokens of the global batch.
    """
    rng = np.random.default_rng([config.seed, step])
    length = int(rng.choice(config.lengths))
    rows = max(config.batch_tokens // length, 1)
    ids = crops(data.stream, data.offsets, length - 2, rows, rng)
    if data.shortened is not None:
        # Sequences end anywhere, so the last token of a crop is cut short as often as not.
        ids[:, -1] = data.shortened[ids[:, -1], rng.integers(0, config.kmer, rows)]
    inputs, targets = mask(ids, config.mask_rate, vocab_size, rng)
    own = slice(rank, None, world_size)
    return framed(inputs[own], CLS, SEP), framed(targets[own], IGNORED, IGNORED), max(1, int((targets != IGNORED).sum()))


def make_optimizers(model: nn.Module, name: str, rate: float, weight_decay: float) -> list[torch.optim.Optimizer]:
    """Make AdamW for all weights, or (`name="muon"`) Muon for the matrices of the layers and AdamW for the rest.

    Biases and norms are not decayed.
    """
    inner = [p for key, p in model.named_parameters() if name == "muon" and p.ndim == 2 and "embeddings" not in key]
    taken = {id(p) for p in inner}
    rest = [p for p in model.parameters() if id(p) not in taken]
    groups = [
        {"params": [p for p in rest if p.ndim > 1], "weight_decay": weight_decay},
        {"params": [p for p in rest if p.ndim == 1], "weight_decay": 0.0},
    ]
    optimizers: list[torch.optim.Optimizer] = [torch.optim.AdamW(groups, lr=rate, betas=(0.9, 0.98), fused=True)]
    if inner:
        # Steps as large as AdamW's, so that one learning rate and schedule serve both.
        settings: dict[str, Any] = {"weight_decay": weight_decay, "momentum": 0.95, "adjust_lr_fn": "match_rms_adamw"}
        optimizers.insert(0, torch.optim.Muon(inner, lr=rate, **settings))
    return optimizers

"""The regression on frozen vectors: what method probe learns, and the baseline that stands beside the other methods. No Ray."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from threadpoolctl import threadpool_limits

from dnafeat.finetune import metrics as scores
from dnafeat.finetune.baselines import BASES, ROWS, WIDTH
from dnafeat.finetune.intervals import intervals
from dnafeat.finetune.network import Head, TokenHead
from dnafeat.finetune.per_base import IGNORED
from dnafeat.finetune.regression import Solution, solve
from dnafeat.finetune.tasks import LOWER_IS_BETTER
from dnafeat.finetune.trainer import Trainer
from dnafeat.training.worker import Context, agreed

# Numbers of vectors that are held at a time: the training vectors of a regression, or a part of a split's. Dev is held whole.
NUMBERS = 64_000_000

# Numbers of training vectors above which their regression is shared out over threads.
_SHARED = 4_000_000


def is_regression(head: Head | TokenHead) -> bool:
    """Whether a head is one linear layer, so that on a frozen encoder its best state can be solved for."""
    return isinstance(head, TokenHead) or head.shape.kind == "linear"


class Frozen:
    """The vectors of a trainer's encoder as it is now, and the regression on them."""

    def __init__(self, trainer: Trainer, context: Context) -> None:
        self.trainer, self.context = trainer, context
        self.labels = trainer.data.labels
        self.width = trainer.model.head.size
        self._kept: dict[str, np.ndarray] = {}

    def solution(self, *, metric: str, sequences: int | None = None, tokens: int | None = None) -> Solution:
        """Solve the regression on training vectors, with the penalty that `metric` chooses on dev; the same on every worker.

        Parameters
        ----------
        sequences, tokens : int | None
            How many are drawn by the seed at most, besides what memory allows.
        """
        trainer, labels = self.trainer, self.labels
        features, targets, weights = self._training(sequences, tokens)
        dev = trainer.data.splits["dev"]

        def value(found: Solution) -> float | None:
            logits = self.logits(found, "dev")
            if metric == "loss":
                return trainer.loss(logits, dev)
            return scores.compute(labels, *trainer.scored("dev", logits))[metric]

        # By all workers together, before the first one solves.
        self._kept["dev"] = trainer.features("dev")
        larger = metric not in LOWER_IS_BETTER
        # As many threads as the worker has, and one where they would wait for one another for longer than they compute.
        with threadpool_limits(torch.get_num_threads() if features.size > _SHARED else 1):
            return agreed(self.context, lambda: solve(labels, features, targets, value, weights=weights, larger_is_better=larger))

    def logits(self, solution: Solution, split: str) -> np.ndarray:
        """Logits of a split in its order, float32."""
        if split in self._kept:
            return solution.logits(self._kept[split]).astype(np.float32)
        examples = self.trainer.data.splits[split]
        sizes = examples.lengths if self.trainer.data.per_token else np.ones(len(examples), np.int64)
        part = np.cumsum(sizes) * self.width // NUMBERS
        parts = np.split(np.arange(len(examples)), np.flatnonzero(np.diff(part)) + 1)
        return np.concatenate([solution.logits(self.trainer.features(split, rows)) for rows in parts]).astype(np.float32)

    def baseline(self) -> dict[str, Any] | None:
        """Solve and measure the regression as a baseline: `metrics` and `intervals` by split, and `rows`, the sequences it was fitted on.

        None for a task with more outputs than baselines are fitted for.
        """
        if self.labels.width > WIDTH:
            return None
        precision = torch.get_float32_matmul_precision()
        # As measures are taken.
        torch.set_float32_matmul_precision("highest")
        try:
            solution = self.solution(metric="loss", sequences=ROWS, tokens=BASES)
            data = self.trainer.data
            scored = {name: self.trainer.scored(name, self.logits(solution, name)) for name in data.splits if name != "train"}
        finally:
            torch.set_float32_matmul_precision(precision)
        return {
            "metrics": {name: scores.compute(self.labels, *pair) for name, pair in scored.items()},
            "intervals": {name: intervals(self.labels, *pair, data.groups[name]) for name, pair in scored.items()},
            "rows": len(self._drawn(ROWS, BASES)),
        }

    def _drawn(self, sequences: int | None, tokens: int | None) -> np.ndarray:
        """Numbers of the training rows that the regression is fitted on, in order."""
        data, examples = self.trainer.data, self.trainer.data.splits["train"]
        limit = max(1, NUMBERS // (self.width * (1 if examples.reverse is None else 2)))
        drawn = np.random.default_rng(self.trainer.settings["seed"]).permutation(len(examples))
        if not data.per_token:
            return np.sort(drawn[: min(limit, sequences or limit)])
        ends = np.cumsum(examples.lengths[drawn])
        return np.sort(drawn[: max(1, int(np.searchsorted(ends, min(limit, tokens or limit), side="right")))])

    def _training(self, sequences: int | None, tokens: int | None) -> tuple[np.ndarray, np.ndarray, np.ndarray | None]:
        """Vectors, targets and weights of the training rows, or tokens, that are drawn."""
        trainer, examples = self.trainer, self.trainer.data.splits["train"]
        rows = self._drawn(sequences, tokens)
        features = trainer.features("train", rows)
        if trainer.data.per_token:
            offsets = examples.tokens.offsets
            targets = np.concatenate([examples.targets[offsets[i] : offsets[i + 1]] for i in rows.tolist()])
            features, targets = features[targets != IGNORED], targets[targets != IGNORED]
        else:
            targets = examples.targets[rows]
        if examples.reverse is not None:
            features = np.concatenate([features, trainer.features("train", rows, reverse=True)])
            targets = np.concatenate([targets, targets])
        weights = _weights(self.labels.task, targets, trainer.data.class_weights)
        if examples.reverse is not None:
            # Each strand half of the time.
            weights = (np.ones(len(targets)) if weights is None else weights) / 2
        return features, targets, weights


def _weights(task: str, targets: np.ndarray, class_weights: np.ndarray | None) -> np.ndarray | None:
    if class_weights is None:
        return None
    wide = class_weights.astype(np.float64)
    return np.where(targets > 0, wide, 1.0) if task == "multilabel" else wide[targets]


def solve_probe(trainer: Trainer, context: Context) -> None:
    """Solve a trainer's head on its frozen encoder, and leave the run as training to the end would leave it.

    The history has a row for each penalty that was tried.
    """
    metric = trainer.settings["metric"]
    # As measures are taken, without TF32.
    torch.set_float32_matmul_precision("highest")
    solution = Frozen(trainer, context).solution(metric=metric)
    classifier = trainer.model.head.classifier
    with torch.no_grad():
        classifier.weight.copy_(torch.from_numpy(solution.weight))
        classifier.bias.copy_(torch.from_numpy(solution.bias))
    best, chosen = trainer.progress.best, dict(solution.tried)[solution.penalty]
    best.value, best.step, best.tensors = chosen if np.isfinite(chosen) else None, solution.iterations, trainer.tensors()
    trainer.state.global_step = solution.iterations
    trainer.state.log_history = [
        {"step": number, "penalty": penalty, f"eval_{metric}": value}
        for number, (penalty, value) in enumerate(solution.tried, start=1)
    ]
    context.log(solution.iterations, solution.iterations, {f"eval_{metric}": chosen})

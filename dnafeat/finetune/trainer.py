"""transformers' Trainer over global batches, with our losses, evaluation and checkpoints. No Ray."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from torch import Tensor
from torch.nn import functional as F
from torch.utils.data import Dataset

from dnafeat.encoder.models.tokenizers import Tokenizer
from dnafeat.finetune import metrics as scores
from dnafeat.finetune.labels import Labels
from dnafeat.finetune.network import FineTuned
from dnafeat.finetune.per_base import base_values
from dnafeat.training.batches import Batches, Collate, Examples, MicroBatches
from dnafeat.training.callbacks import Draws
from dnafeat.training.checkpoints import STATE, TrainingProgress, known
from dnafeat.training.schedule import schedule

# Tokens of a batch that is measured, by the kind of device: on a CPU small batches stay in its caches, and take two thirds of the time.
_EVALUATION_TOKENS = {"cuda": 16_384, "cpu": 1_024}


@dataclass(frozen=True, kw_only=True)
class Data:
    """Splits as token ids, with all that batches and losses need."""

    splits: Mapping[str, Examples]
    tokenizer: Tokenizer
    labels: Labels
    special_tokens: bool
    class_weights: np.ndarray | None
    groups: Mapping[str, np.ndarray]
    """Number of the group of each sequence, by split: what intervals draw."""

    @property
    def per_token(self) -> bool:
        return self.labels.task == "token"

    def collate(self, split: str) -> Collate:
        return Collate(self.splits[split], self.tokenizer, self.special_tokens, self.per_token)


def losses(task: str, logits: Tensor, targets: Tensor, class_weights: Tensor | None) -> Tensor:
    """Compute the loss of each example, (rows,): cross-entropy (mean over labelled tokens), binary cross-entropy or squared error."""
    if task == "multilabel":
        return F.binary_cross_entropy_with_logits(logits, targets, reduction="none", pos_weight=class_weights).mean(1)
    if task == "regression":
        return (logits[:, 0] - targets) ** 2
    if task == "token":
        each = F.cross_entropy(logits.transpose(1, 2), targets, weight=class_weights, ignore_index=-100, reduction="none")
        return each.sum(1) / (targets != -100).sum(1).clamp(min=1)
    return F.cross_entropy(logits, targets, weight=class_weights, reduction="none")


class _Echo(Dataset):
    """A dataset that hands on the choices of the sampler to the collator."""

    def __init__(self, size: int) -> None:
        self.size = size

    def __len__(self) -> int:
        return self.size

    def __getitem__(self, choice: Any) -> Any:
        return choice


class Trainer(transformers.Trainer):
    """transformers' Trainer with our batches, loss and evaluation, saving what is trained and nothing else.

    The best state so far, by `metric` on dev, is kept beside the current one and in every checkpoint.
    """

    model: FineTuned
    train_dataset: _Echo

    def __init__(self, model: FineTuned, args: transformers.TrainingArguments, data: Data, settings: Mapping[str, Any]) -> None:
        rows, dev = _Echo(len(data.splits["train"])), _Echo(len(data.splits["dev"]))
        super().__init__(model=model, args=args, train_dataset=rows, eval_dataset=dev, callbacks=[Draws()])
        self.data, self.settings = data, settings
        # The batches' weights make the mean over the global batch already.
        self.loss_is_scaled_for_ga = True
        weights = data.class_weights
        self.class_weights = None if weights is None else torch.tensor(weights).to(args.device)
        self.progress = TrainingProgress()

    def create_scheduler(self, num_training_steps: int, optimizer: torch.optim.Optimizer | None = None) -> Any:
        own = optimizer or self.optimizer
        assert own is not None
        if self.lr_scheduler is None:
            warmup_steps = self.args.get_warmup_steps(num_training_steps)
            self.lr_scheduler = schedule(own, "linear", steps=num_training_steps, warmup_steps=warmup_steps, first=0)
        return self.lr_scheduler

    def get_train_dataloader(self) -> Batches:
        examples, args = self.data.splits["train"], self.args
        sampler = MicroBatches(
            examples.lengths,
            size=self.settings["batch_size"],
            seed=self.settings["seed"],
            rank=args.process_index,
            world=args.world_size,
            accumulate=args.gradient_accumulation_steps,
            both_strands=examples.reverse is not None,
        )
        return Batches(self.train_dataset, batch_sampler=sampler, collate_fn=self.data.collate("train"))

    def compute_loss(
        self,
        model: torch.nn.Module,
        inputs: dict[str, Tensor],
        return_outputs: bool = False,
        num_items_in_batch: Tensor | int | None = None,
    ) -> Any:
        logits = model(inputs["input_ids"], inputs["attention_mask"], inputs["content"])
        each = losses(self.data.labels.task, logits.float(), inputs["targets"], self.class_weights)
        loss = (each * inputs["weights"]).sum()
        return (loss, logits) if return_outputs else loss

    def evaluate(self, *args: Any, **kwargs: Any) -> dict[str, float]:
        values = self.measure("dev", half=self.args.bf16)[0]
        name = self.settings["metric"]
        self.progress.best.update(values[name], self.state.global_step, self.tensors, better=partial(scores.better, name))
        if self.progress.best.exhausted(self.settings["patience"]):
            self.control.should_training_stop = True
        defined = {f"eval_{key}": number for key, number in values.items() if number is not None}
        self.log(defined)
        self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, defined)
        return defined

    def finals(self) -> dict[str, tuple[dict[str, float | None], np.ndarray]]:
        """Measure each split with the best state, or with the last one where dev's metric was never defined.

        In float32 however it was trained, without autocast and without TF32, so that the artifact, loaded in float32, gives these
        logits on any hardware.
        """
        best = self.progress.best
        if not best.tensors:
            best.step, best.tensors = self.state.global_step, self.tensors()
        self.model.load_trainable(best.tensors)
        # PyTorch's default, unless the environment says otherwise.
        torch.set_float32_matmul_precision("highest")
        return {split: self.measure(split, half=False) for split in self.data.splits}

    def measure(self, split: str, *, half: bool) -> tuple[dict[str, float | None], np.ndarray]:
        """Measure loss and metrics of a split, and return its logits in order, too; with autocast to bfloat16 if `half`.

        Every worker computes a part and gets the whole.
        """
        logits = self._logits(split, half)
        examples, labels = self.data.splits[split], self.data.labels
        values: dict[str, float | None] = {"loss": self.loss(logits, examples)}
        return values | scores.compute(labels, *self.scored(split, logits)), logits

    def scored(self, split: str, logits: np.ndarray) -> tuple[np.ndarray, np.ndarray | list[np.ndarray]]:
        """Return logits and targets as the metrics take them: per-token ones carried back to bases, NaN where no token covers one."""
        examples = self.data.splits[split]
        if examples.spans is None or examples.per_base is None:
            return logits, examples.targets
        pairs = itertools.pairwise(examples.tokens.offsets)
        bases = [
            base_values(logits[a:b], examples.spans[a:b, 0], examples.spans[a:b, 1], len(classes))
            for (a, b), classes in zip(pairs, examples.per_base, strict=True)
        ]
        return np.concatenate(bases), examples.per_base

    def loss(self, logits: np.ndarray, examples: Examples) -> float | None:
        """Compute the mean loss over a split, None where it is not finite."""
        weights = self.class_weights
        if self.data.per_token:
            each = F.cross_entropy(
                torch.from_numpy(logits),
                torch.tensor(examples.targets),
                weight=None if weights is None else weights.cpu(),
                ignore_index=-100,
                reduction="none",
            )
            sums = np.add.reduceat(each.numpy(), examples.tokens.offsets[:-1])
            return known(float((sums / examples.lengths).mean()))
        each = losses(
            self.data.labels.task,
            torch.from_numpy(logits),
            torch.tensor(examples.targets),
            None if weights is None else weights.cpu(),
        )
        return known(float(each.mean()))

    def _logits(self, split: str, half: bool) -> np.ndarray:
        """Compute the logits of a split in order: (n, width) float32, per-token tasks: (tokens, width)."""
        # By the class: accelerate puts its own autocast into the `forward` of the model it trains.
        return self._answers(FineTuned.forward, split, np.arange(len(self.data.splits[split])), half=half)

    def features(self, split: str, rows: np.ndarray | None = None, *, reverse: bool = False) -> np.ndarray:
        """Compute what the head takes, in float32 and in the order of `rows`: (rows, features), per-token tasks: (tokens, features).

        Parameters
        ----------
        rows : np.ndarray, shape=(rows,), int64, optional
            Numbers of sequences (default: all).
        reverse : bool
            Whether reverse complements are taken, where training draws them.
        """
        everything = np.arange(len(self.data.splits[split]))
        return self._answers(FineTuned.features, split, everything if rows is None else rows, reverse=reverse)

    @torch.no_grad()
    def _answers(
        self, ask: Callable[..., Tensor], split: str, rows: np.ndarray, *, half: bool = False, reverse: bool = False
    ) -> np.ndarray:
        """Ask the model for some rows, one or more, of a split. Every worker computes a part and gets the whole."""
        examples, collate, model = self.data.splits[split], self.data.collate(split), self.model
        was_training = model.training
        model.eval()
        order = rows[np.argsort(-examples.lengths[rows], kind="stable")]
        mine: list[tuple[int, np.ndarray]] = []
        limit = _EVALUATION_TOKENS[self.args.device.type]
        for number, batch in enumerate(_by_tokens(order, examples.lengths, limit)):
            if number % self.args.world_size != self.args.process_index:
                continue
            inputs = self._prepare_inputs(collate([(int(i), 1.0, reverse) for i in batch]))
            with torch.autocast(self.args.device.type, torch.bfloat16, enabled=half):
                out = ask(model, inputs["input_ids"], inputs["attention_mask"], inputs["content"]).float().cpu().numpy()
            for i, answer in zip(batch.tolist(), out, strict=True):
                mine.append((i, answer[1 : 1 + examples.lengths[i]] if self.data.per_token else answer[None]))
        parts = [mine]
        if self.args.world_size > 1:
            parts = [[]] * self.args.world_size
            torch.distributed.all_gather_object(parts, mine)
        model.train(was_training)
        by_example = dict(pair for part in parts for pair in part)
        return np.concatenate([by_example[i] for i in rows.tolist()])

    def tensors(self) -> dict[str, Tensor]:
        """Copy what is trained to the CPU, by name."""
        return {name: value.detach().cpu().clone().contiguous() for name, value in self.model.trainable().items()}

    # -- checkpoints ---------------------------------------------------------------------------------------------------

    def _save(self, output_dir: str | None = None, state_dict: dict | None = None) -> None:
        self.progress.save(Path(output_dir or str(self.args.output_dir)), self.tensors())

    def _save_rng_state(self, output_dir: str) -> None:
        """Save nothing: what a step draws follows from its number, see `Draws`."""

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: torch.nn.Module | None = None) -> None:
        self.progress, trained = TrainingProgress.load(Path(resume_from_checkpoint))
        self.model.load_trainable(trained)

    def is_over(self, folder: Path) -> bool:
        """Whether a checkpoint is of a run that ended and failed while it was measured; if so, load its state."""
        self._load_from_checkpoint(str(folder))
        state = transformers.TrainerState.load_from_json(str(folder / STATE))
        over = state.global_step >= self.args.max_steps or self.progress.best.exhausted(self.settings["patience"])
        if over:
            self.state = state
        return over


def _by_tokens(order: np.ndarray, lengths: np.ndarray, limit: int) -> list[np.ndarray]:
    """Divide examples, by falling length, into batches of at most `limit` tokens, special ones counted, or of one example."""
    batches, i = [], 0
    while i < len(order):
        rows = max(1, limit // int(lengths[order[i]] + 2))
        batches.append(order[i : i + rows])
        i += rows
    return batches

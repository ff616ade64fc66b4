"""What every worker of a fine-tuning run does: transformers' Trainer over global batches, evaluation, checkpoints for Ray Train."""

from __future__ import annotations

import itertools
import json
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import ray
import torch
import transformers
from ray import train
from ray.train.huggingface.transformers import prepare_trainer
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.nn import functional as F
from torch.utils.data import Dataset

from dnafeat import metrics as scores
from dnafeat.batches import Batches, Collate, Examples, MicroBatches
from dnafeat.labels import Labels, base_values
from dnafeat.models.adapter import Source
from dnafeat.models.finetuned import FineTuned, build
from dnafeat.tokenizers import Tokenizer

_NOW, _BEST, _STATE = "trained.safetensors", "best.safetensors", "best.json"
RESULTS = "results.json"
_EVALUATION_TOKENS = 16_384


@dataclass(frozen=True, kw_only=True)
class Data:
    """The splits as token ids, with what it takes to make batches and losses of them."""

    splits: Mapping[str, Examples]
    tokenizer: Tokenizer
    labels: Labels
    special_tokens: bool
    class_weights: np.ndarray | None

    @property
    def per_token(self) -> bool:
        return self.labels.task == "token"

    def collate(self, split: str) -> Collate:
        return Collate(self.splits[split], self.tokenizer, self.special_tokens, self.per_token)


def losses(task: str, logits: Tensor, targets: Tensor, class_weights: Tensor | None) -> Tensor:
    """The loss of each example, (rows,): cross-entropy (per token: its mean over labelled tokens), binary cross-entropy, squared error."""
    if task == "multilabel":
        return F.binary_cross_entropy_with_logits(logits, targets, reduction="none", pos_weight=class_weights).mean(1)
    if task == "regression":
        return (logits[:, 0] - targets) ** 2
    if task == "token":
        each = F.cross_entropy(logits.transpose(1, 2), targets, weight=class_weights, ignore_index=-100, reduction="none")
        return each.sum(1) / (targets != -100).sum(1).clamp(min=1)
    return F.cross_entropy(logits, targets, weight=class_weights, reduction="none")


class _Echo(Dataset):
    """The sampler gives choices and the collator takes them: the dataset between them hands them on."""

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
        super().__init__(model=model, args=args, train_dataset=rows, eval_dataset=dev)
        self.data, self.settings = data, settings
        # The batches' weights make the mean over the global batch already.
        self.loss_is_scaled_for_ga = True
        weights = data.class_weights
        self.class_weights = None if weights is None else torch.tensor(weights).to(args.device)
        self.best: dict[str, Any] = {"value": None, "step": 0, "worse_since": 0}
        self.best_state: dict[str, Tensor] = {}

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
        values = self.measure("dev")[0]
        name = self.settings["metric"]
        value = values[name]
        if value is not None and (self.best["value"] is None or scores.better(name, value, self.best["value"])):
            self.best = {"value": value, "step": self.state.global_step, "worse_since": 0}
            self.best_state = self._state()
        else:
            self.best["worse_since"] += 1
            if self.settings["patience"] and self.best["worse_since"] >= self.settings["patience"]:
                self.control.should_training_stop = True
        known = {f"eval_{key}": number for key, number in values.items() if number is not None}
        self.log(known)
        self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, known)
        return known

    def measure(self, split: str) -> tuple[dict[str, float | None], np.ndarray]:
        """Loss and metrics of a split, and its logits in order; every worker computes a part and gets the whole."""
        logits = self.logits(split)
        examples, labels = self.data.splits[split], self.data.labels
        values: dict[str, float | None] = {"loss": self._loss(logits, examples)}
        return values | scores.compute(labels, *self.scored(split, logits)), logits

    def scored(self, split: str, logits: np.ndarray) -> tuple[np.ndarray, np.ndarray | list[np.ndarray]]:
        """Logits and targets as the metrics take them: per-token ones carried back to bases, NaN where no token covers one."""
        examples = self.data.splits[split]
        if examples.spans is None or examples.per_base is None:
            return logits, examples.targets
        pairs = itertools.pairwise(examples.tokens.offsets)
        bases = [
            base_values(logits[a:b], examples.spans[a:b, 0], examples.spans[a:b, 1], len(classes))
            for (a, b), classes in zip(pairs, examples.per_base, strict=True)
        ]
        return np.concatenate(bases), examples.per_base

    def _loss(self, logits: np.ndarray, examples: Examples) -> float | None:
        """The mean over a split, None where it is not finite."""
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
            return _known(float((sums / examples.lengths).mean()))
        each = losses(
            self.data.labels.task,
            torch.from_numpy(logits),
            torch.tensor(examples.targets),
            None if weights is None else weights.cpu(),
        )
        return _known(float(each.mean()))

    @torch.no_grad()
    def logits(self, split: str) -> np.ndarray:
        """Logits of a split in order: (n, width) float32, per-token tasks: (tokens, width)."""
        examples, collate, model = self.data.splits[split], self.data.collate(split), self.model
        was_training = model.training
        model.eval()
        order = np.argsort(-examples.lengths, kind="stable")
        mine: list[tuple[np.ndarray, np.ndarray]] = []
        for number, batch in enumerate(_by_tokens(order, examples.lengths)):
            if number % self.args.world_size != self.args.process_index:
                continue
            inputs = self._prepare_inputs(collate([(int(i), 1.0, False) for i in batch]))
            with self.autocast():
                out = model(inputs["input_ids"], inputs["attention_mask"], inputs["content"]).float().cpu()
            if self.data.per_token:
                mine += [(np.array([i]), rows[1 : 1 + examples.lengths[i]].numpy()) for i, rows in zip(batch, out, strict=True)]
            else:
                mine.append((batch, out.numpy()))
        parts = [mine]
        if self.args.world_size > 1:
            parts = [[]] * self.args.world_size
            torch.distributed.all_gather_object(parts, mine)
        model.train(was_training)
        found = [pair for part in parts for pair in part]
        if self.data.per_token:
            by_example = {int(i[0]): rows for i, rows in found}
            return np.concatenate([by_example[i] for i in range(len(examples))])
        whole = np.empty((len(examples), self.data.labels.width), np.float32)
        for batch, rows in found:
            whole[batch] = rows
        return whole

    def autocast(self) -> torch.autocast:
        return torch.autocast(self.args.device.type, torch.bfloat16, enabled=self.args.bf16)

    def _state(self) -> dict[str, Tensor]:
        return {name: value.detach().cpu().clone().contiguous() for name, value in self.model.trainable().items()}

    def use_best(self) -> None:
        """Puts the best state back, for the final measures: the last one where dev's metric was never defined."""
        if not self.best_state:
            self.best["step"], self.best_state = self.state.global_step, self._state()
        self.model.load_trainable(self.best_state)

    # -- checkpoints ---------------------------------------------------------------------------------------------------

    def _save(self, output_dir: str | None = None, state_dict: dict | None = None) -> None:
        folder = Path(output_dir or str(self.args.output_dir))
        folder.mkdir(parents=True, exist_ok=True)
        save_file(self._state(), folder / _NOW)
        if self.best_state:
            save_file(self.best_state, folder / _BEST)
        (folder / _STATE).write_text(json.dumps(self.best))

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: torch.nn.Module | None = None) -> None:
        folder = Path(resume_from_checkpoint)
        self.model.load_trainable(load_file(folder / _NOW))
        if (folder / _BEST).is_file():
            self.best_state = load_file(folder / _BEST)
        self.best = json.loads((folder / _STATE).read_text())

    def is_over(self, folder: Path) -> bool:
        """Whether a checkpoint is that of a run which ended and was lost while it was measured; if so, takes up its state."""
        state = transformers.TrainerState.load_from_json(str(folder / "trainer_state.json"))
        self._load_from_checkpoint(str(folder))
        patience = self.settings["patience"]
        over = state.global_step >= self.args.max_steps or bool(patience and self.best["worse_since"] >= patience)
        if over:
            self.state = state
        return over


def _known(value: float) -> float | None:
    """The number, or None for one that JSON does not know."""
    return value if np.isfinite(value) else None


def _half(precision: str) -> bool:
    return precision == "bfloat16" or (precision == "auto" and torch.cuda.is_available() and torch.cuda.is_bf16_supported())


def _by_tokens(order: np.ndarray, lengths: np.ndarray) -> list[np.ndarray]:
    """Examples by falling length in batches of some thousand tokens."""
    batches, i = [], 0
    while i < len(order):
        rows = max(1, _EVALUATION_TOKENS // int(lengths[order[i]] + 2))
        batches.append(order[i : i + rows])
        i += rows
    return batches


class Reports(transformers.TrainerCallback):
    """Hands checkpoints to Ray Train, asks for one when a node is about to go, and tells the driver how far the run is."""

    def __init__(self, progress: Any) -> None:
        self.progress, self.warned = progress, False

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        # A barrier over all workers, so that they agree to save at the same step.
        if not self.warned and train.get_preemption_info() is not None:
            self.warned, control.should_save = True, True
        if state.global_step >= state.max_steps:
            control.should_evaluate = True

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, float] | None = None, **kwargs: Any) -> None:
        if state.is_world_process_zero:
            self.progress.tell.remote(state.global_step, state.max_steps, dict(logs or {}))

    def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        folder = Path(args.output_dir) / f"checkpoint-{state.global_step}"
        report(folder if state.is_world_process_zero else None, {"step": state.global_step})


def report(folder: Path | None, values: dict[str, Any]) -> None:
    """`ray.train.report`, which all workers have to call; the one with a folder gives it as the checkpoint."""
    train.report(values, checkpoint=None if folder is None else train.Checkpoint.from_directory(str(folder)))


def train_worker(job: dict[str, Any]) -> None:
    """What Ray Train runs in every worker. Goes on from the run's last checkpoint where there is one."""
    torch.set_num_threads(job["threads"])
    settings, data = job["settings"], ray.get(job["data"])
    context = train.get_context()
    rank, world = context.get_world_rank(), context.get_world_size()
    before = train.get_checkpoint()
    with tempfile.TemporaryDirectory(prefix="dnafeat-") as scratch:
        resume: str | None = None
        if before is not None:
            resume = before.to_directory(str(Path(scratch) / "before"))
            if (Path(resume) / RESULTS).is_file():
                report(Path(resume) if rank == 0 else None, {"finished": 1})
                return
        torch.manual_seed(settings["seed"])
        model = build(Source.find(job["config"].encoding(), job["pins"]), job["config"], data.labels)
        device_gpu = torch.cuda.is_available()
        rows = min(settings["batch_size"], settings["rows_per_worker"])
        accumulate = -(-settings["batch_size"] // (rows * world))
        steps_per_epoch = -(-len(data.splits["train"]) // settings["batch_size"])
        steps = settings["steps"] or settings["epochs"] * steps_per_epoch
        every = min(settings["eval_steps"] or steps_per_epoch, steps)
        arguments = transformers.TrainingArguments(
            output_dir=str(Path(scratch) / "run"),
            per_device_train_batch_size=rows,
            gradient_accumulation_steps=accumulate,
            max_steps=steps,
            learning_rate=settings["learning_rate"],
            weight_decay=settings["weight_decay"],
            warmup_steps=min(settings["warmup_steps"], steps // 10),
            lr_scheduler_type="linear",
            optim="adamw_torch",
            max_grad_norm=1.0,
            logging_steps=max(1, steps // 200),
            logging_nan_inf_filter=False,
            eval_strategy="steps",
            eval_steps=every,
            save_strategy="steps",
            save_steps=every,
            save_total_limit=1,
            seed=settings["seed"],
            bf16=_half(settings["precision"]),
            use_cpu=not device_gpu,
            ddp_backend=None if device_gpu else "gloo",
            ddp_find_unused_parameters=False,
            report_to="none",
            disable_tqdm=True,
            remove_unused_columns=False,
            dataloader_pin_memory=device_gpu,
        )
        trainer = Trainer(model, arguments, data, settings)
        trainer.remove_callback(transformers.PrinterCallback)
        trainer.add_callback(Reports(job["progress"]))
        trainer.add_callback(Events(job["events"] or str(Path(scratch) / "events")))
        # The same weights on every worker, and other draws of dropout.
        torch.manual_seed(settings["seed"] + 1 + rank)
        prepare_trainer(trainer)
        began = time.monotonic()
        if resume is None or not trainer.is_over(Path(resume)):
            trainer.train(resume_from_checkpoint=resume)
        trainer.use_best()
        measured = {split: trainer.measure(split) for split in data.splits}
        result = {
            "metrics": {split: values for split, (values, _) in measured.items()},
            "confusion": {
                split: scores.confusion(data.labels, *trainer.scored(split, logits)).tolist()
                for split, (_, logits) in measured.items()
                if data.labels.task in ("binary", "multiclass", "token")
            },
            "steps": trainer.state.global_step,
            "best_step": trainer.best["step"],
            "seconds": round(time.monotonic() - began, 3),
            "workers": world,
            "device": torch.cuda.get_device_name() if device_gpu else "CPU",
            "precision": "bfloat16" if arguments.bf16 else "float32",
            "history": [{name: _known(value) for name, value in row.items()} for row in trainer.state.log_history],
        }
        folder = Path(scratch) / "final"
        if rank == 0:
            folder.mkdir()
            save_file(trainer.best_state, folder / _BEST)
            (folder / RESULTS).write_text(json.dumps(result))
        report(folder if rank == 0 else None, {"finished": 1})


def finished(folder: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The trained tensors and the results in a finished run's last checkpoint."""
    return load_file(folder / _BEST), json.loads((folder / RESULTS).read_text())


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

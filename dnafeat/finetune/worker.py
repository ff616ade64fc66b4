"""One worker of a fine-tuning run: transformers' Trainer, from the start or a checkpoint to the final results. No Ray."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
import transformers
from accelerate.state import AcceleratorState

from dnafeat.encoder.describe import fast_in_bfloat16, resolve_precision
from dnafeat.encoder.source import Source
from dnafeat.finetune import metrics as scores
from dnafeat.finetune.config import FinetuneConfig
from dnafeat.finetune.intervals import intervals
from dnafeat.finetune.network import build
from dnafeat.finetune.probe import Frozen, is_regression, solve_probe
from dnafeat.finetune.trainer import Trainer
from dnafeat.training.callbacks import Reports
from dnafeat.training.checkpoints import known
from dnafeat.training.worker import Context, Outcome, TrainingAttempt


@dataclass(frozen=True, kw_only=True)
class FinetuneJob:
    """Settings of a run for its workers.

    Attributes
    ----------
    pins : (str | None, str | None)
        Revisions of base and adapter that the driver found.
    settings : mapping
        What the training loop takes, from `FinetuneConfig.training`.
    """

    config: FinetuneConfig
    pins: tuple[str | None, str | None]
    settings: Mapping[str, Any]


def finetune_worker(attempt: TrainingAttempt) -> Outcome:
    """Train from the run's start or its last checkpoint, and measure the best state on all splits."""
    job, data, context = attempt.job, attempt.data, attempt.context
    # The same weights on every worker.
    torch.manual_seed(job.settings["seed"])
    model = build(Source.find(job.config.encoding(), job.pins), job.config, data.labels)
    # A process may train several times, each time in another precision.
    AcceleratorState._reset_state()
    arguments = _arguments(job.settings, len(data.splits["train"]), context, str(attempt.scratch / "run"))
    trainer = Trainer(model, arguments, data, job.settings)
    trainer.remove_callback(transformers.PrinterCallback)
    trainer.add_callback(Reports(context))
    solved = job.config.method == "probe" and is_regression(model.head)
    # Of the encoder before it is trained: a fresh adapter changes nothing yet.
    frozen = Frozen(trainer, context).baseline() if job.config.baselines and not solved else None
    if solved:
        solve_probe(trainer, context)
    elif attempt.resume is None or not trainer.is_over(attempt.resume):
        trainer.train(resume_from_checkpoint=None if attempt.resume is None else str(attempt.resume))
    results = _results(trainer) | {"frozen": frozen}
    return Outcome(trainer.progress.best.tensors, results | {"seconds": trainer.progress.elapsed()})


def _arguments(settings: Mapping[str, Any], examples: int, context: Context, folder: str) -> transformers.TrainingArguments:
    """Make transformers' arguments of a run's settings, for a number of training examples."""
    gpu, world = context.device.type == "cuda", context.world_size
    rows = min(settings["batch_size"], settings["rows_per_worker"])
    steps_per_epoch = -(-examples // settings["batch_size"])
    steps = settings["steps"] or settings["epochs"] * steps_per_epoch
    every = min(settings["eval_steps"] or steps_per_epoch, steps)
    return transformers.TrainingArguments(
        output_dir=folder,
        per_device_train_batch_size=rows,
        gradient_accumulation_steps=-(-settings["batch_size"] // (rows * world)),
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
        bf16=resolve_precision(settings["precision"], gpu=gpu and fast_in_bfloat16()) == "bfloat16",
        use_cpu=not gpu,
        ddp_backend="gloo" if torch.distributed.is_initialized() and not gpu else None,
        ddp_find_unused_parameters=False,
        report_to="none",
        disable_tqdm=True,
        remove_unused_columns=False,
        dataloader_pin_memory=gpu,
    )


def _results(trainer: Trainer) -> dict[str, Any]:
    """Measure a finished run, and return its results as JSON takes them."""
    labels, arguments = trainer.data.labels, trainer.args
    measured = trainer.finals()
    return {
        "metrics": {split: values for split, (values, _) in measured.items()},
        "intervals": {
            split: intervals(labels, *trainer.scored(split, logits), trainer.data.groups[split])
            for split, (_, logits) in measured.items()
            if split != "train"
        },
        "confusion": {
            split: scores.confusion(labels, *trainer.scored(split, logits)).tolist()
            for split, (_, logits) in measured.items()
            if labels.task in ("binary", "multiclass", "token")
        },
        "steps": trainer.state.global_step,
        "best_step": trainer.progress.best.step,
        "workers": arguments.world_size,
        "device": "CPU" if arguments.use_cpu else torch.cuda.get_device_name(),
        "precision": "bfloat16" if arguments.bf16 else "float32",
        "history": [{name: known(value) for name, value in row.items()} for row in trainer.state.log_history],
    }

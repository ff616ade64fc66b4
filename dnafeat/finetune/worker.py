"""What Ray Train runs in every worker of a fine-tuning run: the Trainer, checkpoints for Ray, progress for the driver, final results."""

from __future__ import annotations

import json
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import ray
import torch
import transformers
from ray import train
from ray.train.huggingface.transformers import prepare_trainer
from safetensors.torch import save_file

from dnafeat.encoder.describe import fast_in_bfloat16, resolve_precision
from dnafeat.encoder.source import Source
from dnafeat.finetune import metrics as scores
from dnafeat.finetune.network import build
from dnafeat.finetune.trainer import Trainer
from dnafeat.training.callbacks import Events, Reports
from dnafeat.training.checkpoints import BEST, RESULTS, known, report


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
        # The same weights on every worker.
        torch.manual_seed(settings["seed"])
        model = build(Source.find(job["config"].encoding(), job["pins"]), job["config"], data.labels)
        arguments = _arguments(settings, len(data.splits["train"]), world, str(Path(scratch) / "run"))
        trainer = Trainer(model, arguments, data, settings)
        trainer.remove_callback(transformers.PrinterCallback)
        trainer.add_callback(Reports(job["progress"]))
        trainer.add_callback(Events(job["events"] or str(Path(scratch) / "events")))
        prepare_trainer(trainer)
        began = time.monotonic()
        if resume is None or not trainer.is_over(Path(resume)):
            trainer.train(resume_from_checkpoint=resume)
        result = _results(trainer) | {"seconds": round(time.monotonic() - began, 3)}
        folder = Path(scratch) / "final"
        if rank == 0:
            folder.mkdir()
            save_file(trainer.best_state, folder / BEST)
            (folder / RESULTS).write_text(json.dumps(result))
        report(folder if rank == 0 else None, {"finished": 1})


def _arguments(settings: Mapping[str, Any], examples: int, world: int, folder: str) -> transformers.TrainingArguments:
    """The run's settings as transformers takes them, for so many training examples and workers."""
    gpu = torch.cuda.is_available()
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
        bf16=resolve_precision(settings["precision"], gpu=fast_in_bfloat16()) == "bfloat16",
        use_cpu=not gpu,
        ddp_backend=None if gpu else "gloo",
        ddp_find_unused_parameters=False,
        report_to="none",
        disable_tqdm=True,
        remove_unused_columns=False,
        dataloader_pin_memory=gpu,
    )


def _results(trainer: Trainer) -> dict[str, Any]:
    """What is known of a run at its end, as JSON takes it."""
    labels, arguments = trainer.data.labels, trainer.args
    measured = trainer.finals()
    return {
        "metrics": {split: values for split, (values, _) in measured.items()},
        "confusion": {
            split: scores.confusion(labels, *trainer.scored(split, logits)).tolist()
            for split, (_, logits) in measured.items()
            if labels.task in ("binary", "multiclass", "token")
        },
        "steps": trainer.state.global_step,
        "best_step": trainer.best["step"],
        "workers": arguments.world_size,
        "device": "CPU" if arguments.use_cpu else torch.cuda.get_device_name(),
        "precision": "bfloat16" if arguments.bf16 else "float32",
        "history": [{name: known(value) for name, value in row.items()} for row in trainer.state.log_history],
    }

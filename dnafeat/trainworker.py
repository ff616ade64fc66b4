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
from safetensors.torch import load_file, save_file
from torch import Tensor

from dnafeat import metrics as scores
from dnafeat.describe import fast_in_bfloat16, resolve_precision
from dnafeat.models.adapter import Source
from dnafeat.models.finetuned import build
from dnafeat.trainer import BEST, Trainer, known

RESULTS = "results.json"
# Steps from one question to the next whether a node is about to go: Ray answers after a barrier over all workers, 3 to 20 ms long.
_ASK_EVERY = 10


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


def report(folder: Path | None, values: dict[str, Any]) -> None:
    """`ray.train.report`, which all workers have to call; the one with a folder gives it as the checkpoint."""
    train.report(values, checkpoint=None if folder is None else train.Checkpoint.from_directory(str(folder)))


def finished(folder: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The trained tensors and the results in a finished run's last checkpoint."""
    return load_file(folder / BEST), json.loads((folder / RESULTS).read_text())


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

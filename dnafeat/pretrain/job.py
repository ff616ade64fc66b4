"""Masked-language-model pretraining of a DNABERT-2 on Ray Train: FASTA files in, a model folder with its card out.

Run by `jobs/pretrain.py`. A run is named by a digest of its data and settings: the same command goes on from the last checkpoint.
"""

from __future__ import annotations

import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import ray.train.torch
import tokenizers
import torch
from ray import train
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel

from dnafeat import storage
from dnafeat.encoder.models.base import Config
from dnafeat.encoder.models.dnabert2 import DNABERT2
from dnafeat.encoder.models.heads import MaskedLM
from dnafeat.encoder.models.tokenizers import train_bpe
from dnafeat.pretrain import card as modelcard
from dnafeat.pretrain import corpus
from dnafeat.pretrain.config import PretrainConfig
from dnafeat.pretrain.corpus import CLS, SEP
from dnafeat.pretrain.heldout import Prepared, prepare
from dnafeat.pretrain.masking import IGNORED, autocast, crops, faster_precision, framed, mask, masked_score
from dnafeat.pretrain.optimisers import learning_rate, make_optimisers
from dnafeat.training.run import last_checkpoint

_STATE = "state.pt"


def make_tokenizer(options: PretrainConfig, genomes: corpus.Genomes) -> tokenizers.Tokenizer:
    """Non-overlapping k-mers, or a BPE trained on at most 5 million bases of the training part and their other strand."""
    if options.kmer:
        return corpus.kmer_tokenizer(options.kmer)
    strands = corpus.both_strands(list(genomes.train.values()))
    pieces = [s[i : i + 5000].decode("ascii") for s in strands for i in range(0, len(s), 5000)]
    chosen = np.random.default_rng(options.seed).permutation(len(pieces))[:1000]
    return train_bpe([pieces[i].replace("N", "") for i in sorted(chosen)], options.vocab_size)


def training_batch(
    job: dict[str, Any], stream: np.ndarray, offsets: np.ndarray, step: int, rank: int, world: int
) -> tuple[Tensor, Tensor]:
    """A worker's share of the batch of one step, (inputs, targets), int64 (rows, length).

    The whole batch follows from the seed and the step alone, so a resumed run and one with other workers see the same crops.
    """
    rng = np.random.default_rng([job["seed"], step])
    length = int(rng.choice(job["lengths"]))
    rows = max(job["batch_tokens"] // length // world, 1) * world
    ids = crops(stream, offsets, length - 2, rows, rng)
    if job["shortened"] is not None:
        # Sequences end anywhere, so the last token of a crop is cut short as often as not.
        ids[:, -1] = job["shortened"][ids[:, -1], rng.integers(0, job["kmer"], rows)]
    inputs, targets = mask(ids, job["mask_rate"], job["config"]["vocab_size"], rng)
    return framed(inputs[rank::world], CLS, SEP), framed(targets[rank::world], IGNORED, IGNORED)


def _print(line: str) -> None:
    # Ray Train's own `print` shows a worker's line twice.
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


def _train_loop(job: dict[str, Any]) -> None:
    """What every worker runs. Resumes from the run's last checkpoint, which holds the optimiser and the step."""
    torch.set_num_threads(job["threads"])
    torch.manual_seed(job["seed"])
    rank, world = train.get_context().get_world_rank(), train.get_context().get_world_size()
    device = ray.train.torch.get_device()
    stream, offsets, heldout = ray.get(job["data"])
    encoder = DNABERT2(Config(**job["config"]))
    bare = MaskedLM(encoder)
    bare.to(device)
    # The weights come from the seed; what dropout draws differs from worker to worker.
    torch.manual_seed(job["seed"] + 1 + rank)
    optimisers = make_optimisers(bare, job["optimizer"], job["learning_rate"], job["weight_decay"])
    step, seconds, precision, history = 0, 0.0, job["precision"], []
    checkpoint = train.get_checkpoint()
    if checkpoint is not None:
        with checkpoint.as_directory() as folder:
            state: dict[str, Any] = torch.load(Path(folder) / _STATE, map_location=device, weights_only=True)
        bare.load_state_dict(state["model"])
        for optimiser, saved_state in zip(optimisers, state["optimisers"], strict=True):
            optimiser.load_state_dict(saved_state)
        step, seconds, precision, history = state["step"], state["seconds"], state["precision"], state["history"]
        if rank == 0:
            _print(f"resuming at step {step:,} of {job['steps']:,}")
    if precision == "auto":
        # One worker decides for all: two workers with different arithmetic would not train one model.
        decided = [faster_precision(device)]
        if world > 1:
            torch.distributed.broadcast_object_list(decided)
        precision = decided[0]
    if job["compile"]:
        for layer in encoder.encoder.layer:
            layer.compile()
    model = ray.train.torch.prepare_model(bare, move_to_device=False)
    # PyTorch's fused attention for CPUs is several times slower backwards than plain products, at crops of this length.
    attention: Any = sdpa_kernel(SDPBackend.MATH) if device.type == "cpu" else nullcontext()
    tokens, since, began, running = 0, step, time.monotonic(), 0.0
    with attention:
        while step < job["steps"]:
            for group in (group for optimiser in optimisers for group in optimiser.param_groups):
                group["lr"] = learning_rate(job["learning_rate"], job["warmup_steps"], job["steps"], step)
            inputs, targets = (x.to(device) for x in training_batch(job, stream, offsets, step, rank, world))
            with autocast(device, precision):
                logits = model(inputs, positions=targets != IGNORED).logits
            loss = F.cross_entropy(logits.float(), targets[targets != IGNORED])
            loss.backward()
            nn.utils.clip_grad_norm_(bare.parameters(), 1.0)
            for optimiser in optimisers:
                optimiser.step()
            bare.zero_grad(set_to_none=True)
            step += 1
            tokens += inputs.numel() * world
            running = loss.item() if not running else 0.98 * running + 0.02 * loss.item()
            elapsed = time.monotonic() - began
            shown = f"step {step:,}/{job['steps']:,}  loss {running:.4f}  {tokens / elapsed:,.0f} tokens/s  "
            shown += f"{elapsed / (step - since) * (job['steps'] - step) / 60:.1f} min left"
            if step % job["evaluate_every"] and step != job["steps"]:
                if rank == 0 and step % 50 == 0:
                    _print(shown)
                continue
            metrics: dict[str, Any] = {"step": step, "loss": running, "seconds": seconds + elapsed, "precision": precision}
            with tempfile.TemporaryDirectory() as folder:
                saved = None
                if rank == 0:
                    scores = _scores(bare, heldout, precision)
                    _print(shown + "".join(f"  {name} {loss:.4f} ({right:.1%})" for name, (loss, right) in scores.items()))
                    metrics |= {f"heldout_loss/{name}": loss for name, (loss, _) in scores.items()}
                    metrics |= {f"heldout_accuracy/{name}": right for name, (_, right) in scores.items()}
                    history = [*history, metrics]
                    state = {"model": bare.state_dict(), "optimisers": [o.state_dict() for o in optimisers], "history": history}
                    state |= {"step": step, "seconds": metrics["seconds"], "precision": precision}
                    torch.save(state | {"workers": world, "device": device.type}, Path(folder) / _STATE)
                    saved = train.Checkpoint.from_directory(folder)
                train.report(metrics, checkpoint=saved)


def _scores(
    model: nn.Module, heldout: dict[str, tuple[np.ndarray, np.ndarray]], precision: str
) -> dict[str, tuple[float, float]]:
    """Held-out loss and accuracy while training: one group of masks on 128 windows, the same every time."""
    return {
        name: masked_score(model, ids, scored, precision=precision, passes=1, windows=128)[:2]
        for name, (ids, scored) in heldout.items()
    }


def fit(
    options: PretrainConfig, genomes: corpus.Genomes, prepared: Prepared, say: Callable[[str], None] = print
) -> dict[str, Any]:
    """Trains, or goes on with, the run that `options` and the data name, and returns its last checkpoint's state, on the CPU."""
    # Here rather than in a worker, where it would end the run as a failure after several attempts.
    crops(prepared.stream, prepared.offsets, max(options.lengths) - 2, 1, np.random.default_rng(0))
    name = options.run_name(genomes)
    shape = Config(
        vocab_size=prepared.tokenizer.get_vocab_size(), hidden_size=options.hidden, num_hidden_layers=options.layers,
        num_attention_heads=options.heads, intermediate_size=options.intermediate, hidden_dropout_prob=options.dropout,
        initializer_range=options.initializer_range,
    )  # fmt: skip
    workers = options.workers
    place = workers.storage or f"{options.output}.runs"
    gpu = ray.cluster_resources().get("GPU", 0) >= workers.num_workers
    job = {**options.to_dict(), "config": asdict(shape), "threads": workers.cpus_per_worker}
    job["shortened"] = corpus.shortened(prepared.tokenizer, options.kmer) if options.kmer else None
    # By reference: every node fetches the corpus once, and the settings stay small.
    job["data"] = ray.put((prepared.stream, prepared.offsets, prepared.heldout))
    say(f"run {name} in {place}: {workers.num_workers} worker(s) on {'GPU' if gpu else 'CPU'}, {options.steps:,} steps")
    trainer = ray.train.torch.TorchTrainer(
        _train_loop,
        train_loop_config=job,
        scaling_config=train.ScalingConfig(
            num_workers=workers.num_workers,
            use_gpu=gpu,
            resources_per_worker={"CPU": workers.cpus_per_worker} | ({"GPU": 1} if gpu else {}),
        ),
        run_config=train.RunConfig(
            name=name,
            storage_path=storage.absolute(place),
            checkpoint_config=train.CheckpointConfig(num_to_keep=2),
            failure_config=train.FailureConfig(max_failures=workers.max_failures),
        ),
    )
    with last_checkpoint(trainer) as folder:
        state: dict[str, Any] = torch.load(folder / _STATE, map_location="cpu", weights_only=True)
    return state | {"run": name, "config": asdict(shape)}


def run(
    options: PretrainConfig, *, card: str | None = None, probes: tuple[str, ...] = (), say: Callable[[str], None] = print
) -> dict[str, Any]:
    """Reads, trains unless `card` names a finished model, writes the folder and its card, and returns the measured numbers.

    Ray must be running where `card` is None.
    """
    genomes = corpus.read_genomes(options.files, options.holdout, options.holdout_interval)
    folder = Path(storage.absolute(options.output))
    if card is not None:
        return modelcard.rewrite(card, folder, genomes, probes, say)
    prepared = prepare(genomes, make_tokenizer(options, genomes), options.kmer or 1)
    say(
        f"training part {sum(map(len, genomes.train.values())):,} bases, {len(prepared.stream):,} tokens; held out "
        + ", ".join(f"{name} ({len(s):,} bases, {prepared.excluded[name]:.1%} not scored)" for name, s in genomes.heldout.items())
    )
    state = fit(options, genomes, prepared, say)
    modelcard.export(folder, state["model"], Config(**state["config"]), prepared.tokenizer)
    training = {
        "run": state["run"],
        "train": {name: len(s) for name, s in genomes.train.items()},
        "tokens": state["step"] * options.batch_tokens,
        "steps": state["step"],
        **{key: state[key] for key in ("seconds", "precision", "workers", "device")},
        "settings": {key: getattr(options, key) for key in _SHOWN} | {"lengths": list(options.lengths)},
        "history": state["history"],
    }
    return modelcard.write(folder, training, genomes, prepared, probes, say)


_SHOWN = (
    *("seed", "kmer", "optimizer", "batch_tokens", "lengths", "learning_rate"),
    *("warmup_steps", "weight_decay", "mask_rate", "dropout"),
)

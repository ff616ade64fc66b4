"""Settings of pretraining."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from dnafeat.sequence import digest
from dnafeat.settings import Settings, option, part, require
from dnafeat.training.config import WorkersConfig

if TYPE_CHECKING:
    from dnafeat.pretrain.corpus import Genomes


@dataclass(frozen=True, kw_only=True)
class PretrainConfig(Settings, section="training"):
    """Settings of `dnafeat pretrain` and `jobs/pretrain.py`."""

    files: tuple[str, ...] = option("FASTA files to train on, compressed or not", section="input", positional=True)
    output: str = option("folder of the finished model", section="output")
    holdout: tuple[str, ...] = option(
        "FASTA file that is only evaluated on; repeat for several", (), section="input", repeated=True
    )
    holdout_interval: tuple[str, ...] = option(
        "RECORD:START-END, 0-based half-open: interval of a training record that is only evaluated on; repeat for several",
        (),
        section="input",
        repeated=True,
    )
    vocab_size: int = option(
        "tokens of the vocabulary; 9: single bases; more: BPE trained on the training split",
        9,
        section="encoder",
        shapes=True,
        ge=9,
        le=65_536,
    )
    kmer: int = option(
        "tokens are non-overlapping k-mers of this many bases, instead of --vocab-size; 0: they are not",
        0,
        section="encoder",
        shapes=True,
        ge=0,
        le=4,
    )
    layers: int = option("transformer layers", 4, section="encoder", shapes=True, ge=1)
    hidden: int = option("hidden size", 192, section="encoder", shapes=True, ge=1)
    heads: int = option("attention heads", 6, section="encoder", shapes=True, ge=1)
    intermediate: int = option("intermediate size of the feed-forward layers", 512, section="encoder", shapes=True, ge=1)
    dropout: float = option("dropout of hidden states", 0.0, section="encoder", shapes=True, ge=0, lt=1)
    initializer_range: float = option(
        "standard deviation of initial weights; 0.02 suits 768 channels, narrow networks start better near 1/sqrt(hidden)",
        0.02,
        section="encoder",
        shapes=True,
        gt=0,
    )
    steps: int = option("optimiser steps", 10_000, shapes=True, ge=1)
    batch_tokens: int = option("tokens per optimiser step, over all workers, [CLS] and [SEP] included", 8192, shapes=True, ge=1)
    lengths: tuple[int, ...] = option(
        "tokens of a crop; each step draws one of the lengths, so that nothing is padded", (64, 128, 256), shapes=True, ge=16
    )
    optimizer: Literal["adamw", "muon"] = option(
        "muon (Jordan et al. 2024): for the matrices inside the layers, with adamw for other weights", "adamw", shapes=True
    )
    learning_rate: float = option("peak learning rate", 2e-3, shapes=True, gt=0, lt=1)
    warmup_steps: int = option("warm-up steps", 200, shapes=True, ge=0)
    weight_decay: float = option("weight decay", 0.01, shapes=True, ge=0)
    mask_rate: float = option("share of masked tokens", 0.15, shapes=True, gt=0, lt=1)
    seed: int = option("seed of initial weights, crops and masks", 0, shapes=True, ge=0)
    precision: Literal["auto", "float32", "bfloat16"] = option(
        "precision of the matrix products; auto: the faster one on the first worker", "auto", shapes=True
    )
    compile: bool = option(
        "compile each layer: faster after a minute or two; needs a C++ compiler on a CPU", False, section="advanced"
    )
    evaluate_every: int = option("steps between held-out losses, each with a checkpoint", 500, ge=1)
    card: str | None = option(
        "folder of a finished model: train nothing, measure it and write its model card to --output", None, section="output"
    )
    probe: tuple[str, ...] = option(
        "CSV with sequence,label to probe frozen vectors with, for the model card; repeat for several",
        (),
        section="input",
        repeated=True,
    )
    workers: WorkersConfig = part(WorkersConfig, cpus_per_worker=1, max_failures=2, storage="runs")

    def check(self) -> None:
        require(bool(self.files), "name at least one FASTA file to train on")
        require(self.hidden % self.heads == 0, f"hidden {self.hidden} does not divide into {self.heads} heads")
        room = self.batch_tokens // self.workers.num_workers
        require(
            bool(self.lengths) and max(self.lengths) <= room,
            f"lengths {self.lengths} must be at most {room} tokens, which is a worker's share of batch_tokens",
        )

    def run_name(self, genomes: Genomes) -> str:
        """Name the run by everything that changes its result; workers and folders do not."""
        data = [[name, digest(letters)] for split in (genomes.train, genomes.heldout) for name, letters in split.items()]
        return "pretrain-" + hashlib.sha256(json.dumps([self.shaping(), data], sort_keys=True).encode()).hexdigest()[:12]

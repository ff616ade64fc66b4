"""Settings of fine-tuning and of prediction."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from dnafeat.cluster.config import ActorsConfig
from dnafeat.encoder.config import EncodingConfig
from dnafeat.finetune.tasks import METRICS, Metric, Task
from dnafeat.settings import Settings, option, part, require
from dnafeat.sources.regions.config import GenomeConfig
from dnafeat.training.config import WorkersConfig, default_rate


@dataclass(frozen=True, kw_only=True)
class FinetuneConfig(Settings, section="training"):
    """Settings of `dnafeat finetune` and `jobs/finetune.py`."""

    train: str = option("training split: CSV, TSV or Parquet with sequences and labels, local or s3://", section="input")
    output: str = option("artifact to write: folder or s3:// prefix", section="output")
    dev: str | None = option(
        "development split, which selects the best state (default: a part of --train)", None, section="input"
    )
    test: str | None = option(
        "test split, which is measured (default: a part of --train if --dev is not given either)", None, section="input"
    )
    dev_share: float = option(
        "part of --train for development, where --dev is not given", 0.1, section="input", shapes=True, gt=0, lt=1
    )
    test_share: float = option(
        "part of --train for the test, where neither --dev nor --test is given", 0.1, section="input", shapes=True, gt=0, lt=1
    )
    sequence_column: str | None = option("column of the sequences (default: sequence or seq)", None, section="input")
    label_column: str | None = option("column of the labels (default: label)", None, section="input")
    group_column: str | None = option(
        "column whose equal values stay on one side of a split, such as chromosome or locus", None, section="input"
    )
    group_similar: bool | None = option(
        "keep near copies (a quarter or more of their k-mers shared) on one side of a split (default: unless --group-column is given)",
        None,
        section="input",
    )
    iupac: bool = option("accept all IUPAC codes, not only A C G T N", False, section="input", shapes=True)
    task: Task | None = option(
        "what a label is; token: one class per base (default: binary or multiclass, by the labels)",
        None,
        section="input",
        shapes=True,
    )
    model: str | None = option(
        "encoder: bundled name, local folder, s3:// prefix or hub name owner/model[@revision] (default: dnafeat-mini)",
        None,
        section="encoder",
    )
    kmer: int | None = option(
        "split sequences into overlapping k-mers of this length before BPE; 0: do not", None, section="encoder", shapes=True, ge=0
    )
    max_tokens: int | None = option(
        "longest input in tokens, special tokens included; the rest is cut off (default: what the longest sequence needs, up to 512)",
        None,
        section="encoder",
        ge=1,
    )
    special_tokens: bool | None = option(
        "include [CLS] and [SEP] in mean and max (default: only for DNABERT-S)", None, section="encoder", shapes=True
    )
    method: Literal["lora", "full", "probe"] = option(
        "what is trained; probe: only the head, on a frozen encoder; with head linear a regression, solved to the end",
        "lora",
        shapes=True,
    )
    head: Literal["linear", "pooler", "projector"] = option(
        "pooler: [CLS], dense, tanh, as published; projector: a projection to 512 dimensions, trained", "linear", shapes=True
    )
    pooling: str | None = option(
        "vectors that the head takes: cls, mean or max, several joined by + (default: mean; for pooler: cls)", None, shapes=True
    )
    lora_rank: int = option("rank of the LoRA matrices", 8, shapes=True, ge=1)
    lora_alpha: int = option("numerator of LoRA's scale, lora_alpha / lora_rank", 16, shapes=True, ge=1)
    lora_dropout: float = option("dropout before LoRA", 0.05, shapes=True, ge=0, lt=1)
    lora_targets: tuple[str, ...] | None = option(
        "modules with LoRA, with commas (default: all that the architecture has)", None, section="advanced", shapes=True
    )
    lora_options: dict[str, Any] | None = option(
        'further fields of peft.LoraConfig as JSON, for instance {"use_rslora": true}', None, section="advanced", shapes=True
    )
    dropout: float = option("dropout in the head", 0.1, shapes=True, ge=0, lt=1)
    encoder_dropout: float | None = option(
        "dropout in the encoder (default: as in its config.json)", None, shapes=True, ge=0, lt=1
    )
    reverse_complement: bool = option("train on the reverse complement half of the time", False, shapes=True)
    class_weights: bool = option("weight classes by inverse frequency", False, shapes=True)
    epochs: int = option("passes over the training data", 5, shapes=True, ge=1)
    steps: int | None = option("optimiser steps, instead of --epochs", None, shapes=True, ge=1)
    batch_size: int = option("sequences per optimiser step, over all workers", 32, shapes=True, ge=1)
    rows_per_worker: int = option(
        "sequences that a worker processes at once; larger batches are accumulated", 32, section="workers", ge=1
    )
    learning_rate: float | None = option(
        "peak learning rate (default: 1e-4 for lora, 3e-5 for full, 6e-4 for probe, times the square of 768 over the hidden size)",
        None,
        shapes=True,
        gt=0,
    )
    weight_decay: float = option("weight decay of AdamW", 0.01, shapes=True, ge=0)
    warmup_steps: int = option("warm-up steps, at most a tenth of all", 50, shapes=True, ge=0)
    metric: Metric = option(
        "what selects the best state on the development split: loss or a metric of the task", "loss", shapes=True
    )
    eval_steps: int | None = option(
        "steps between evaluations, each with a checkpoint (default: an epoch)", None, shapes=True, ge=1
    )
    patience: int = option("stop after this many evaluations without improvement; 0: never", 3, shapes=True, ge=0)
    precision: Literal["auto", "float32", "bfloat16"] = option(
        "precision of training; auto: bfloat16 on GPUs that support it, float32 elsewhere", "auto"
    )
    seed: int = option("seed of split, order, dropout and fresh weights", 0, shapes=True, ge=0)
    seeds: int = option(
        "train with this many seeds, from --seed on, and report mean and spread; further artifacts are OUTPUT.seeds/SEED", 1, ge=1
    )
    baselines: bool = option("measure baselines on the same split: majority, 3- to 6-mers, one-hot, frozen vectors", True)
    workers: WorkersConfig = part(WorkersConfig)

    def check(self) -> None:
        require(
            self.dev_share + self.test_share < 1, "dev_share and test_share leave nothing to train on: give less than 1 together"
        )

    def encoding(self) -> EncodingConfig:
        """The base model and how it reads sequences."""
        return EncodingConfig(
            model=self.model, kmer=self.kmer or 0, special_tokens=self.special_tokens, precision=self.precision, truncate=True
        )

    def training(self, task: str, hidden_size: int) -> dict[str, Any]:
        """The settings of the workers' loop."""
        require(
            self.metric in ("loss", *METRICS[task]),
            f"metric {self.metric!r} is not one of task {task}: {', '.join(('loss', *METRICS[task]))}",
        )
        names = (
            *("batch_size", "rows_per_worker", "seed", "steps", "epochs", "eval_steps", "weight_decay", "warmup_steps"),
            *("metric", "patience", "precision"),
        )
        chosen = {name: getattr(self, name) for name in names}
        return chosen | {"learning_rate": self.learning_rate or default_rate(self.method, hidden_size)}


@dataclass(frozen=True, kw_only=True)
class PredictConfig(Settings, section="input"):
    """Settings of `dnafeat predict` and `jobs/predict.py`."""

    artifact: str = option("artifact that `dnafeat finetune` wrote: folder or s3:// prefix", positional=True)
    input: tuple[str, ...] = option(
        "FASTA, FASTQ, CSV, TSV or Parquet file, folder, glob or s3:// URI; repeat for several", unless="genome", repeated=True
    )
    output: str = option("file to write, local or s3://; an existing file is replaced; -: standard output", section="output")
    format: Literal["parquet", "csv", "tsv"] | None = option(
        "format of the output (default: by the ending of its name, else parquet)", None, section="output"
    )
    model: str | None = option(
        "present place of the base model: folder, s3:// prefix or hub name (default: as the artifact names it); not for method full",
        None,
        section="encoder",
    )
    id_column: str | None = option(
        "column of a table with the names of its entries (default: sequence_id or id, else file name and row)", None
    )
    sequence_column: str | None = option("column of a table with the sequences (default: sequence or seq)", None)
    reference: GenomeConfig = part(GenomeConfig)
    iupac: bool = option("accept all IUPAC codes, not only A C G T N", False)
    max_n_share: float = option("refuse entries with a larger share of N", 0.5, ge=0, le=1)
    strict: bool = option("write nothing when an entry is refused (default: its row has nulls)", False)
    windows: bool = option(
        "pool all windows of a sequence that is longer than in training (default: only the first window, as in training)",
        False,
        section="encoder",
    )
    precision: Literal["auto", "float32", "bfloat16"] | None = option(
        "precision of prediction; float32 reproduces the artifact's metrics, bfloat16 agrees within about 1e-2 (default: as trained, and "
        "float32 on CPUs)",
        None,
        section="encoder",
    )
    actors: ActorsConfig = part(ActorsConfig)

    def check(self) -> None:
        over = self.reference.genome is not None
        require(bool(self.input) or over, "name at least one file to predict with --input")
        require(not (self.input and over), "input and genome exclude each other: regions of a genome are an input of their own")

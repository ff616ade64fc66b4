"""The configuration of fine-tuning: names of flags and of YAML settings, checked."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from dnafeat.encoder.config import EncodingConfig
from dnafeat.finetune.tasks import METRICS, TASKS
from dnafeat.settings import Settings, option, require
from dnafeat.training.config import WorkersConfig, default_rate

METHODS = ("lora", "full", "probe")


@dataclass(frozen=True, kw_only=True)
class FinetuneConfig(WorkersConfig):
    """What `dnafeat finetune` and `jobs/finetune.py` do."""

    train: str = option("CSV, TSV or Parquet with sequences and labels, local or s3://")
    output: str = option("folder or s3:// prefix of the artifact")
    dev: str | None = option("the same to choose the best state by (else a part of --train)", None)
    test: str | None = option("the same to measure the result on (else a part of --train where --dev is not given either)", None)
    dev_share: float = option("part of --train that becomes dev where none is given", 0.1, shapes=True)
    test_share: float = option("part of --train that becomes test where neither is given", 0.1, shapes=True)
    sequence_column: str | None = option("column of the sequences (else sequence or seq)", None)
    label_column: str | None = option("column of the labels (else label)", None)
    iupac: bool = option("accept all IUPAC codes and not only A C G T N", False, shapes=True)
    task: str | None = option(
        "binary, multiclass, multilabel, regression or token (else binary or multiclass, by the labels)", None, shapes=True
    )
    model: str | None = option(
        "bundled encoder, local folder, s3:// prefix, or hub name owner/model[@revision] (else dnafeat-mini)", None
    )
    kmer: int | None = option("cut sequences into overlapping k-mers with spaces before BPE", None, shapes=True)
    max_tokens: int | None = option(
        "longest input, special tokens counted; the rest is cut off (else what the longest one needs, 512 at most)", None
    )
    special_tokens: bool | None = option("count [CLS] and [SEP] in mean and max (else only for DNABERT-S)", None, shapes=True)
    method: str = option("lora, full, or probe: a frozen encoder", "lora", shapes=True)
    head: str = option(
        "linear, pooler (as published: [CLS], dense, tanh), or projector (the map to 512 dimensions, trained)",
        "linear",
        shapes=True,
    )
    pooling: str | None = option(
        "vectors the head takes: cls, mean, max, with + between (else mean; pooler: cls)", None, shapes=True
    )
    lora_rank: int = option("rank of the LoRA matrices", 8, shapes=True)
    lora_alpha: int = option("LoRA's scale is this over the rank", 16, shapes=True)
    lora_dropout: float = option("dropout before LoRA", 0.05, shapes=True)
    lora_targets: tuple[str, ...] | None = option(
        "modules with LoRA, with commas (else all that the architecture has)", None, shapes=True
    )
    lora_options: dict[str, Any] | None = option(
        'further fields of peft.LoraConfig as JSON, for instance {"use_rslora": true}', None, shapes=True
    )
    dropout: float = option("dropout in the head", 0.1, shapes=True)
    encoder_dropout: float | None = option("dropout in the encoder (else what its config says)", None, shapes=True)
    reverse_complement: bool = option("train on the reverse complement half of the time", False, shapes=True)
    class_weights: bool = option("weigh classes by how rare they are", False, shapes=True)
    epochs: int = option("passes over the training data", 5, shapes=True)
    steps: int | None = option("optimiser steps, instead of --epochs", None, shapes=True)
    batch_size: int = option("sequences an optimiser step sees, over all workers", 32, shapes=True)
    rows_per_worker: int = option("sequences a worker holds at a time; more are accumulated", 32)
    learning_rate: float | None = option(
        "peak learning rate (else 1e-4 for lora, 3e-5 for full, 6e-4 for probe, times the square of 768 over the hidden size)",
        None,
        shapes=True,
    )
    weight_decay: float = option("AdamW's weight decay", 0.01, shapes=True)
    warmup_steps: int = option("steps of rising learning rate, a tenth of all at most", 50, shapes=True)
    metric: str = option("what the best state is chosen by, on dev: loss or a metric of the task", "loss", shapes=True)
    eval_steps: int | None = option("steps from one evaluation and checkpoint to the next (else an epoch)", None, shapes=True)
    patience: int = option("stop after so many evaluations without a better one; 0: never", 3, shapes=True)
    precision: str = option("auto, float32 or bfloat16; auto: bfloat16 on GPUs that have it", "auto")
    seed: int = option("of split, order, dropout and fresh weights", 0, shapes=True)

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self.method in METHODS, f"method {self.method!r} is none of {', '.join(METHODS)}")
        require(self.task is None or self.task in TASKS, f"task {self.task!r} is none of {', '.join(TASKS)}")
        known = sorted({"loss"} | {name for names in METRICS.values() for name in names})
        require(self.metric in known, f"metric {self.metric!r} is none of {', '.join(known)}")
        for name in ("epochs", "batch_size", "rows_per_worker", "lora_rank", "lora_alpha"):
            require(getattr(self, name) >= 1, f"{name} {getattr(self, name)} is too few: give 1 or more")
        for name in ("steps", "eval_steps", "max_tokens"):
            value = getattr(self, name)
            require(value is None or value >= 1, f"{name} {value} is too few: give 1 or more")
        for name in ("patience", "warmup_steps", "weight_decay", "seed"):
            require(getattr(self, name) >= 0, f"{name} {getattr(self, name)} is less than none")
        for name in ("dropout", "lora_dropout", "encoder_dropout"):
            value = getattr(self, name)
            require(value is None or 0 <= value < 1, f"{name} {value} is no share: give a number from 0 to below 1")
        for name in ("dev_share", "test_share"):
            require(0 < getattr(self, name) < 1, f"{name} {getattr(self, name)} is no share: give a number between 0 and 1")
        require(self.dev_share + self.test_share < 1, "dev_share and test_share leave nothing to train on")
        rate = self.learning_rate
        require(rate is None or rate > 0, f"learning_rate {rate} learns nothing: give more than 0")
        require(self.precision != "int8", "precision int8 cannot be trained in: train in float32, and give int8 to embed")
        self.encoding()

    def encoding(self) -> EncodingConfig:
        """The base and how sequences are read by it."""
        return EncodingConfig(
            model=self.model, kmer=self.kmer or 0, special_tokens=self.special_tokens, precision=self.precision, truncate=True
        )

    def training(self, task: str, hidden_size: int) -> dict[str, Any]:
        """What the workers' loop takes."""
        require(
            self.metric in ("loss", *METRICS[task]),
            f"metric {self.metric!r} is not one of task {task}: {', '.join(('loss', *METRICS[task]))}",
        )
        names = (
            "batch_size",
            "rows_per_worker",
            "seed",
            "steps",
            "epochs",
            "eval_steps",
            "weight_decay",
            "warmup_steps",
            "metric",
        )
        chosen = {name: getattr(self, name) for name in (*names, "patience", "precision")}
        return chosen | {"learning_rate": self.learning_rate or default_rate(self.method, hidden_size)}


@dataclass(frozen=True, kw_only=True)
class PredictConfig(Settings):
    """What `dnafeat predict` and `jobs/predict.py` do."""

    artifact: str = option("what dnafeat finetune wrote: folder or s3:// prefix", positional=True)
    input: tuple[str, ...] = option(
        "FASTA, FASTQ, CSV, TSV or Parquet file, folder, glob or s3:// URI; once for each of several", repeated=True
    )
    output: str = option("Parquet file to write, local or s3://; one that is there is replaced")
    model: str | None = option(
        "where the base is now: folder, s3:// prefix or hub name (else as the artifact names it); not for method full", None
    )
    id_column: str | None = option(
        "column of a table that names its entries (else sequence_id or id, else file name and row)", None
    )
    sequence_column: str | None = option("column of a table that holds the sequences (else sequence or seq)", None)
    iupac: bool = option("accept all IUPAC codes and not only A C G T N", False)
    max_n_share: float = option("refuse entries with a larger share of N, 0 to 1", 0.5)
    strict: bool = option("write nothing when an entry is refused (else its row has nulls)", False)
    windows: bool = option(
        "pool all windows of a sequence longer than the training's (else its first window alone, as in training)", False
    )
    precision: str | None = option(
        "auto, float32 or bfloat16 (else as trained, and float32 on CPUs); float32 gives the artifact's measures again, bfloat16 agrees "
        "within about 1e-2",
        None,
    )
    num_actors: int | None = option("predicting actors (else one a GPU, or one a CPU)", None)
    gpus_per_actor: float | None = option("GPUs an actor holds; 0: predict on CPUs (else 1 where the cluster has GPUs)", None)
    accelerator_type: str | None = option(
        "kind of GPU that an actor's node must have, as Ray names it: L4, A100, … (else any)", None
    )

    def __post_init__(self) -> None:
        require(bool(self.input), "name at least one file to predict with --input")
        require(0 <= self.max_n_share <= 1, f"max_n_share {self.max_n_share} is no share: give a number from 0 to 1")
        require(
            self.precision in (None, "auto", "float32", "bfloat16"),
            f"precision {self.precision!r} is none of auto, float32, bfloat16",
        )
        require(self.num_actors is None or self.num_actors >= 1, f"num_actors {self.num_actors} is too few: give 1 or more")
        require(
            self.gpus_per_actor is None or self.gpus_per_actor >= 0, f"gpus_per_actor {self.gpus_per_actor} is less than none"
        )

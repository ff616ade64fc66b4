"""The configuration of prediction: names of flags and of YAML settings, checked."""

from __future__ import annotations

from dataclasses import dataclass

from dnafeat.config import Settings, option, require


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

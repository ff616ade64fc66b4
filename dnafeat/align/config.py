"""The configuration of alignment: what is joined, whom it is split by, what is fitted and measured."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from dnafeat.join.config import JoinConfig, JoinInputs
from dnafeat.settings import Settings, option, require
from dnafeat.training.config import WorkersConfig

RESIDUALISED = ("both", "dna", "partner")


@dataclass(frozen=True, kw_only=True)
class AlignConfig(WorkersConfig, JoinInputs):
    """What `dnafeat align` and `jobs/align.py` do."""

    output: str = option("folder or s3:// prefix of the artifact; the joined table comes beside it, as OUTPUT.joined")
    store: str | None = option("folder or s3:// prefix of the feature store", None)
    on: str = option("key column of subjects, on which tables are joined", "subject_id")
    joined: str | None = option("a table that `dnafeat join` wrote, in place of --store and --partner", None)
    modality: str | None = option("which partner of --joined, where it has several", None)
    subjects: str | None = option(
        "CSV, TSV, Parquet or Delta table with columns of subjects, keyed as --on (else the partner's own columns)", None
    )
    family_column: str | None = option(
        "column of subjects that names their family: relatives stay on one side", None, shapes=True
    )
    covariates: tuple[str, ...] = option(
        "columns of subjects whose effect is taken out of the vectors, with commas: age,sex,site,PC1", (), shapes=True
    )
    categorical: tuple[str, ...] = option("covariates that are names though they look like numbers", (), shapes=True)
    residualise: str = option("what covariates are taken out of: both, dna or partner", "both", shapes=True)
    drop_missing: bool = option("leave out subjects that lack a covariate, and count them", False, shapes=True)
    pca: int | None = option("bring the DNA down to so many principal components of the training subjects", None, shapes=True)
    phenotype: str | None = option("column of subjects that the probes tell: numbers, or texts", None, shapes=True)
    dev_share: float = option("share of subjects that the best state is chosen by", 0.15, shapes=True)
    test_share: float = option("share of subjects that are held out and measured", 0.2, shapes=True)
    shuffle: bool = option("give every subject a stranger's partner vector: what is found then is chance", False, shapes=True)
    dropout: float = option("dropout in both projectors", 0.4, shapes=True)
    temperature: float = option("of the contrastive loss at the start; it is learned", 0.07, shapes=True)
    epochs: int = option("passes over the training subjects", 200, shapes=True)
    steps: int | None = option("optimiser steps, instead of --epochs", None, shapes=True)
    batch_size: int = option(
        "subjects an optimiser step sees, over all workers: each is told apart from the others", 256, shapes=True
    )
    learning_rate: float = option("peak learning rate", 3e-4, shapes=True)
    weight_decay: float = option("AdamW's weight decay", 0.05, shapes=True)
    warmup_steps: int = option("steps of rising learning rate, a tenth of all at most", 50, shapes=True)
    eval_steps: int | None = option("steps from one evaluation and checkpoint to the next (else five epochs)", None, shapes=True)
    patience: int = option("stop after so many evaluations without a better one; 0: never", 8, shapes=True)
    permutations: int = option("shuffles of each permutation test", 999, shapes=True)
    resamples: int = option("resamples of each bootstrap interval", 1000, shapes=True)
    sequences: str | None = option(
        "the table that was embedded, with --on among its columns: tune the encoder, too, by LoRA, end to end", None, shapes=True
    )
    model: str | None = option("with --sequences: the model of the store's version (else dnafeat-mini)", None, shapes=True)
    adapter: str | None = option("with --sequences: the adapter of the store's version, which is trained on", None, shapes=True)
    lora_rank: int = option("rank of fresh LoRA matrices", 8, shapes=True)
    lora_alpha: int = option("LoRA's scale is this over the rank", 16, shapes=True)
    encoder_learning_rate: float | None = option(
        "peak learning rate of the LoRA matrices (else 1e-4 times the square of 768 over the hidden size)", None, shapes=True
    )
    seed: int = option("of split, order, dropout, fresh weights, shuffles and resamples", 0, shapes=True)

    def __post_init__(self) -> None:
        JoinInputs.__post_init__(self)
        WorkersConfig.__post_init__(self)
        if self.joined is None:
            require(
                self.store is not None,
                "store is missing: say with --store and --partner NAME=URI what is aligned, or give a joined table with --joined",
            )
            require(
                len(self.partners) == 1,
                f"partner names {len(self.partners)} modalities, and DNA is aligned with one: give --partner NAME=URI once",
            )
            require(self.modality is None, "modality is for a joined table with several partners: leave it out")
        else:
            given = [name for name in ("store", "partner", "salt_file") if getattr(self, name)]
            require(
                not given, f"joined is given and {given[0] if given else ''}, too: a joined table has its DNA and its partners"
            )
        if self.sequences is None:
            require(
                not self.model and not self.adapter,
                "model and adapter are for --sequences: the store has the vectors of its version",
            )
        else:
            plain = self.level == "subject" and self.aggregate in (None, "mean") and self.vector == "mean" and self.genes is None
            require(
                plain,
                "sequences are encoded end to end into mean vectors of subjects: leave level, aggregate, vector and genes out",
            )
            dna = self.pca is not None or (bool(self.covariates) and self.residualise != "partner")
            require(not dna, "end to end nothing is taken out of DNA vectors: say --residualise partner, and leave pca out")
        require(self.residualise in RESIDUALISED, f"residualise {self.residualise!r} is none of {', '.join(RESIDUALISED)}")
        strange = [name for name in self.categorical if name not in self.covariates]
        require(not strange, f"categorical names {strange[0] if strange else ''!r}, which is no covariate")
        require(len(set(self.covariates)) == len(self.covariates), "covariates names one twice: leave one out")
        for name in (
            "epochs",
            "batch_size",
            "pca",
            "steps",
            "eval_steps",
            "permutations",
            "resamples",
            "lora_rank",
            "lora_alpha",
        ):
            value = getattr(self, name)
            require(value is None or value >= 1, f"{name} {value} is too few: give 1 or more")
        require(self.batch_size > 1, "batch_size 1 leaves nobody to tell a subject apart from: give 2 or more")
        for name in ("patience", "warmup_steps", "weight_decay", "seed"):
            require(getattr(self, name) >= 0, f"{name} {getattr(self, name)} is less than none")
        require(0 <= self.dropout < 1, f"dropout {self.dropout} is no share: give a number from 0 to below 1")
        require(0.01 <= self.temperature <= 1, f"temperature {self.temperature} is out of bounds: give 0.01 to 1")
        require(self.learning_rate > 0, f"learning_rate {self.learning_rate} learns nothing: give more than 0")
        for name in ("dev_share", "test_share"):
            require(0 < getattr(self, name) < 1, f"{name} {getattr(self, name)} is no share: give a number between 0 and 1")
        require(self.dev_share + self.test_share < 1, "dev_share and test_share leave nobody to train on")

    @property
    def shares(self) -> dict[str, float]:
        """Of the sides of the split."""
        return {"dev": self.dev_share, "test": self.test_share, "train": 1 - self.dev_share - self.test_share}

    def join(self, output: str) -> JoinConfig:
        """The join that brings the modalities together."""
        names = JoinInputs.__dataclass_fields__
        return JoinConfig(
            **{name: getattr(self, name) for name in names}, store=self.store or "", output=output, replace_widths=True
        )

    def training(self) -> dict[str, Any]:
        """What the workers' loop takes."""
        names = (
            *("seed", "dropout", "temperature", "epochs", "steps", "batch_size", "learning_rate", "weight_decay"),
            *("warmup_steps", "eval_steps", "patience"),
        )
        return {name: getattr(self, name) for name in names}


@dataclass(frozen=True, kw_only=True)
class ApplyConfig(Settings):
    """What `dnafeat align-apply` does."""

    artifact: str = option("folder or s3:// prefix that `dnafeat align` wrote", positional=True)
    joined: str = option("table that `dnafeat join` wrote with the same --level, --aggregate, --genes and partner; any --how")
    output: str = option("Parquet file to write")
    subjects: str | None = option("table with the covariates of subjects (else the partner's own columns)", None)
    prepared: bool = option("write the vectors before projection, too: covariates taken out, z-scored, as components", False)
    salt_file: str | None = option(
        "file with the salt under which keys are hashed, for a table of subjects that has them plain", None
    )

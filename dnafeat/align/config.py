"""Settings of alignment: what is joined, how subjects are split, what is trained and measured."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from dnafeat.align.terms import Curves
from dnafeat.join.config import JoinConfig, JoinInputs
from dnafeat.settings import Settings, option, part, require
from dnafeat.training.config import WorkersConfig


@dataclass(frozen=True, kw_only=True)
class AlignConfig(Settings, section="training"):
    """Settings of `dnafeat align` and `jobs/align.py`."""

    output: str = option(
        "artifact to write: folder or s3:// prefix; the joined table is written beside it, as OUTPUT.joined", section="output"
    )
    store: str | None = option("feature store: folder or s3:// prefix", None, section="input", env="DNAFEAT_STORE")
    joined: str | None = option("table that `dnafeat join` wrote, instead of --store and --partner", None, section="input")
    modality: str | None = option("partner of --joined to align with, if it has several", None, section="input")
    inputs: JoinInputs = part(JoinInputs, on="subject_id")
    subjects: str | None = option(
        "CSV, TSV, Parquet or Delta table of subjects, keyed as --on (default: the partner's own columns)", None, section="input"
    )
    family_column: str | None = option(
        "column of subjects with their family: relatives stay in one split, and are shuffled and drawn together",
        None,
        section="input",
        shapes=True,
    )
    covariates: tuple[str, ...] = option(
        "columns of subjects whose effect is removed from the vectors, with commas: age,sex,site,PC1",
        (),
        section="input",
        shapes=True,
    )
    categorical: tuple[str, ...] = option(
        "covariates that are categories although they look like numbers, with commas", (), section="input", shapes=True
    )
    covariate_terms: Curves = option(
        "how covariates that are numbers are removed: linear, with their squares, or as restricted cubic splines",
        "linear",
        section="input",
        shapes=True,
    )
    interactions: tuple[str, ...] = option(
        "pairs of covariates whose products are removed, too, with commas: age:sex,age:site", (), section="input", shapes=True
    )
    residualise: Literal["both", "dna", "partner"] = option(
        "vectors from which covariates are removed", "both", section="input", shapes=True
    )
    drop_missing: bool = option("leave out subjects without a covariate, and count them", False, section="input", shapes=True)
    pca: int | None = option(
        "reduce DNA vectors to this many principal components of the training subjects",
        None,
        section="input",
        shapes=True,
        ge=1,
    )
    phenotype: str | None = option(
        "column of subjects that the probes predict: numbers or texts", None, section="input", shapes=True
    )
    dev_share: float = option(
        "share of subjects in the development split, which selects the best state", 0.15, section="input", shapes=True, gt=0, lt=1
    )
    test_share: float = option(
        "share of subjects in the test split, which is measured", 0.2, section="input", shapes=True, gt=0, lt=1
    )
    shuffle: bool = option(
        "pair every subject with the partner vector of another one, as a chance baseline", False, section="input", shapes=True
    )
    dropout: float = option("dropout in both projectors", 0.4, shapes=True, ge=0, lt=1)
    temperature: float = option("initial temperature of the contrastive loss, which is learned", 0.07, shapes=True, ge=0.01, le=1)
    epochs: int = option("passes over the training subjects", 200, shapes=True, ge=1)
    steps: int | None = option("optimiser steps, instead of --epochs", None, shapes=True, ge=1)
    batch_size: int = option(
        "subjects per optimiser step, over all workers: each is contrasted with the others", 256, shapes=True, ge=2
    )
    learning_rate: float = option("peak learning rate", 3e-4, shapes=True, gt=0)
    weight_decay: float = option("weight decay of AdamW", 0.05, shapes=True, ge=0)
    warmup_steps: int = option("warm-up steps, at most a tenth of all", 50, shapes=True, ge=0)
    eval_steps: int | None = option(
        "steps between evaluations, each with a checkpoint (default: five epochs)", None, shapes=True, ge=1
    )
    patience: int = option("stop after this many evaluations without improvement; 0: never", 8, shapes=True, ge=0)
    permutations: int = option("shuffles of each permutation test", 999, shapes=True, ge=1)
    resamples: int = option("resamples of each bootstrap interval", 1000, shapes=True, ge=1)
    sequences: str | None = option(
        "the table that was embedded, with --on among its columns: also tune the encoder end to end, by LoRA",
        None,
        section="encoder",
        shapes=True,
    )
    model: str | None = option(
        "with --sequences: the model of the store's version (default: dnafeat-mini)", None, section="encoder", shapes=True
    )
    adapter: str | None = option(
        "with --sequences: the adapter of the store's version, which is trained further", None, section="encoder", shapes=True
    )
    lora_rank: int = option("rank of fresh LoRA matrices", 8, section="encoder", shapes=True, ge=1)
    lora_alpha: int = option("numerator of LoRA's scale, lora_alpha / lora_rank", 16, section="encoder", shapes=True, ge=1)
    encoder_learning_rate: float | None = option(
        "peak learning rate of the LoRA matrices (default: 1e-4 times the square of 768 over the hidden size)",
        None,
        section="encoder",
        shapes=True,
        gt=0,
    )
    seed: int = option("seed of split, order, dropout, fresh weights, shuffles and resamples", 0, shapes=True, ge=0)
    workers: WorkersConfig = part(WorkersConfig)

    @classmethod
    def environment(cls, given: Mapping[str, Any]) -> dict[str, Any]:
        # A joined table takes the place of the store.
        return {} if given.get("joined") else super().environment(given)

    def check(self) -> None:
        inputs = self.inputs
        if self.joined is None:
            require(
                self.store is not None,
                "store is missing: give --store and --partner NAME=URI, or a joined table with --joined",
            )
            require(
                len(inputs.partners) == 1,
                f"partner names {len(inputs.partners)} modalities, and DNA is aligned with one: give --partner NAME=URI once",
            )
            require(self.modality is None, "modality is for a joined table with several partners: leave it out")
        else:
            both = {"store": self.store, "partner": inputs.partner, "salt_file": inputs.salt_file}
            given = [name for name, value in both.items() if value]
            require(
                not given, f"joined is given and {given[0] if given else ''}, too: a joined table has its DNA and its partners"
            )
        if self.sequences is None:
            require(
                not self.model and not self.adapter,
                "model and adapter are for --sequences: the store has the vectors of its version",
            )
        else:
            plain = inputs.level == "subject" and inputs.aggregate in (None, "mean")
            require(
                plain and inputs.vector == "mean" and inputs.genes is None,
                "sequences are encoded end to end into mean vectors of subjects: leave level, aggregate, vector and genes out",
            )
            dna = self.pca is not None or (bool(self.covariates) and self.residualise != "partner")
            require(not dna, "end to end nothing is removed from DNA vectors: give --residualise partner, and leave pca out")
        unknown = [name for name in self.categorical if name not in self.covariates]
        require(not unknown, f"categorical names {unknown[0] if unknown else ''!r}, which is no covariate")
        require(len(set(self.covariates)) == len(self.covariates), "covariates names one twice: leave one out")
        for one in self.interactions:
            pair = one.split(":")
            require(
                len(pair) == 2 and pair[0] != pair[1] and set(pair) <= set(self.covariates),
                f"interactions has {one!r}: give two covariates and a colon between them, such as age:sex",
            )
        require(
            self.covariate_terms == "linear" or bool(self.covariates),
            "covariate_terms is for --covariates: name them, or leave it out",
        )
        require(
            self.dev_share + self.test_share < 1, "dev_share and test_share leave nobody to train on: give less than 1 together"
        )

    def shaping(self) -> dict[str, Any]:
        # Terms came later: without them a run keeps the name that it had before.
        terms = {"covariate_terms": "linear", "interactions": ()}
        return {name: value for name, value in super().shaping().items() if name not in terms or value != terms[name]}

    @property
    def shares(self) -> dict[str, float]:
        """Shares of the splits."""
        return {"dev": self.dev_share, "test": self.test_share, "train": 1 - self.dev_share - self.test_share}

    @property
    def pairs(self) -> list[tuple[str, str]]:
        """The covariates of each interaction."""
        return [(a, b) for a, _, b in (one.partition(":") for one in self.interactions)]

    def join(self, output: str) -> JoinConfig:
        """The join that brings the modalities together."""
        return JoinConfig(inputs=self.inputs, store=self.store or "", output=output, replace_widths=True)

    def training(self) -> dict[str, Any]:
        """The settings of the workers' loop."""
        names = (
            *("seed", "dropout", "temperature", "epochs", "steps", "batch_size", "learning_rate", "weight_decay"),
            *("warmup_steps", "eval_steps", "patience"),
        )
        return {name: getattr(self, name) for name in names}


@dataclass(frozen=True, kw_only=True)
class ApplyConfig(Settings, section="input"):
    """Settings of `dnafeat align-apply`."""

    artifact: str = option("artifact that `dnafeat align` wrote: folder or s3:// prefix", positional=True)
    joined: str = option("table that `dnafeat join` wrote with the same --level, --aggregate, --genes and partner; any --how")
    output: str = option("Parquet file to write", section="output")
    subjects: str | None = option("table with the covariates of subjects (default: the partner's own columns)", None)
    prepared: bool = option(
        "also write the vectors before projection: covariates removed, z-scored, as components", False, section="output"
    )
    salt_file: str | None = option(
        "file with the salt of the hashed keys, for a table of subjects with plain keys", None, section="privacy"
    )

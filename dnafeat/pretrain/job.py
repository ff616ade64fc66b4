"""Masked-language-model pretraining of a DNABERT-2: FASTA files to a model folder with its card.

A run is named by a digest of its data and settings: the same command resumes from its last checkpoint, or reports that the model is there.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import tokenizers

from dnafeat import storage
from dnafeat.encoder.models.base import Config
from dnafeat.encoder.models.tokenizers import train_bpe
from dnafeat.pretrain import artifact, corpus
from dnafeat.pretrain.config import PretrainConfig
from dnafeat.pretrain.heldout import PreparedCorpus, prepare
from dnafeat.pretrain.masking import crops
from dnafeat.pretrain.report import plain
from dnafeat.pretrain.worker import PretrainData, PretrainJob, pretrain_worker
from dnafeat.text import aligned
from dnafeat.training.artifact import TrainingSummary
from dnafeat.training.run import train
from dnafeat.training.worker import Launch, TrainingRun

_log = logging.getLogger(__name__)
# Settings that the card names.
_SHOWN = (
    *("seed", "kmer", "optimizer", "batch_tokens", "lengths", "learning_rate"),
    *("warmup_steps", "weight_decay", "mask_rate", "dropout"),
)


class PretrainSummary(TrainingSummary):
    """Summary of `pretrain`: `metrics.json` of the model, `already_trained` and `artifact`."""

    def __repr__(self) -> str:
        return format_result(self, self["artifact"])


def pretrain(
    config: PretrainConfig, *, show: bool = True, say: Callable[[str], None] = _log.info, launch: Launch = train
) -> PretrainSummary:
    """Train, or resume, the run that data and settings name, and write the model with its card.

    Where `config.card` names a finished model, nothing is trained: that model is measured and written with a new card.

    Parameters
    ----------
    show : bool
        Whether to show a progress bar.
    say : function
        Called with each sentence that a user should read before training ends.
    launch : Launch
        Runs the workers.

    Returns
    -------
    PretrainSummary
        `already_trained` is whether nothing was trained because the model was there.

    Raises
    ------
    UsageError
        Something is wrong with files or settings, or `config.output` holds the model of another run; no worker was started.
    EncodingError
        The workers failed more often than they may; the same command resumes from the last checkpoint.
    """
    genomes = corpus.read_genomes(config.files, config.holdout, config.holdout_interval)
    output = storage.absolute(config.output)
    if config.card is not None:
        metrics = artifact.rewrite(config.card, output, genomes, config.probe)
        return PretrainSummary(metrics, already_trained=True, artifact=config.output)
    name = config.run_name(genomes)
    if known := artifact.trained_before(config.output, name, say):
        if not {storage.name(file) for file in config.probe} <= known["probes"].keys():
            known = artifact.rewrite(output, output, genomes, config.probe)
        return PretrainSummary(known, already_trained=True, artifact=config.output)
    prepared = prepare(genomes, make_tokenizer(config, genomes), config.kmer or 1)
    for record, letters in genomes.heldout.items():
        say(f"held out: {record}, {len(letters):,} bases, of which {prepared.excluded[record]:.1%} are not scored")
    run = training_run(config, name, genomes, prepared)
    trained, results = launch(run, show=show, say=say)
    metrics = artifact.write(
        output,
        trained,
        run.job.shape,
        prepared,
        genomes,
        training=_training(config, name, genomes, results),
        probes=config.probe,
    )
    return PretrainSummary(metrics, already_trained=False, artifact=config.output)


def training_run(config: PretrainConfig, name: str, genomes: corpus.Genomes, prepared: PreparedCorpus) -> TrainingRun:
    """Make a run of prepared data. Raises UsageError where no training stretch is as long as a crop."""
    # Here rather than in a worker, where it would end the run as a failure after several attempts.
    crops(prepared.stream, prepared.offsets, max(config.lengths) - 2, 1, np.random.default_rng(0))
    shape = Config(
        vocab_size=prepared.tokenizer.get_vocab_size(),
        hidden_size=config.hidden,
        num_hidden_layers=config.layers,
        num_attention_heads=config.heads,
        intermediate_size=config.intermediate,
        hidden_dropout_prob=config.dropout,
        initializer_range=config.initializer_range,
    )
    return TrainingRun(
        name=name,
        work=pretrain_worker,
        job=PretrainJob(config=config, shape=shape),
        data=PretrainData(
            stream=prepared.stream,
            offsets=prepared.offsets,
            heldout=prepared.heldout,
            shortened=corpus.shortened(prepared.tokenizer, config.kmer) if config.kmer else None,
        ),
        workers=config.workers,
        output=storage.absolute(config.output),
        subject=f"{sum(map(len, genomes.train.values())):,} training bases, {int(prepared.offsets[-1]):,} tokens",
        batch=f"batches of {config.batch_tokens:,} tokens",
    )


def make_tokenizer(config: PretrainConfig, genomes: corpus.Genomes) -> tokenizers.Tokenizer:
    """Make a tokenizer of non-overlapping k-mers, or train a BPE on at most 5 million bases of the training part, both strands."""
    if config.kmer:
        return corpus.kmer_tokenizer(config.kmer)
    strands = corpus.both_strands(list(genomes.train.values()))
    pieces = [s[i : i + 5000].decode("ascii") for s in strands for i in range(0, len(s), 5000)]
    chosen = np.random.default_rng(config.seed).permutation(len(pieces))[:1000]
    return train_bpe([pieces[i].replace("N", "") for i in sorted(chosen)], config.vocab_size)


def _training(config: PretrainConfig, name: str, genomes: corpus.Genomes, results: Mapping[str, Any]) -> dict[str, Any]:
    """Make the part of `metrics.json` that describes a run."""
    losses = {row["step"]: row["loss"] for row in results["history"] if "loss" in row}
    return {
        "run": name,
        "train": {record: len(letters) for record, letters in genomes.train.items()},
        "tokens": results["steps"] * config.batch_tokens,
        **{key: results[key] for key in ("steps", "seconds", "precision", "workers", "device")},
        "settings": {key: getattr(config, key) for key in _SHOWN} | {"lengths": list(config.lengths)},
        "history": [
            {"step": row["step"], "loss": losses[row["step"]], "precision": results["precision"], **row}
            for row in results["history"]
            if "eval_loss" in row
        ],
    }


def format_result(summary: Mapping[str, Any], output: str) -> str:
    """Format the summary of a run: one line, and a table of held-out losses in nats per token, and accuracies."""
    training = summary["training"]
    done = "was trained already" if summary["already_trained"] else f"{training['steps']:,} steps in {training['seconds']:.0f} s"
    rows = [["held out", "tokens", "loss", "table", "unigram", "accuracy", "table", "most frequent"]]
    for record, row in summary["masked_lm"].items():
        losses = [f"{row[name]:.4f}" for name in ("loss", "table_loss", "unigram_loss")]
        shares = [f"{row[name]:.1%}" for name in ("accuracy", "table_accuracy", "most_frequent_accuracy")]
        rows.append([plain(record), f"{row['tokens']:,}", *losses, *shares])
    return "\n".join(
        [
            f"{output}: {summary['parameters']:,} parameters, {done}",
            "",
            aligned(rows, right=range(1, 8)),
            "",
            f"its card, with baselines and probes, is {storage.join(output, 'README.md')}",
        ]
    )

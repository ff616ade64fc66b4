"""The card of a pretrained model: its measured numbers in words and tables."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from dnafeat.pretrain import probe
from dnafeat.pretrain.heldout import FLANK, SHARED


def card(name: str, metrics: Mapping[str, Any]) -> str:
    """Format the card as Markdown. Every number in it comes from `metrics`."""
    config, training = metrics["config"], metrics["training"]
    unit, tokens = "token", f"Tokens are BPE pieces, {config['vocab_size'] - 5} of them."
    if config["vocab_size"] == 9:
        unit, tokens = "base", "A token is one base."
    elif k := training["settings"]["kmer"]:
        tokens = f"A token is {k} bases, without overlap; what is left at the end is a shorter token."
    settings = ", ".join(f"{key.replace('_', ' ')} {value}" for key, value in training["settings"].items())
    lines = [
        f"# {name}",
        "",
        f"A small DNA encoder of DNABERT-2's architecture (ALiBi positions, gated feed-forward): {config['num_hidden_layers']} layers "
        f"of {config['hidden_size']} channels, {config['num_attention_heads']} heads, {metrics['parameters'] / 1e6:.2f} million "
        f"parameters, weights in bfloat16. {tokens} It is made for trying dnafeat without a network and for tests; for research use "
        "DNABERT-2 itself.",
        "",
        "## Training",
        "",
        f"Masked-language modelling on {sum(training['train'].values()):,} bases, both strands: "
        + "; ".join(f"{plain(record)} ({bases:,})" for record, bases in training["train"].items())
        + ".",
        "",
        f"{training['steps']:,} steps, {training['tokens'] / 1e6:.1f} million tokens, {training['seconds'] / 60:.0f} minutes on "
        f"{training['workers']} worker(s), {training['device']}, {training['precision']}: {settings}.",
        "",
        "## Held-out masked-language modelling",
        "",
        "Every scored token is replaced by [MASK] once, together with a random seventh of its window of 256 tokens. Tokens with a base "
        f"in a {SHARED}-mer that the training part has too, on either strand, are not scored. The table predicts a token from the "
        f"{FLANK} bases on each side and was fitted on the training part, as was the unigram. Losses are in nats per {unit}; the model "
        "was measured after rounding to bfloat16.",
        "",
        "| held out | bases | not scored | loss: model | table | unigram | accuracy: model | table | most frequent |",
        "| --- | --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for record, row in metrics["masked_lm"].items():
        cells = [plain(record), f"{row['bases']:,}", f"{row['excluded_share']:.1%}"]
        cells += [f"{row[key]:.4f}" for key in ("loss", "table_loss", "unigram_loss")]
        cells += [f"{row[key]:.1%}" for key in ("accuracy", "table_accuracy", "most_frequent_accuracy")]
        lines.append(f"| {' | '.join(cells)} |")
    if metrics["probes"]:
        lines += [
            "",
            "## What a linear classifier reads out of frozen vectors",
            "",
            f"Accuracy of a logistic regression, {probe.FOLDS}-fold, the same penalty for all features, mean and range over "
            f"{len(probe.SEEDS)} seeds. Equal sequences and reverse complements stay on one side of a split. The untrained encoder has "
            "the same shape and random weights: only what a row gains over it is a gain of pretraining.",
        ]
    for file, result in metrics["probes"].items():
        counts = (
            f"{result['rows']:,} rows, {result['repeated']} of them repeats, {result['conflicting']} sequence(s) with two labels"
        )
        lines += ["", f"{file}: {counts}.", "", "| features | accuracy |", "| --- | --- |"]
        lines += [f"| {key} | {np.mean(v):.1%} ({min(v):.1%} to {max(v):.1%}) |" for key, v in result["accuracy"].items()]
    return "\n".join([*lines, ""])


def plain(record: str) -> str:
    """Return a record's name without the bars of old NCBI headers, which Markdown tables do not bear."""
    return record.replace("|", " ").strip()

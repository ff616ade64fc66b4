"""A pretrained model as a folder: weights, config, tokenizer, measured numbers, and the card that says them in words."""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import tokenizers
import torch
from safetensors.torch import save
from torch import Tensor

from dnafeat import storage
from dnafeat.encoder.models.base import Config
from dnafeat.encoder.models.checkpoint import Checkpoint, find, load_masked_lm
from dnafeat.encoder.models.dnabert2 import DNABERT2
from dnafeat.encoder.models.heads import MaskedLM
from dnafeat.errors import UsageError
from dnafeat.pretrain import probe
from dnafeat.pretrain.corpus import Genomes, token_spans
from dnafeat.pretrain.heldout import FLANK, SHARED, Prepared, flanks, prepare
from dnafeat.pretrain.masking import faster_precision, masked_score

Say = Callable[[str], None]

METRICS = "metrics.json"
_TIED = "cls.predictions.decoder.weight"
_SPECIAL = {"unk_token": "[UNK]", "cls_token": "[CLS]", "sep_token": "[SEP]", "pad_token": "[PAD]", "mask_token": "[MASK]"}


def export(folder: Path, state: Mapping[str, Tensor], config: Config, tokenizer: tokenizers.Tokenizer) -> None:
    """Writes a model folder in the layout of DNABERT-2, weights rounded to bfloat16.

    The decoder's weight is the word embedding and is left out; `bert.` stands before the encoder's keys.
    """
    folder.mkdir(parents=True, exist_ok=True)
    rounded = {key: value.detach().cpu().bfloat16().contiguous() for key, value in state.items() if key != _TIED}
    (folder / "model.safetensors").write_bytes(save(rounded, metadata={"format": "pt"}))
    values = {"architectures": ["BertForMaskedLM"], **asdict(config), "hidden_act": "gelu", "attention_probs_dropout_prob": 0.0}
    (folder / "config.json").write_text(json.dumps(values, indent=2) + "\n")
    tokenizer.save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text(
        json.dumps({"tokenizer_class": "PreTrainedTokenizerFast", **_SPECIAL}, indent=2) + "\n"
    )


def untrained(like: Checkpoint, folder: Path, seed: int) -> None:
    """A model folder with the shape and the tokenizer of another and fresh random weights."""
    torch.manual_seed(seed)
    config = like.config()
    export(
        folder,
        MaskedLM(DNABERT2(config)).state_dict(),
        config,
        tokenizers.Tokenizer.from_file(str(like.folder / "tokenizer.json")),
    )


def measure(model: MaskedLM, prepared: Prepared, genomes: Genomes) -> dict[str, dict[str, float]]:
    """Loss and accuracy on [MASK] tokens of each held-out stretch, beside the baselines on the same tokens.

    Losses are in nats per token. Every scored token is predicted once, in windows of 256 tokens.
    """
    precision = faster_precision(torch.device("cpu"))
    result = {}
    for name, (ids, scored) in prepared.heldout.items():
        loss, accuracy, tokens = masked_score(model, ids, scored, precision=precision)
        keys = flanks(genomes.heldout[name], *token_spans(prepared.tokenizer, ids))
        result[name] = {
            "bases": len(genomes.heldout[name]),
            "excluded_share": prepared.excluded[name],
            "tokens": tokens,
            "loss": loss,
            "accuracy": accuracy,
            **prepared.baselines.score(ids[scored], keys[scored]),
        }
    return result


def write(
    folder: Path, training: dict[str, Any], genomes: Genomes, prepared: Prepared, probes: Sequence[str], say: Say
) -> dict[str, Any]:
    """Measures the model in `folder`, with `probes` being CSV files of sequence,label; writes and returns its numbers, and its card."""
    model = load_masked_lm(Checkpoint(str(folder), folder))
    metrics: dict[str, Any] = {
        "parameters": sum(p.numel() for p in model.parameters()),
        "config": json.loads((folder / "config.json").read_text()),
        "training": training,
        "masked_lm": measure(model, prepared, genomes),
        "probes": {},
    }
    for file in probes:
        data = probe.read_labelled(file)
        metrics["probes"][storage.name(file)] = {
            "rows": len(data.labels),
            "repeated": data.repeated,
            "conflicting": data.conflicting,
            "accuracy": compare(str(folder), data),
        }
    (folder / METRICS).write_text(json.dumps(metrics, indent=1) + "\n")
    text = card(folder.name, metrics)
    (folder / "README.md").write_text(text)
    say(text)
    return metrics


def rewrite(model: str, folder: Path, genomes: Genomes, probes: Sequence[str], say: Say) -> dict[str, Any]:
    """Measures a finished model again, on other hold-outs or probes, and writes it with a new card to `folder`."""
    found = find(model)
    if not (found.folder / METRICS).is_file():
        raise UsageError(f"{found.folder} has no {METRICS}: a card is written for a model that this job has trained")
    training = json.loads((found.folder / METRICS).read_text())["training"]
    if folder != found.folder:
        folder.mkdir(parents=True, exist_ok=True)
        for name in ("config.json", "tokenizer.json", "tokenizer_config.json", found.weights.name):
            shutil.copyfile(found.folder / name, folder / name)
    tokenizer = tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json"))
    prepared = prepare(genomes, tokenizer, training["settings"]["kmer"] or 1)
    return write(folder, training, genomes, prepared, probes, say)


def compare(model: str, data: probe.Labelled, seeds: Sequence[int] = probe.SEEDS) -> dict[str, list[float]]:
    """Accuracy of frozen vectors, of plainer features and of an untrained encoder, one number a seed.

    A seed deals the folds and, for the untrained encoder, its weights. `model` is a bundled name or a folder.
    """
    found = find(model)
    result = probe.plain(data, seeds)
    for name, x in probe.frozen(found.folder, data.sequences).items():
        result[f"frozen {name}"] = [probe.accuracy(x, data, seed) for seed in seeds]
    for seed in seeds:
        with tempfile.TemporaryDirectory() as folder:
            untrained(found, Path(folder), seed)
            for name, x in probe.frozen(folder, data.sequences).items():
                result.setdefault(f"untrained {name}", []).append(probe.accuracy(x, data, seed))
    return result


def card(name: str, metrics: dict[str, Any]) -> str:
    """The card in Markdown. Every number in it comes from `metrics`."""
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
    """A record's name without the bars of old NCBI headers, which Markdown tables do not bear."""
    return record.replace("|", " ").strip()

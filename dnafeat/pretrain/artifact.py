"""A pretrained model as a folder or prefix: weights, config, tokenizer, measured numbers, and the card that says them in words.

config.json, model.safetensors           the encoder with its masked-LM head, in the layout of DNABERT-2
tokenizer.json, tokenizer_config.json
README.md                                the card
metrics.json                             how it was trained and what was measured; written last: without it the model is not finished
"""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import tokenizers
import torch
from safetensors.torch import save
from torch import Tensor

from dnafeat import storage
from dnafeat.encoder.models.base import Config
from dnafeat.encoder.models.checkpoint import Checkpoint, find, load_masked_lm
from dnafeat.encoder.models.dnabert2 import DNABERT2
from dnafeat.encoder.models.heads import MaskedLM
from dnafeat.errors import UsageError, one_line
from dnafeat.pretrain import probe
from dnafeat.pretrain.corpus import Genomes, token_spans
from dnafeat.pretrain.heldout import PreparedCorpus, flanks, prepare
from dnafeat.pretrain.masking import faster_precision, masked_score
from dnafeat.pretrain.report import card
from dnafeat.training.artifact import put

METRICS = "metrics.json"
_TIED = "cls.predictions.decoder.weight"
_SPECIAL = {"unk_token": "[UNK]", "cls_token": "[CLS]", "sep_token": "[SEP]", "pad_token": "[PAD]", "mask_token": "[MASK]"}


def trained_before(output: str, run: str, say: Callable[[str], None]) -> dict[str, Any] | None:
    """Return `metrics.json` of a run that has ended already, else None.

    Raises UsageError where the model of another run is there, or where nothing can be written.
    """
    place = storage.absolute(output)
    known = read(place)
    if known is None:
        storage.check_writable(place)
        return None
    if known["training"]["run"] != run:
        raise UsageError(f"{output} holds the model of another run, {known['training']['run']}: give another --output")
    say(f"{output} holds this run's model already: nothing to train")
    return known


def read(uri: str) -> dict[str, Any] | None:
    """Read `metrics.json` of a model; None where there is none. Raises UsageError where it cannot be read."""
    file = storage.join(uri, METRICS)
    fs, path = storage.filesystem(file)
    try:
        if not fs.exists(path):
            return None
        with fs.open(path, "rb") as opened:
            metrics = json.load(opened)
        metrics["training"]["run"], metrics["probes"]
    except (*storage.STORAGE_ERRORS, ValueError, KeyError, TypeError, RecursionError) as error:
        raise storage.fault(error, UsageError)(f"{file} cannot be read: {one_line(error)}") from error
    return dict(metrics)


def write(
    uri: str,
    state: Mapping[str, Tensor],
    config: Config,
    prepared: PreparedCorpus,
    genomes: Genomes,
    *,
    training: Mapping[str, Any],
    probes: Sequence[str],
) -> dict[str, Any]:
    """Write a trained model with its numbers and its card, and return the numbers.

    Parameters
    ----------
    training : mapping
        What `metrics.json` says of the run.
    probes : sequence of str
        CSV files with the columns `sequence` and `label`.
    """
    with tempfile.TemporaryDirectory(prefix="dnafeat-") as scratch:
        folder = Path(scratch)
        export(folder, state, config, prepared.tokenizer)
        return _publish(folder, uri, training, genomes, prepared, probes)


def rewrite(model: str, uri: str, genomes: Genomes, probes: Sequence[str]) -> dict[str, Any]:
    """Measure a finished model again, on other hold-outs or probes, and write it with a new card. Returns the numbers."""
    found = find(model)
    if not (found.folder / METRICS).is_file():
        raise UsageError(f"{found.folder} has no {METRICS}: a card is written for a model that this command has trained")
    training = (read(str(found.folder)) or {})["training"]
    with tempfile.TemporaryDirectory(prefix="dnafeat-") as scratch:
        folder = Path(scratch)
        for name in ("config.json", "tokenizer.json", "tokenizer_config.json", found.weights.name):
            shutil.copyfile(found.folder / name, folder / name)
        tokenizer = tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json"))
        prepared = prepare(genomes, tokenizer, training["settings"]["kmer"] or 1)
        return _publish(folder, uri, training, genomes, prepared, probes)


def _publish(
    folder: Path, uri: str, training: Mapping[str, Any], genomes: Genomes, prepared: PreparedCorpus, probes: Sequence[str]
) -> dict[str, Any]:
    """Measure the model in a local folder, write its card, and copy all files to `uri`, `metrics.json` last."""
    model = load_masked_lm(Checkpoint(str(folder), folder))
    metrics: dict[str, Any] = {
        "parameters": sum(p.numel() for p in model.parameters()),
        "config": json.loads((folder / "config.json").read_text()),
        "training": training,
        "masked_lm": measure(model, prepared, genomes),
        "probes": {},
    }
    for table in probes:
        data = probe.read_labelled(table)
        metrics["probes"][storage.name(table)] = {
            "rows": len(data.labels),
            "repeated": data.repeated,
            "conflicting": data.conflicting,
            "accuracy": compare(str(folder), data),
        }
    (folder / "README.md").write_text(card(storage.name(uri), metrics))
    for file in sorted(folder.iterdir()):
        put(storage.join(uri, file.name), file.read_bytes())
    put(storage.join(uri, METRICS), (json.dumps(metrics, indent=1) + "\n").encode())
    return metrics


def export(folder: Path, state: Mapping[str, Tensor], config: Config, tokenizer: tokenizers.Tokenizer) -> None:
    """Write a model folder in the layout of DNABERT-2, weights rounded to bfloat16.

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
    """Write a model folder with the shape and the tokenizer of another and fresh random weights."""
    torch.manual_seed(seed)
    config = like.config()
    export(
        folder,
        MaskedLM(DNABERT2(config)).state_dict(),
        config,
        tokenizers.Tokenizer.from_file(str(like.folder / "tokenizer.json")),
    )


def measure(model: MaskedLM, prepared: PreparedCorpus, genomes: Genomes) -> dict[str, dict[str, float]]:
    """Measure loss and accuracy on [MASK] tokens of each held-out stretch, beside the baselines on the same tokens.

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


def compare(model: str, data: probe.Labelled, seeds: Sequence[int] = probe.SEEDS) -> dict[str, list[float]]:
    """Measure the accuracy of frozen vectors, of plainer features and of an untrained encoder, one number a seed.

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

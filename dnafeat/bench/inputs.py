"""What is measured on: tiles of the bundled lambda genome or GUE's sequences, and encoders with random weights laid out as hub folders."""

from __future__ import annotations

import csv
import gzip
import json
import random
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from dnafeat import sequence as dna
from dnafeat.errors import UsageError

GENOME = Path(__file__).parents[1] / "bundled" / "data" / "lambda_NC_001416.fa.gz"
LENGTHS = (70, 101, 300, 400, 500)
SHORT = tuple(range(60, 82))
SEED = 0

# The shape of DNABERT-2-117M, and two small ones with which the work beside the encoding counts for more.
FULL = {"hidden_size": 768, "num_hidden_layers": 12, "num_attention_heads": 12, "intermediate_size": 3072}
SMALL = {"hidden_size": 256, "num_hidden_layers": 6, "num_attention_heads": 4, "intermediate_size": 1024}
TINY = {"hidden_size": 128, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 512}
# A layer as wide as DNABERT-2's, for vectors that nothing encodes.
WIDE = {**FULL, "num_hidden_layers": 1}
_VOCABULARY = 4096
# Merges on both strands of lambda up to here give tiles of 70 to 500 bp 17.4, 23.9, 65.1, 86.0 and 106.8 tokens; DNABERT-2's own
# tokenizer, which is not bundled, gives them 17.4, 23.9, 65.1, 86.4 and 107.2.
_TRAINED_ENTRIES = 1800
_PIECE = 1000
_SPECIAL = {name: f"[{name[:-6].upper()}]" for name in ("unk_token", "cls_token", "sep_token", "pad_token", "mask_token")}


def genome() -> str:
    """Phage lambda, NC_001416: 48,502 bases."""
    with gzip.open(GENOME, "rt") as file:
        return "".join(line.strip() for line in file if not line.startswith(">")).upper()


def tiles(count: int, lengths: tuple[int, ...] = LENGTHS) -> list[str]:
    """Distinct tiles of lambda, as many of each length as can be told apart from none, shuffled.

    Parameters
    ----------
    count : int
        Rounded up to a multiple of the lengths' number.
    lengths : tuple of int
        Bases.

    Raises
    ------
    UsageError
        The genome has not so many.
    """
    letters = genome()
    each = -(-count // len(lengths))
    room = min(len(letters) - length + 1 for length in lengths)
    if each > room:
        raise UsageError(f"lambda has {room:,} tiles of {max(lengths)} bases and {each:,} are asked for")
    stride = room // each
    found = [letters[i * stride : i * stride + length] for length in lengths for i in range(each)]
    random.Random(SEED).shuffle(found)
    return found


def gue(folder: str, count: int) -> list[str]:
    """Distinct sequences of the GUE tasks below a folder (`TASK/{train,dev,test}.csv`), equally many of each task, shuffled.

    Raises UsageError where the folder holds none.
    """
    tasks: dict[Path, dict[str, None]] = {}
    for file in sorted(Path(folder).expanduser().rglob("*.csv")):
        with file.open(newline="") as opened:
            rows = csv.DictReader(opened)
            if "sequence" in (rows.fieldnames or ()):
                tasks.setdefault(file.parent, {}).update(dict.fromkeys(row["sequence"].upper() for row in rows))
    if not any(tasks.values()):
        raise UsageError(f"{folder} holds no GUE task: there is no TASK/train.csv with a column sequence below it")
    draw = random.Random(SEED)
    each = -(-count // len(tasks))
    found = [one for task in tasks.values() for one in draw.sample(list(task), min(each, len(task)))]
    draw.shuffle(found)
    return found


def random_sequences(count: int, bases: int, seed: int = 0) -> list[bytes]:
    """So many that lambda would not do: what reads and hashes them takes as long for any letters."""
    letters = np.frombuffer(b"ACGT", np.uint8)[np.random.default_rng(seed).integers(0, 4, (count, bases), np.uint8)]
    whole = letters.tobytes()
    return [whole[i * bases : (i + 1) * bases] for i in range(count)]


def fasta(file: Path, sequences: list[str], copies: int = 1) -> str:
    """A FASTA file with each sequence so many times, under ids of their own."""
    with file.open("w") as opened:
        for copy in range(copies):
            opened.writelines(f">e{copy}-{i}\n{letters}\n" for i, letters in enumerate(sequences))
    return str(file)


def write_models(settings: Mapping[str, Any]) -> dict[str, str]:
    """Makes encoders with random weights, each a folder as the hub lays it out.

    Parameters
    ----------
    settings : Mapping[str, Any]
        `folder`; `shapes`: by name, fields of config.json; `tokenizer`: a folder with a tokenizer.json, or None.

    Returns
    -------
    dict of str to str
        The folders by name.
    """
    return {
        name: str(write_model(Path(settings["folder"]) / name, shape, settings["tokenizer"]))
        for name, shape in settings["shapes"].items()
    }


def write_model(folder: Path, shape: Mapping[str, Any], tokenizer: str | None) -> Path:
    """One of them. Norms and biases are random, too, so that leaving one out changes the vectors."""
    import torch
    from safetensors.torch import save_file

    from dnafeat.encoder.models.base import Config
    from dnafeat.encoder.models.dnabert2 import DNABERT2

    folder.mkdir(parents=True)
    values = {"vocab_size": _VOCABULARY, **shape}
    torch.manual_seed(SEED)
    state = DNABERT2(Config(**values)).state_dict()
    for name, weight in state.items():
        if weight.dim() == 1:
            weight += 0.1 * torch.randn(weight.shape)
        state[name] = weight.contiguous()
    save_file(state, folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps({**values, "model_type": "bert", "layer_norm_eps": 1e-12}, indent=1))
    write_tokenizer(folder, tokenizer)
    return folder


def tokenizer_file(source: str) -> Path:
    """Raises UsageError where a folder has none."""
    file = Path(source).expanduser() / "tokenizer.json"
    if not file.is_file():
        raise UsageError(f"tokenizer {source} is no folder with a tokenizer.json")
    return file


def write_tokenizer(folder: Path, source: str | None) -> None:
    """tokenizer.json of another folder, or one trained on lambda, with what transformers wants to know of its special tokens."""
    if source is None:
        from dnafeat.encoder.models.tokenizers import train_bpe

        letters = genome()
        pieces = [letters[i : i + _PIECE] for i in range(0, len(letters), _PIECE)]
        pieces += [dna.reverse_complement(piece.encode()).decode() for piece in pieces]
        train_bpe(pieces, _TRAINED_ENTRIES).save(str(folder / "tokenizer.json"))
    else:
        shutil.copy(tokenizer_file(source), folder)
    (folder / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "PreTrainedTokenizerFast", **_SPECIAL}))

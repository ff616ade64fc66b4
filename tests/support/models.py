"""Small random models of each architecture, laid out as the hub's folders.

Names without a prefix are DNABERT-2's; BERT's and ProkBERT's start with `bert_` and `prokbert_`. Written from the published facts
alone: nothing here imports dnafeat, so that both sides can be compared. What the models should answer says `references`.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import tokenizers
import torch
from references import SLOPES as SLOPES
from references import forward64 as forward64
from references import gelu as gelu
from safetensors.torch import save_file

# Products this small lose more to being shared out than they gain.
torch.set_num_threads(1)

State = dict[str, torch.Tensor]
Shapes = dict[str, tuple[int, ...]]

SPECIAL = ["[UNK]", "[CLS]", "[SEP]", "[PAD]", "[MASK]"]
# Merges of the random models' tokenizer, in order: A 5, C 6, G 7, T 8, then these from 9 on.
MERGES = ["AC", "GT", "TA", "CC", "GA", "ACGT", "TATA", "GATA"]
VOCABULARY = len(SPECIAL) + 4 + len(MERGES)
# The other random models' entries, as DNABERT's and ProkBERT's vocabularies have them: 3-mers behind five special tokens.
KMER_SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
KMER_VOCABULARY = len(KMER_SPECIAL) + 4**3


def config(**changes: Any) -> dict[str, Any]:
    """What `config.json` of a small model says; fields that shape nothing are there too, as in the published file."""
    return {
        "architectures": ["BertForMaskedLM"],
        "attention_probs_dropout_prob": 0.0,
        "hidden_act": "gelu",
        "hidden_size": 48,
        "initializer_range": 0.02,
        "intermediate_size": 64,
        "layer_norm_eps": 1e-12,
        "max_position_embeddings": 512,
        "model_type": "bert",
        "num_attention_heads": 12,
        "num_hidden_layers": 2,
        "position_embedding_type": "absolute",
        "type_vocab_size": 2,
        "vocab_size": VOCABULARY,
        **changes,
    }


def bert_config(**changes: Any) -> dict[str, Any]:
    """The same for stock BERT, with at most 64 tokens."""
    small = {"attention_probs_dropout_prob": 0.1, "max_position_embeddings": 64, "num_attention_heads": 6}
    return config(**small | {"vocab_size": KMER_VOCABULARY} | changes)


def prokbert_config(**changes: Any) -> dict[str, Any]:
    """The same for ProkBERT, with at most 64 tokens."""
    own = {
        "architectures": ["MegatronBertForMaskedLM"],
        "model_type": "megatron-bert",
        "position_embedding_type": "relative_key_query",
    }
    return bert_config(**own | changes)


def _shapes(
    values: dict[str, Any], embeddings: dict[str, int], norms: tuple[str, ...], layer: dict[str, Any], *last: str
) -> Shapes:
    """Keys and shapes of a masked-LM file. `embeddings`: rows of each table; `norms` follow them, `last` follow the layers."""
    h, vocabulary = values["hidden_size"], values["vocab_size"]
    norm = {"weight": (h,), "bias": (h,)}
    modules: dict[str, dict[str, tuple[int, ...]]] = {
        **{f"bert.embeddings.{name}_embeddings": {"weight": (rows, h)} for name, rows in embeddings.items()},
        **{f"bert.embeddings.{name}": norm for name in norms},
        **{f"bert.encoder.layer.{i}.{name}": parts for i in range(values["num_hidden_layers"]) for name, parts in layer.items()},
        **{f"bert.encoder.{name}": norm for name in last},
        "cls.predictions.transform.dense": {"weight": (h, h), "bias": (h,)},
        "cls.predictions.transform.LayerNorm": norm,
        "cls.predictions.decoder": {"weight": (vocabulary, h), "bias": (vocabulary,)},
    }
    return {f"{module}.{kind}": shape for module, parts in modules.items() for kind, shape in parts.items()}


def _parts(values: dict[str, Any]) -> tuple[dict[str, tuple[int, ...]], ...]:
    """Weight and bias of a norm, of a square layer, of one that widens to `intermediate_size` and of one that narrows from it."""
    h, inner = values["hidden_size"], values["intermediate_size"]
    dense = [{"weight": (rows, columns), "bias": (rows,)} for rows, columns in [(h, h), (inner, h), (h, inner)]]
    return {"weight": (h,), "bias": (h,)}, *dense


def shapes(values: dict[str, Any]) -> Shapes:
    """Keys and shapes of the published masked-LM file, in its order; 142 keys with 12 layers."""
    h, inner = values["hidden_size"], values["intermediate_size"]
    norm, dense, _, narrow = _parts(values)
    layer = {
        "attention.self.Wqkv": {"weight": (3 * h, h), "bias": (3 * h,)},
        "attention.output.dense": dense,
        "attention.output.LayerNorm": norm,
        "mlp.gated_layers": {"weight": (2 * inner, h)},
        "mlp.wo": narrow,
        "mlp.layernorm": norm,
    }
    return _shapes(values, {"word": values["vocab_size"], "token_type": values["type_vocab_size"]}, ("LayerNorm",), layer)


def bert_shapes(values: dict[str, Any]) -> Shapes:
    norm, dense, widen, narrow = _parts(values)
    layer = {
        **{f"attention.self.{name}": dense for name in ("query", "key", "value")},
        "attention.output.dense": dense,
        "attention.output.LayerNorm": norm,
        "intermediate.dense": widen,
        "output.dense": narrow,
        "output.LayerNorm": norm,
    }
    return {"cls.predictions.bias": (values["vocab_size"],), **_shapes(values, _positioned(values), ("LayerNorm",), layer)}


def prokbert_shapes(values: dict[str, Any]) -> Shapes:
    norm, dense, widen, narrow = _parts(values)
    size = values["hidden_size"] // values["num_attention_heads"]
    layer = {
        "attention.ln": norm,
        **{f"attention.self.{name}": dense for name in ("query", "key", "value")},
        "attention.self.distance_embedding": {"weight": (2 * values["max_position_embeddings"] - 1, size)},
        "attention.output.dense": dense,
        "ln": norm,
        "intermediate.dense": widen,
        "output.dense": narrow,
    }
    return {"cls.predictions.bias": (values["vocab_size"],), **_shapes(values, _positioned(values), (), layer, "ln")}


def _positioned(values: dict[str, Any]) -> dict[str, int]:
    return {
        "word": values["vocab_size"],
        "position": values["max_position_embeddings"],
        "token_type": values["type_vocab_size"],
    }


def _random(shapes: Shapes, seed: int, std: float) -> State:
    """Random weights of a masked-LM model. Norms and biases are random too, so that none can be left out unseen."""
    generator = torch.Generator().manual_seed(seed)
    weights = {key: torch.randn(shape, generator=generator) * std for key, shape in shapes.items()}
    for key in weights:
        if key.lower().endswith(("layernorm.weight", "ln.weight")):
            weights[key] += 1
    weights["cls.predictions.decoder.weight"] = weights["bert.embeddings.word_embeddings.weight"]
    if "cls.predictions.bias" in weights:
        weights["cls.predictions.decoder.bias"] = weights["cls.predictions.bias"]
    return weights


def state(values: dict[str, Any], *, seed: int = 0, std: float = 0.15) -> State:
    return _random(shapes(values), seed, std)


def bert_state(values: dict[str, Any], *, seed: int = 0, std: float = 0.15) -> State:
    return _random(bert_shapes(values), seed, std)


def prokbert_state(values: dict[str, Any], *, seed: int = 0, std: float = 0.15) -> State:
    return _random(prokbert_shapes(values), seed, std)


def bare_encoder(weights: State) -> State:
    """The encoder's entries without the prefix, as DNABERT-S has them."""
    return {key.removeprefix("bert."): value for key, value in weights.items() if key.startswith("bert.")}


def tokenizer() -> tokenizers.Tokenizer:
    """DNABERT-2's layout with eight merges: no normalizer, white space split off, one [UNK] for each strange letter."""
    entries = [*SPECIAL, *"ACGT", *MERGES]
    pairs = []
    for i, merged in enumerate(MERGES):
        known = {*"ACGT", *MERGES[:i]}
        cut = next(cut for cut in range(1, len(merged)) if merged[:cut] in known and merged[cut:] in known)
        pairs.append((merged[:cut], merged[cut:]))
    vocabulary = {entry: number for number, entry in enumerate(entries)}
    made = tokenizers.Tokenizer(tokenizers.models.BPE(vocabulary, pairs, unk_token="[UNK]"))
    made.add_special_tokens(SPECIAL)
    made.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    made.post_processor = tokenizers.processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=[("[CLS]", 1), ("[SEP]", 2)]
    )
    return made


def write(
    folder: Path, values: dict[str, Any], weights: State, *, pickled: bool = False, tokens: tokenizers.Tokenizer | None = None
) -> Path:
    """A model folder as the hub lays it out, with `model.safetensors` or, pickled, with `pytorch_model.bin`."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(values, indent=2))
    (folder / "tokenizer.json").write_text((tokens or tokenizer()).to_str(pretty=True))
    if pickled:
        torch.save(weights, folder / "pytorch_model.bin")
    else:
        save_file({key: value.clone() for key, value in weights.items()}, folder / "model.safetensors")
    return folder


def random_folder(folder: Path, *, seed: int = 0, **changes: Any) -> Path:
    values = config(**changes)
    return write(folder, values, state(values, seed=seed))


def dna(bases: int, seed: int = 0) -> str:
    return "".join(np.random.default_rng(seed).choice(list("ACGT"), bases))


def padded(rows: list[list[int]], *, left: bool = False) -> tuple[torch.Tensor, torch.Tensor]:
    """Token ids and mask of a batch, at least three tokens of padding in each row, on the right or on the left."""
    width = max(map(len, rows)) + 3
    ids, mask = torch.full((len(rows), width), 3), torch.zeros(len(rows), width, dtype=torch.int64)
    for i, row in enumerate(rows):
        place = slice(width - len(row), width) if left else slice(0, len(row))
        ids[i, place], mask[i, place] = torch.tensor(row), 1
    return ids, mask


def random_ids(tokens: int, vocabulary: int, seed: int = 0) -> list[int]:
    """Any entry may stand anywhere, number 0 too: what padding is says the mask alone."""
    return np.random.default_rng(seed).integers(0, vocabulary, tokens).tolist()

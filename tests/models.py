"""Small random DNABERT-2 models laid out as the hub's folders, and the architecture once more, slowly, in float64 NumPy.

Written from the published facts alone: nothing here imports dnafeat, so that both sides can be compared.
"""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import tokenizers
import torch
from safetensors.torch import save_file

# Products this small lose more to being shared out than they gain.
torch.set_num_threads(1)

State = dict[str, torch.Tensor]

SPECIAL = ["[UNK]", "[CLS]", "[SEP]", "[PAD]", "[MASK]"]
# Merges of the random models' tokenizer, in order: A 5, C 6, G 7, T 8, then these from 9 on.
MERGES = ["AC", "GT", "TA", "CC", "GA", "ACGT", "TATA", "GATA"]
VOCABULARY = len(SPECIAL) + 4 + len(MERGES)


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


def shapes(values: dict[str, Any]) -> dict[str, tuple[int, ...]]:
    """Keys and shapes of the published masked-LM file, in its order; 142 keys with 12 layers."""
    h, inner, vocabulary = values["hidden_size"], values["intermediate_size"], values["vocab_size"]
    norm = {"weight": (h,), "bias": (h,)}
    dense = {"weight": (h, h), "bias": (h,)}
    layer = {
        "attention.self.Wqkv": {"weight": (3 * h, h), "bias": (3 * h,)},
        "attention.output.dense": dense,
        "attention.output.LayerNorm": norm,
        "mlp.gated_layers": {"weight": (2 * inner, h)},
        "mlp.wo": {"weight": (h, inner), "bias": (h,)},
        "mlp.layernorm": norm,
    }
    modules: dict[str, dict[str, tuple[int, ...]]] = {
        "bert.embeddings.word_embeddings": {"weight": (vocabulary, h)},
        "bert.embeddings.token_type_embeddings": {"weight": (values["type_vocab_size"], h)},
        "bert.embeddings.LayerNorm": norm,
    }
    for i in range(values["num_hidden_layers"]):
        modules |= {f"bert.encoder.layer.{i}.{name}": parts for name, parts in layer.items()}
    modules |= {
        "cls.predictions.transform.dense": dense,
        "cls.predictions.transform.LayerNorm": norm,
        "cls.predictions.decoder": {"weight": (vocabulary, h), "bias": (vocabulary,)},
    }
    return {f"{module}.{kind}": shape for module, parts in modules.items() for kind, shape in parts.items()}


def state(values: dict[str, Any], *, seed: int = 0, std: float = 0.15) -> State:
    """Random weights of the masked-LM model. Norms and biases are random too, so that none can be left out unseen."""
    generator = torch.Generator().manual_seed(seed)
    weights = {key: torch.randn(shape, generator=generator) * std for key, shape in shapes(values).items()}
    for key in weights:
        if key.lower().endswith("layernorm.weight"):
            weights[key] += 1
    weights["cls.predictions.decoder.weight"] = weights["bert.embeddings.word_embeddings.weight"]
    return weights


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


# The architecture in float64. Clear and slow: one sequence, one head at a time, no masks because nothing is padded.

SLOPES = {
    8: [0.5**i for i in range(1, 9)],
    12: [0.5**i for i in range(1, 9)] + [2**-0.5, 2**-1.5, 2**-2.5, 2**-3.5],
    16: [2 ** (-i / 2) for i in range(1, 17)],
}


def _norm(x: np.ndarray, weight: np.ndarray, bias: np.ndarray, eps: float = 1e-12) -> np.ndarray:
    centred = x - x.mean(-1, keepdims=True)
    return centred / np.sqrt((centred**2).mean(-1, keepdims=True) + eps) * weight + bias


def gelu(x: np.ndarray) -> np.ndarray:
    return np.array([v * (1 + math.erf(v / math.sqrt(2))) / 2 for v in x.ravel().tolist()]).reshape(x.shape)


def forward64(weights: State, heads: int, ids: list[int], types: list[int] | None = None) -> list[np.ndarray]:
    """Hidden states of one sequence, embeddings first, each (tokens, hidden_size) float64. Takes the published keys."""
    w = {key.removeprefix("bert."): value.double().numpy() for key, value in weights.items()}
    layers = 1 + max(int(key.split(".")[2]) for key in w if key.startswith("encoder.layer."))
    n = len(ids)
    x = w["embeddings.word_embeddings.weight"][ids] + w["embeddings.token_type_embeddings.weight"][types or [0] * n]
    x = _norm(x, w["embeddings.LayerNorm.weight"], w["embeddings.LayerNorm.bias"])
    size = x.shape[1] // heads
    distance = np.abs(np.subtract.outer(np.arange(n), np.arange(n))).astype(np.float64)
    states = [x]
    for i in range(layers):
        p = {key.removeprefix(f"encoder.layer.{i}."): v for key, v in w.items() if key.startswith(f"encoder.layer.{i}.")}
        qkv = x @ p["attention.self.Wqkv.weight"].T + p["attention.self.Wqkv.bias"]
        q, k, v = np.split(qkv, 3, axis=1)
        mixed = []
        for head in range(heads):
            one = slice(head * size, (head + 1) * size)
            scores = (q[:, one] / math.sqrt(size)) @ k[:, one].T
            scores -= SLOPES[heads][head] * distance
            scores -= scores.max(1, keepdims=True)
            np.exp(scores, out=scores)
            mixed.append(scores @ v[:, one] / scores.sum(1, keepdims=True))
        attended = np.concatenate(mixed, 1) @ p["attention.output.dense.weight"].T + p["attention.output.dense.bias"]
        x = _norm(attended + x, p["attention.output.LayerNorm.weight"], p["attention.output.LayerNorm.bias"])
        gate, value = np.split(x @ p["mlp.gated_layers.weight"].T, 2, axis=1)
        fed = gelu(gate) * value @ p["mlp.wo.weight"].T + p["mlp.wo.bias"]
        x = _norm(fed + x, p["mlp.layernorm.weight"], p["mlp.layernorm.bias"])
        states.append(x)
    return states

"""The architectures once more, slowly, in float64 NumPy: one sequence, one head at a time, no masks because nothing is padded.

Written from the published facts alone: nothing here imports dnafeat, so that both sides can be compared.

`forward64` is DNABERT-2, `bert_forward64` stock BERT, `prokbert_forward64` ProkBERT. Each takes the published keys, with
`bert.` before them or not, and answers the hidden states of one sequence, embeddings first, each (tokens, hidden_size) float64. A
list given as `attentions` gets each layer's probabilities, (heads, tokens, tokens).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import torch

State = dict[str, torch.Tensor]
Arrays = dict[str, np.ndarray]

SLOPES = {
    8: [0.5**i for i in range(1, 9)],
    12: [0.5**i for i in range(1, 9)] + [2**-0.5, 2**-1.5, 2**-2.5, 2**-3.5],
    16: [2 ** (-i / 2) for i in range(1, 17)],
}


def gelu(x: np.ndarray) -> np.ndarray:
    return np.array([v * (1 + math.erf(v / math.sqrt(2))) / 2 for v in x.ravel().tolist()]).reshape(x.shape)


def _float64(weights: State) -> tuple[Arrays, list[str]]:
    """The weights without `bert.`, and what the names in each layer start with."""
    w = {key.removeprefix("bert."): value.double().numpy() for key, value in weights.items()}
    layers = 1 + max(int(key.split(".")[2]) for key in w if key.startswith("encoder.layer."))
    return w, [f"encoder.layer.{i}" for i in range(layers)]


def _embedded(w: Arrays, ids: list[int], types: list[int] | None) -> np.ndarray:
    return w["embeddings.word_embeddings.weight"][ids] + w["embeddings.token_type_embeddings.weight"][types or [0] * len(ids)]


def _dense(w: Arrays, name: str, x: np.ndarray) -> np.ndarray:
    return x @ w[f"{name}.weight"].T + w[f"{name}.bias"]


def _norm(w: Arrays, name: str, x: np.ndarray, eps: float) -> np.ndarray:
    centred = x - x.mean(-1, keepdims=True)
    return centred / np.sqrt((centred**2).mean(-1, keepdims=True) + eps) * w[f"{name}.weight"] + w[f"{name}.bias"]


def _attend(
    qkv: list[np.ndarray],
    heads: int,
    added: Callable[[int, np.ndarray, np.ndarray], np.ndarray | float],
    attentions: list[np.ndarray] | None,
) -> np.ndarray:
    """Attention of (tokens, hidden_size); `added(head, q, k)`, both of that head, joins its scores."""
    mixed, shares = [], []
    for head, (q, k, v) in enumerate(zip(*(np.split(x, heads, axis=1) for x in qkv), strict=True)):
        scores = q @ k.T / math.sqrt(q.shape[1]) + added(head, q, k)
        scores -= scores.max(1, keepdims=True)
        np.exp(scores, out=scores)
        scores /= scores.sum(1, keepdims=True)
        mixed.append(scores @ v)
        shares.append(scores if attentions is not None else None)
    if attentions is not None:
        attentions.append(np.stack(shares))
    return np.concatenate(mixed, 1)


def forward64(
    weights: State,
    heads: int,
    ids: list[int],
    types: list[int] | None = None,
    attentions: list[np.ndarray] | None = None,
    eps: float = 1e-12,
) -> list[np.ndarray]:
    w, layers = _float64(weights)
    x = _norm(w, "embeddings.LayerNorm", _embedded(w, ids, types), eps)
    distance = np.abs(np.subtract.outer(np.arange(len(ids)), np.arange(len(ids)))).astype(np.float64)
    states = [x]
    for layer in layers:
        qkv = np.split(_dense(w, f"{layer}.attention.self.Wqkv", x), 3, axis=1)
        attended = _attend(qkv, heads, lambda head, q, k: -SLOPES[heads][head] * distance, attentions)
        x = _norm(w, f"{layer}.attention.output.LayerNorm", _dense(w, f"{layer}.attention.output.dense", attended) + x, eps)
        gate, value = np.split(x @ w[f"{layer}.mlp.gated_layers.weight"].T, 2, axis=1)
        x = _norm(w, f"{layer}.mlp.layernorm", _dense(w, f"{layer}.mlp.wo", gelu(gate) * value) + x, eps)
        states.append(x)
    return states


def bert_forward64(
    weights: State,
    heads: int,
    ids: list[int],
    types: list[int] | None = None,
    attentions: list[np.ndarray] | None = None,
    eps: float = 1e-12,
) -> list[np.ndarray]:
    w, layers = _float64(weights)
    x = _embedded(w, ids, types) + w["embeddings.position_embeddings.weight"][: len(ids)]
    x = _norm(w, "embeddings.LayerNorm", x, eps)
    states = [x]
    for layer in layers:
        qkv = [_dense(w, f"{layer}.attention.self.{name}", x) for name in ("query", "key", "value")]
        attended = _attend(qkv, heads, lambda head, q, k: 0.0, attentions)
        x = _norm(w, f"{layer}.attention.output.LayerNorm", _dense(w, f"{layer}.attention.output.dense", attended) + x, eps)
        inner = gelu(_dense(w, f"{layer}.intermediate.dense", x))
        x = _norm(w, f"{layer}.output.LayerNorm", _dense(w, f"{layer}.output.dense", inner) + x, eps)
        states.append(x)
    return states


def prokbert_forward64(
    weights: State,
    heads: int,
    ids: list[int],
    types: list[int] | None = None,
    attentions: list[np.ndarray] | None = None,
    eps: float = 1e-12,
) -> list[np.ndarray]:
    w, layers = _float64(weights)
    x = _embedded(w, ids, types)
    i, j = np.indices((len(ids), len(ids)))
    states = []
    for layer in layers:
        states.append(x)
        normed = _norm(w, f"{layer}.attention.ln", x, eps)
        qkv = [_dense(w, f"{layer}.attention.self.{name}", normed) for name in ("query", "key", "value")]
        table = w[f"{layer}.attention.self.distance_embedding.weight"]
        relative = table[i - j + len(table) // 2]  # 2 m - 1 rows, distance 0 in the middle one

        def added(head: int, q: np.ndarray, k: np.ndarray, relative: np.ndarray = relative) -> np.ndarray:
            return ((q[:, None] * relative).sum(2) + (k[None] * relative).sum(2)) / math.sqrt(q.shape[1])

        x = _dense(w, f"{layer}.attention.output.dense", _attend(qkv, heads, added, attentions)) + x
        inner = gelu(_dense(w, f"{layer}.intermediate.dense", _norm(w, f"{layer}.ln", x, eps)))
        x = _dense(w, f"{layer}.output.dense", inner) + x
    return [*states, _norm(w, "encoder.ln", x, eps)]


def logits64(weights: State, hidden: np.ndarray, eps: float = 1e-12) -> np.ndarray:
    """The masked-LM head's logits of (tokens, hidden_size), the same for every architecture."""
    w, _ = _float64(weights)
    x = _norm(w, "cls.predictions.transform.LayerNorm", gelu(_dense(w, "cls.predictions.transform.dense", hidden)), eps)
    return x @ w["embeddings.word_embeddings.weight"].T + w["cls.predictions.decoder.bias"]


def assert_answers(
    out: Any, mask: torch.Tensor, rows: list[list[int]], forward: Callable[..., list[np.ndarray]], atol: float = 1e-5
) -> None:
    """An encoder's hidden states and attentions are those of `forward(row, attentions=…)`, and exact zeros where masked."""
    for i, (row, real) in enumerate(zip(rows, mask == 1, strict=True)):
        shares: list[np.ndarray] = []
        for found, wanted in zip(out.hidden_states, forward(row, attentions=shares), strict=True):
            np.testing.assert_allclose(found[i][real].numpy(), wanted, atol=atol, rtol=1e-4)
            assert torch.all(found[i][~real] == 0)
        for found, wanted in zip(out.attentions, shares, strict=True):
            np.testing.assert_allclose(found[i][:, real][:, :, real].numpy(), wanted, atol=1e-6, rtol=1e-4)
            np.testing.assert_allclose(found[i][:, real].sum(-1).numpy(), 1, atol=1e-5)
            assert torch.all(found[i][:, :, ~real] == 0)
    assert torch.equal(out.hidden_states[-1], out.last_hidden_state)

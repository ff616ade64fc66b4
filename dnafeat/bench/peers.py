"""The other ways to get mean vectors out of such a model, as people write them: what the engine is compared with.

Each is a function from sequences to their mean vectors, (n, hidden_size) float32, in the order they were given. [CLS], [SEP] and padding
are out of the mean, so that all can be held against one reference. The published DNABERT-2 code does not load in transformers 5; its module
is `models.dnabert2.DNABERT2` here, which the tests hold to what that code answered.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import BertConfig, BertModel, PreTrainedTokenizerFast

from dnafeat.encoder.models.base import Config
from dnafeat.encoder.models.dnabert2 import DNABERT2, alibi_slopes

BATCH = 32
Peer = Callable[[Sequence[str]], np.ndarray]
Forward = Callable[[Tensor, Tensor], Tensor]


def load_tokenizer(folder: Path) -> PreTrainedTokenizerFast:
    return PreTrainedTokenizerFast.from_pretrained(str(folder))


def loop(forward: Forward, tokenizer: Any, device: torch.device, *, by_length: bool = False) -> Peer:
    """Batches of 32 in the order of the input, or of falling length, each padded to its longest.

    `forward` takes ids and mask, integers of (batch, tokens), and returns hidden states, (batch, tokens, hidden_size).
    """

    @torch.inference_mode()
    def encode(sequences: Sequence[str]) -> np.ndarray:
        order = sorted(range(len(sequences)), key=lambda i: -len(sequences[i])) if by_length else list(range(len(sequences)))
        parts = []
        for at in range(0, len(order), BATCH):
            texts = [sequences[i] for i in order[at : at + BATCH]]
            batch = tokenizer(texts, padding=True, return_tensors="pt").to(device)
            mask = batch["attention_mask"]
            parts.append(_mean(forward(batch["input_ids"], mask), mask).cpu())
        vectors = torch.cat(parts).float().numpy()
        return vectors[np.argsort(order)]

    return encode


def _mean(hidden: Tensor, mask: Tensor) -> Tensor:
    """Over content: padding is on the right, [CLS] first and [SEP] last."""
    weights = _content(mask)[:, :, None].to(hidden.dtype)
    return (hidden * weights).sum(1) / weights.sum(1)


def _content(mask: Tensor) -> Tensor:
    """The mask, (batch, tokens), without special tokens."""
    content = mask.clone()
    content[:, 0] = 0
    content[torch.arange(len(mask), device=mask.device), mask.sum(1) - 1] = 0
    return content


def padded(model: nn.Module) -> Forward:
    """The model called with its attention mask, in eager mode."""
    return lambda ids, mask: model(ids, mask).last_hidden_state


def unpadded(model: DNABERT2) -> Forward:
    """The scheme of the published DNABERT-2 code without its Triton kernel.

    Linear layers, norms and GELU see real tokens alone; for attention they are put back between padding, and scores, ALiBi bias and
    probabilities are made for the whole padded batch. The result is padded with zeros.
    """
    config = model.config
    heads, size = config.num_attention_heads, config.hidden_size // config.num_attention_heads
    slopes = torch.tensor(alibi_slopes(heads))[:, None, None]

    def forward(ids: Tensor, mask: Tensor) -> Tensor:
        rows, width = ids.shape
        real = mask.flatten().nonzero()[:, 0]
        position = torch.arange(width, device=ids.device)
        alibi = -slopes.to(ids.device) * (position[None, :] - position[:, None]).abs()
        bias = alibi[None] + (1.0 - mask[:, None, None, :].float()) * -10_000.0

        def between_padding(values: Tensor) -> Tensor:
            whole = values.new_zeros(rows * width, values.shape[1])
            whole[real] = values
            return whole.view(rows, width, values.shape[1])

        x = model.embeddings(ids.flatten()[real], None)
        layer: Any
        for layer in model.encoder.layer:
            q, k, v = between_padding(layer.attention.self.Wqkv(x)).view(rows, width, 3, heads, size).permute(2, 0, 3, 1, 4)
            scores = torch.matmul(q, k.transpose(2, 3)) / math.sqrt(size) + bias
            attended = torch.matmul(F.softmax(scores, dim=-1), v).transpose(1, 2).reshape(rows * width, heads * size)
            x = layer.attention.output(attended[real], x)
            x = layer.mlp(x)
        return between_padding(x)

    return forward


def stock_bert(config: Config) -> nn.Module:
    """transformers' own BertModel of the same width and depth, with random weights: for orientation, since it has no gated layer.

    Of DNABERT-2's products it has three quarters, and its positions are a table.
    """
    names = ("vocab_size", "hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size")
    shape = BertConfig(**{name: getattr(config, name) for name in names})
    return BertModel(shape, add_pooling_layer=False).eval()


def sentence_transformer(model: nn.Module, hidden_size: int, tokenizer: Any, device: torch.device) -> Peer:
    """The sentence-transformers library over the padded model: it sorts by length, and pools by itself what the mask has left.

    Raises ImportError where the library is not installed.
    """
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.modules import Pooling

    class Wrapped(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = model

        def tokenize(self, texts: list[str], **_: Any) -> dict[str, Tensor]:
            return dict(tokenizer(list(texts), padding=True, return_tensors="pt"))

        preprocess = tokenize

        def forward(self, features: dict[str, Tensor], **_: Any) -> dict[str, Tensor]:
            states = self.model(features["input_ids"], features["attention_mask"]).last_hidden_state
            return {**features, "token_embeddings": states, "attention_mask": _content(features["attention_mask"])}

    whole = SentenceTransformer(modules=[Wrapped(), Pooling(hidden_size, "mean")], device=str(device))
    return lambda sequences: whole.encode(list(sequences), batch_size=BATCH, show_progress_bar=False)

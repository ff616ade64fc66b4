"""DNABERT-2, natively: a post-LN BERT with ALiBi positions and a gated feed-forward (Zhou et al. 2023, arXiv:2306.15006).

Parameter names are those of the published `pytorch_model.bin`, so its state dict and any LoRA adapter made for it fit as they are.
Positions enter only as -slope·|i-j| (Press et al. 2021, arXiv:2108.12409, made symmetric), so any length can be run and padding may
stand on either side.
"""

from __future__ import annotations

import functools
import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dnafeat.models.base import Config, EncoderOutput, attend, initialise, masked_keys, useful_mask, zero_padding


def alibi_slopes(heads: int) -> list[float]:
    """One slope a head. Head counts that are no power of two take every other slope of the next power for the remainder."""

    def of_power(n: int) -> list[float]:
        first = 2.0 ** (-(2.0 ** -(math.log2(n) - 3)))
        return [first ** (i + 1) for i in range(n)]

    below = 2 ** math.floor(math.log2(heads))
    if below == heads:
        return of_power(heads)
    return of_power(below) + of_power(2 * below)[0::2][: heads - below]


class Embeddings(nn.Module):
    def __init__(self, config: Config) -> None:
        super().__init__()
        self.word_embeddings = nn.Embedding(config.vocab_size, config.hidden_size)
        self.token_type_embeddings = nn.Embedding(config.type_vocab_size, config.hidden_size)
        self.LayerNorm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.dropout = nn.Dropout(config.hidden_dropout_prob)

    def forward(self, input_ids: Tensor, token_type_ids: Tensor | None) -> Tensor:
        # Type 0 everywhere is the usual case and a single row: adding it by broadcast saves one gather of the whole batch.
        types = self.token_type_embeddings.weight[0] if token_type_ids is None else self.token_type_embeddings(token_type_ids)
        return self.dropout(self.LayerNorm(self.word_embeddings(input_ids) + types))


class SelfAttention(nn.Module):
    def __init__(self, config: Config) -> None:
        super().__init__()
        self.heads = config.num_attention_heads
        self.Wqkv = nn.Linear(config.hidden_size, 3 * config.hidden_size)

    def forward(self, x: Tensor, bias: Tensor, weights: bool) -> tuple[Tensor, Tensor | None]:
        batch, tokens, hidden = x.shape
        q, k, v = self.Wqkv(x).view(batch, tokens, 3, self.heads, hidden // self.heads).permute(2, 0, 3, 1, 4)
        out, probabilities = attend(q, k, v, bias.to(q.dtype), 0.0, weights)
        return out.transpose(1, 2).reshape(batch, tokens, hidden), probabilities


class Residual(nn.Module):
    """Dense, dropout, add, LayerNorm: the second half of an attention block."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.dense = nn.Linear(config.hidden_size, config.hidden_size)
        self.LayerNorm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.dropout = nn.Dropout(config.hidden_dropout_prob)

    def forward(self, x: Tensor, residual: Tensor) -> Tensor:
        return self.LayerNorm(self.dropout(self.dense(x)) + residual)


class Attention(nn.Module):
    def __init__(self, config: Config) -> None:
        super().__init__()
        self.self = SelfAttention(config)
        self.output = Residual(config)

    def forward(self, x: Tensor, bias: Tensor, weights: bool) -> tuple[Tensor, Tensor | None]:
        attended, probabilities = self.self(x, bias, weights)
        return self.output(attended, x), probabilities


class GatedMLP(nn.Module):
    """GELU-gated feed-forward: wo(gelu(first half) · second half); the exact (erf) GELU."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.gated_layers = nn.Linear(config.hidden_size, 2 * config.intermediate_size, bias=False)
        self.wo = nn.Linear(config.intermediate_size, config.hidden_size)
        self.layernorm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.dropout = nn.Dropout(config.hidden_dropout_prob)

    def forward(self, x: Tensor) -> Tensor:
        gate, value = self.gated_layers(x).chunk(2, dim=-1)
        return self.layernorm(self.wo(self.dropout(F.gelu(gate) * value)) + x)


class Layer(nn.Module):
    def __init__(self, config: Config) -> None:
        super().__init__()
        self.attention = Attention(config)
        self.mlp = GatedMLP(config)

    def forward(self, x: Tensor, bias: Tensor, weights: bool) -> tuple[Tensor, Tensor | None]:
        attended, probabilities = self.attention(x, bias, weights)
        return self.mlp(attended), probabilities


class LayerStack(nn.Module):
    def __init__(self, config: Config) -> None:
        super().__init__()
        self.layer = nn.ModuleList(Layer(config) for _ in range(config.num_hidden_layers))


class DNABERT2(nn.Module):
    """The encoder: token ids to hidden states.

    `forward` takes integer tensors of shape (batch, tokens); `attention_mask` is 1 for real tokens, on either side of the padding,
    `token_type_ids` are 0 unless given. Returns `EncoderOutput`.
    """

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.config = config
        self.embeddings = Embeddings(config)
        self.encoder = LayerStack(config)
        self.apply(functools.partial(initialise, std=config.initializer_range))

    def attention_bias(self, x: Tensor, attention_mask: Tensor | None) -> Tensor:
        """(1 or batch, heads, tokens, tokens): ALiBi, and the most negative number at masked keys."""
        position = torch.arange(x.shape[1], device=x.device)
        distance = (position[None, :] - position[:, None]).abs()
        slopes = torch.tensor(alibi_slopes(self.config.num_attention_heads), device=x.device)
        return masked_keys((-slopes[:, None, None] * distance)[None].to(x.dtype), attention_mask)

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        token_type_ids: Tensor | None = None,
        output_hidden_states: bool = False,
        output_attentions: bool = False,
    ) -> EncoderOutput:
        mask = useful_mask(attention_mask)
        x = self.embeddings(input_ids, token_type_ids)
        bias = self.attention_bias(x, mask)
        states, attentions = [zero_padding(x, mask)] if output_hidden_states else [], []
        for layer in self.encoder.layer:
            x, probabilities = layer(x, bias, output_attentions)
            if output_hidden_states:
                states.append(zero_padding(x, mask))
            if output_attentions:
                attentions.append(probabilities)
        last = states[-1] if output_hidden_states else zero_padding(x, mask)
        return EncoderOutput(last, tuple(states) or None, tuple(attentions) or None)

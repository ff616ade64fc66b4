"""DNABERT-2, natively: a post-LN BERT with ALiBi positions and a gated feed-forward (Zhou et al. 2023, arXiv:2306.15006).

Parameter names are those of the published `pytorch_model.bin`, so its state dict and any LoRA adapter made for it fit as they are.
Positions enter only as -slope·|i-j| (Press et al. 2021, arXiv:2108.12409, made symmetric), so any length can be run and padding may
stand on either side.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dnafeat.encoder.models.base import (
    Config,
    EncoderOutput,
    attend,
    attend_unmasked,
    initialise,
    masked_keys,
    useful_mask,
    zero_padding,
)
from dnafeat.encoder.models.products import Product


def alibi_slopes(heads: int) -> list[float]:
    """One slope a head. Head counts that are no power of two take every other slope of the next power for the remainder."""

    def of_power(n: int) -> list[float]:
        first = 2.0 ** (-(2.0 ** -(math.log2(n) - 3)))
        return [first ** (i + 1) for i in range(n)]

    below = 2 ** math.floor(math.log2(heads))
    if below == heads:
        return of_power(heads)
    return of_power(below) + of_power(2 * below)[0::2][: heads - below]


class DNABERT2Embeddings(nn.Module):
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


# What attention does with q, k and v, (…, tokens, 3 · hidden_size): the attended values, and on request probabilities.
Attend = Callable[[Tensor], tuple[Tensor, Tensor | None]]


class DNABERT2SelfAttention(nn.Module):
    def __init__(self, config: Config) -> None:
        super().__init__()
        self.Wqkv = nn.Linear(config.hidden_size, 3 * config.hidden_size)

    def forward(self, x: Tensor, attention: Attend) -> tuple[Tensor, Tensor | None]:
        return attention(self.Wqkv(x))


def add_norm(x: Tensor, residual: Tensor, weight: Tensor, bias: Tensor, eps: float) -> Tensor:
    return F.layer_norm(x + residual, weight.shape, weight, bias, eps)


def gate(both: Tensor) -> Tensor:
    """gelu(first half) · second half, the exact (erf) GELU."""
    first, second = both.chunk(2, dim=-1)
    return F.gelu(first) * second


class DNABERT2Residual(nn.Module):
    """Dense, dropout, add, LayerNorm: the second half of an attention block."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.dense = nn.Linear(config.hidden_size, config.hidden_size)
        self.LayerNorm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.dropout = nn.Dropout(config.hidden_dropout_prob)
        self.add_norm = add_norm

    def forward(self, x: Tensor, residual: Tensor) -> Tensor:
        norm = self.LayerNorm
        if isinstance(self.dense, Product):
            return norm(self.dense.plus(x, residual))
        return self.add_norm(self.dropout(self.dense(x)), residual, norm.weight, norm.bias, norm.eps)


class DNABERT2Attention(nn.Module):
    def __init__(self, config: Config) -> None:
        super().__init__()
        self.self = DNABERT2SelfAttention(config)
        self.output = DNABERT2Residual(config)

    def forward(self, x: Tensor, attention: Attend) -> tuple[Tensor, Tensor | None]:
        attended, probabilities = self.self(x, attention)
        return self.output(attended, x), probabilities


class GatedMLP(nn.Module):
    """GELU-gated feed-forward: wo(gelu(first half) · second half)."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.gated_layers = nn.Linear(config.hidden_size, 2 * config.intermediate_size, bias=False)
        self.wo = nn.Linear(config.intermediate_size, config.hidden_size)
        self.layernorm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.dropout = nn.Dropout(config.hidden_dropout_prob)
        self.gate, self.add_norm = gate, add_norm
        # A kernel for product and gate at once.
        self.gated_product: Callable[[Tensor, Tensor], Tensor] | None = None

    def forward(self, x: Tensor) -> Tensor:
        norm, product = self.layernorm, self.gated_product
        h = self.gate(self.gated_layers(x)) if product is None else product(x, self.gated_layers.weight)
        return self.add_norm(self.wo(self.dropout(h)), x, norm.weight, norm.bias, norm.eps)


class FusedMLP(nn.Module):
    """The same of packed products, the two halves of the gate apart, so that GELU, product and sum are done on the way out of them."""

    def __init__(self, mlp: GatedMLP) -> None:
        super().__init__()
        first, second = mlp.gated_layers.weight.chunk(2)
        self.first, self.second, self.wo = Product(first, None), Product(second, None), Product(mlp.wo.weight, mlp.wo.bias)
        self.layernorm = mlp.layernorm

    def forward(self, x: Tensor) -> Tensor:
        return self.layernorm(self.wo.plus(self.second.times(x, self.first.gelu(x)), x))


class DNABERT2Layer(nn.Module):
    def __init__(self, config: Config) -> None:
        super().__init__()
        self.attention = DNABERT2Attention(config)
        self.mlp: nn.Module = GatedMLP(config)

    def forward(self, x: Tensor, attention: Attend) -> tuple[Tensor, Tensor | None]:
        attended, probabilities = self.attention(x, attention)
        return self.mlp(attended), probabilities


class DNABERT2LayerStack(nn.Module):
    def __init__(self, config: Config) -> None:
        super().__init__()
        self.layer = nn.ModuleList(DNABERT2Layer(config) for _ in range(config.num_hidden_layers))


class DNABERT2(nn.Module):
    """The encoder: token ids to hidden states.

    `forward` takes integer tensors of shape (batch, tokens); `attention_mask` is 1 for real tokens, on either side of the padding,
    `token_type_ids` are 0 unless given. Returns `EncoderOutput`.
    """

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.config = config
        self.embeddings = DNABERT2Embeddings(config)
        self.encoder = DNABERT2LayerStack(config)
        # A kernel in the place of `plain_attention_over`.
        self.attention_over: Callable[[Sequence[tuple[int, int]], int, Tensor], Callable[[Tensor], Tensor]] | None = None
        self.apply(functools.partial(initialise, std=config.initializer_range))

    def alibi(self, x: Tensor, tokens: int) -> Tensor:
        """(1, heads, tokens, tokens), of the type and on the device of `x`."""
        position = torch.arange(tokens, device=x.device)
        distance = (position[None, :] - position[:, None]).abs()
        slopes = torch.tensor(alibi_slopes(self.config.num_attention_heads), device=x.device)
        return (-slopes[:, None, None] * distance)[None].to(x.dtype)

    def _heads(self, qkv: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """q, k and v, each (batch, heads, tokens, size), of (batch, tokens, 3 · hidden_size)."""
        batch, tokens, width = qkv.shape
        heads = self.config.num_attention_heads
        q, k, v = qkv.view(batch, tokens, 3, heads, width // (3 * heads)).permute(2, 0, 3, 1, 4)
        return q, k, v

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
        bias = masked_keys(self.alibi(x, x.shape[1]), mask)

        def attention(qkv: Tensor) -> tuple[Tensor, Tensor | None]:
            out, probabilities = attend(*self._heads(qkv), bias.to(qkv.dtype), 0.0, output_attentions)
            return out.transpose(1, 2).flatten(2), probabilities

        states, attentions = [zero_padding(x, mask)] if output_hidden_states else [], []
        for layer in self.encoder.layer:
            x, probabilities = layer(x, attention)
            if output_hidden_states:
                states.append(zero_padding(x, mask))
            if output_attentions:
                attentions.append(probabilities)
        last = states[-1] if output_hidden_states else zero_padding(x, mask)
        return EncoderOutput(last, tuple(states) or None, tuple(attentions) or None)

    def plain_attention_over(self, runs: Sequence[tuple[int, int]], x: Tensor) -> Callable[[Tensor], Tensor]:
        """Attention within each sequence, those of one length together: from (total, 3 · hidden_size) to (total, hidden_size)."""
        bias = self.alibi(x, max(length for _, length in runs))

        def attend_runs(qkv: Tensor) -> Tensor:
            out, at = qkv.new_empty(len(qkv), qkv.shape[1] // 3), 0
            for count, length in runs:
                q, k, v = self._heads(qkv[at : at + count * length].view(count, length, -1))
                part = attend_unmasked(q, k, v, bias[:, :, :length, :length])
                out[at : at + count * length].view(count, length, *part.shape[1::2]).copy_(part.transpose(1, 2))
                at += count * length
            return out

        return attend_runs

    def ragged(self, input_ids: Tensor, runs: Sequence[tuple[int, int]], first: int = -1, last: int = -1) -> Tensor:
        """Hidden states of sequences that lie end to end, without padding: (total, hidden_size), for integers (total,).

        Parameters
        ----------
        runs : sequence of (int, int)
            How many sequences there are next to one another of a length, and that length in tokens.
        first, last : int
            The mean of the states from `first` to `last`, 0 being the embeddings; layers behind `last` are not computed. -1: the last.
        """
        layers = len(self.encoder.layer)
        first, last = (layers if number < 0 else number for number in (first, last))
        x = self.embeddings(input_ids, None)
        if self.attention_over is not None:
            attend_runs = self.attention_over(runs, self.config.num_attention_heads, x)
        else:
            attend_runs = self.plain_attention_over(runs, x)

        def attention(qkv: Tensor) -> tuple[Tensor, None]:
            return attend_runs(qkv), None

        total = x if first == 0 else None
        for number, layer in enumerate(self.encoder.layer[:last], 1):
            x, _ = layer(x, attention)
            if first <= number and first < last:
                total = x.float() if total is None else total + x
        return x if total is None or first == last else total / (last - first + 1)

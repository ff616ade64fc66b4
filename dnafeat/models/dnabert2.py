"""DNABERT-2, natively: a post-LN BERT with ALiBi positions and a gated feed-forward (Zhou et al. 2023, arXiv:2306.15006).

Parameter names are those of the published `pytorch_model.bin`, so its state dict and any LoRA adapter made for it fit as they are.
Positions enter only as -slope·|i-j| (Press et al. 2021, arXiv:2108.12409, made symmetric), so any length can be run and padding may
stand on either side.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F


@dataclass(frozen=True, kw_only=True)
class Config:
    """The fields of `config.json` that shape the network; everything else in that file is ignored."""

    vocab_size: int
    hidden_size: int
    num_hidden_layers: int
    num_attention_heads: int
    intermediate_size: int
    type_vocab_size: int = 2
    layer_norm_eps: float = 1e-12
    hidden_dropout_prob: float = 0.1
    initializer_range: float = 0.02


class EncoderOutput(NamedTuple):
    """`last_hidden_state` (batch, tokens, hidden_size), zeros where masked; on request `hidden_states`, embeddings first."""

    last_hidden_state: Tensor
    hidden_states: tuple[Tensor, ...] | None = None


class MaskedLMOutput(NamedTuple):
    """`logits` (batch, tokens, vocab_size)."""

    logits: Tensor


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

    def forward(self, x: Tensor, bias: Tensor) -> Tensor:
        batch, tokens, hidden = x.shape
        q, k, v = self.Wqkv(x).view(batch, tokens, 3, self.heads, hidden // self.heads).permute(2, 0, 3, 1, 4)
        out = F.scaled_dot_product_attention(q, k, v, attn_mask=bias.to(q.dtype))
        return out.transpose(1, 2).reshape(batch, tokens, hidden)


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

    def forward(self, x: Tensor, bias: Tensor) -> Tensor:
        return self.output(self.self(x, bias), x)


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

    def forward(self, x: Tensor, bias: Tensor) -> Tensor:
        return self.mlp(self.attention(x, bias))


class LayerStack(nn.Module):
    def __init__(self, config: Config) -> None:
        super().__init__()
        self.layer = nn.ModuleList(Layer(config) for _ in range(config.num_hidden_layers))


class DNABERT2(nn.Module):
    """The encoder: token ids to hidden states.

    `forward(input_ids, attention_mask=None, token_type_ids=None, output_hidden_states=False)` takes integer tensors of shape
    (batch, tokens); `attention_mask` is 1 for real tokens, on either side of the padding. Returns `EncoderOutput`.
    """

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.config = config
        self.embeddings = Embeddings(config)
        self.encoder = LayerStack(config)
        self.apply(self._initialise)

    def _initialise(self, module: nn.Module) -> None:
        if isinstance(module, nn.Linear | nn.Embedding):
            nn.init.normal_(module.weight, std=self.config.initializer_range)
        if isinstance(module, nn.Linear) and module.bias is not None:
            nn.init.zeros_(module.bias)

    def attention_bias(self, x: Tensor, attention_mask: Tensor | None) -> Tensor:
        """(1 or batch, heads, tokens, tokens): ALiBi, and the most negative number at masked keys.

        The published code adds -10000 there, which ALiBi itself passes beyond 20,000 tokens at slope 0.5; the least finite
        number gives the same exact zeros after the softmax and has no such limit.
        """
        position = torch.arange(x.shape[1], device=x.device)
        distance = (position[None, :] - position[:, None]).abs()
        slopes = torch.tensor(alibi_slopes(self.config.num_attention_heads), device=x.device)
        bias = (-slopes[:, None, None] * distance)[None].to(x.dtype)
        if attention_mask is None:
            return bias
        return bias.masked_fill(attention_mask[:, None, None, :] == 0, torch.finfo(x.dtype).min)

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        token_type_ids: Tensor | None = None,
        output_hidden_states: bool = False,
    ) -> EncoderOutput:
        # Without padding the bias is one matrix a head, shared by the whole batch.
        if attention_mask is not None and bool((attention_mask != 0).all()):
            attention_mask = None
        real = None if attention_mask is None else (attention_mask != 0)[:, :, None]

        def shown(x: Tensor) -> Tensor:
            return x if real is None else x.masked_fill(~real, 0.0)

        x = self.embeddings(input_ids, token_type_ids)
        bias = self.attention_bias(x, attention_mask)
        states = [shown(x)] if output_hidden_states else []
        for layer in self.encoder.layer:
            x = layer(x, bias)
            if output_hidden_states:
                states.append(shown(x))
        return EncoderOutput(shown(x), tuple(states) if output_hidden_states else None)


class Transform(nn.Module):
    def __init__(self, config: Config) -> None:
        super().__init__()
        self.dense = nn.Linear(config.hidden_size, config.hidden_size)
        self.LayerNorm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)

    def forward(self, x: Tensor) -> Tensor:
        return self.LayerNorm(F.gelu(self.dense(x)))


class Predictions(nn.Module):
    def __init__(self, config: Config) -> None:
        super().__init__()
        self.transform = Transform(config)
        self.decoder = nn.Linear(config.hidden_size, config.vocab_size)

    def forward(self, x: Tensor) -> Tensor:
        return self.decoder(self.transform(x))


class MaskedLMHead(nn.Module):
    def __init__(self, config: Config) -> None:
        super().__init__()
        self.predictions = Predictions(config)


class DNABERT2ForMaskedLM(nn.Module):
    """The encoder with its masked-LM head, keys as in the published file; the decoder's weight is the word embedding itself."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.bert = DNABERT2(config)
        self.cls = MaskedLMHead(config)
        self.cls.predictions.apply(self.bert._initialise)
        self.cls.predictions.decoder.weight = self.bert.embeddings.word_embeddings.weight

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        token_type_ids: Tensor | None = None,
        positions: Tensor | None = None,
    ) -> MaskedLMOutput:
        """`positions`, a boolean (batch, tokens), asks for the logits there only, as (chosen, vocab_size)."""
        hidden = self.bert(input_ids, attention_mask, token_type_ids).last_hidden_state
        return MaskedLMOutput(self.cls.predictions(hidden if positions is None else hidden[positions]))

"""ProkBERT: a pre-LN MegatronBERT with relative positions in keys and queries (Ligeti et al. 2024; Huang et al. 2020, arXiv:2009.13658).

transformers 5 no longer computes `position_embedding_type: relative_key_query` and says nothing about it; this is what version 4.49
computed. The table of absolute positions stands in the published file and is not added.
"""

from __future__ import annotations

import functools
import math

from torch import Tensor, nn
from torch.nn import functional as F

from dnafeat.encoder.models.base import (
    EncoderOutput,
    PositionedConfig,
    attend,
    check_length,
    initialise,
    masked_keys,
    useful_mask,
    zero_padding,
)


class ProkBERTEmbeddings(nn.Module):
    def __init__(self, config: PositionedConfig) -> None:
        super().__init__()
        self.word_embeddings = nn.Embedding(config.vocab_size, config.hidden_size)
        self.position_embeddings = nn.Embedding(config.max_position_embeddings, config.hidden_size)
        self.token_type_embeddings = nn.Embedding(config.type_vocab_size, config.hidden_size)
        self.dropout = nn.Dropout(config.hidden_dropout_prob)

    def forward(self, input_ids: Tensor, token_type_ids: Tensor | None) -> Tensor:
        types = self.token_type_embeddings.weight[0] if token_type_ids is None else self.token_type_embeddings(token_type_ids)
        return self.dropout(self.word_embeddings(input_ids) + types)


class ProkBERTSelfAttention(nn.Module):
    def __init__(self, config: PositionedConfig) -> None:
        super().__init__()
        self.heads, self.size = config.num_attention_heads, config.hidden_size // config.num_attention_heads
        self.positions, self.dropout = config.max_position_embeddings, config.attention_probs_dropout_prob
        self.query = nn.Linear(config.hidden_size, config.hidden_size)
        self.key = nn.Linear(config.hidden_size, config.hidden_size)
        self.value = nn.Linear(config.hidden_size, config.hidden_size)
        self.distance_embedding = nn.Embedding(2 * config.max_position_embeddings - 1, self.size)

    def relative(self, q: Tensor, k: Tensor) -> Tensor:
        """(q_i·E[i-j] + k_j·E[i-j]) / sqrt(size), as (batch, heads, tokens i, tokens j).

        One product with the 2n-1 distances that occur, then a skewed view of it: nothing of the shape (n, n, size) is made.
        """
        batch, heads, n, _ = q.shape
        table = self.distance_embedding.weight[self.positions - n : self.positions + n - 1]  # distances -(n-1) to n-1
        # The views below count on this layout; the products have it already, whatever q's and k's is.
        by_query = (q @ table.flip(0).T).contiguous()  # [i, j - i + n-1]
        by_key = (k @ table.T).contiguous()  # [j, i - j + n-1]
        outer = (heads * n * (2 * n - 1), n * (2 * n - 1))
        shape = (batch, heads, n, n)
        of_query = by_query.as_strided(shape, (*outer, 2 * n - 2, 1), by_query.storage_offset() + n - 1)
        of_key = by_key.as_strided(shape, (*outer, 1, 2 * n - 2), by_key.storage_offset() + n - 1)
        return (of_query + of_key) / math.sqrt(self.size)

    def forward(self, x: Tensor, attention_mask: Tensor | None, weights: bool) -> tuple[Tensor, Tensor | None]:
        batch, tokens, hidden = x.shape
        split = (batch, tokens, self.heads, self.size)
        q, k, v = (project(x).view(split).transpose(1, 2) for project in (self.query, self.key, self.value))
        bias = masked_keys(self.relative(q, k), attention_mask)
        out, probabilities = attend(q, k, v, bias, self.dropout if self.training else 0.0, weights)
        return out.transpose(1, 2).reshape(batch, tokens, hidden), probabilities


class ProkBERTResidual(nn.Module):
    """Dense, dropout, add: without a norm, which stands before each block here."""

    def __init__(self, inner: int, config: PositionedConfig) -> None:
        super().__init__()
        self.dense = nn.Linear(inner, config.hidden_size)
        self.dropout = nn.Dropout(config.hidden_dropout_prob)

    def forward(self, x: Tensor, residual: Tensor) -> Tensor:
        return residual + self.dropout(self.dense(x))


class ProkBERTAttention(nn.Module):
    def __init__(self, config: PositionedConfig) -> None:
        super().__init__()
        self.ln = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.self = ProkBERTSelfAttention(config)
        self.output = ProkBERTResidual(config.hidden_size, config)

    def forward(self, x: Tensor, attention_mask: Tensor | None, weights: bool) -> tuple[Tensor, Tensor | None]:
        attended, probabilities = self.self(self.ln(x), attention_mask, weights)
        return self.output(attended, x), probabilities


class Intermediate(nn.Module):
    def __init__(self, config: PositionedConfig) -> None:
        super().__init__()
        self.dense = nn.Linear(config.hidden_size, config.intermediate_size)

    def forward(self, x: Tensor) -> Tensor:
        return F.gelu(self.dense(x))


class ProkBERTLayer(nn.Module):
    def __init__(self, config: PositionedConfig) -> None:
        super().__init__()
        self.attention = ProkBERTAttention(config)
        self.ln = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.intermediate = Intermediate(config)
        self.output = ProkBERTResidual(config.intermediate_size, config)

    def forward(self, x: Tensor, attention_mask: Tensor | None, weights: bool) -> tuple[Tensor, Tensor | None]:
        x, probabilities = self.attention(x, attention_mask, weights)
        return self.output(self.intermediate(self.ln(x)), x), probabilities


class ProkBERTLayerStack(nn.Module):
    def __init__(self, config: PositionedConfig) -> None:
        super().__init__()
        self.layer = nn.ModuleList(ProkBERTLayer(config) for _ in range(config.num_hidden_layers))
        self.ln = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)


class ProkBERT(nn.Module):
    """The encoder: token ids to hidden states, called and answering like `DNABERT2`. The last hidden state is behind the last norm."""

    def __init__(self, config: PositionedConfig) -> None:
        super().__init__()
        self.config = config
        self.embeddings = ProkBERTEmbeddings(config)
        self.encoder = ProkBERTLayerStack(config)
        self.apply(functools.partial(initialise, std=config.initializer_range))

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        token_type_ids: Tensor | None = None,
        output_hidden_states: bool = False,
        output_attentions: bool = False,
    ) -> EncoderOutput:
        check_length(input_ids, self.config.max_position_embeddings)
        mask = useful_mask(attention_mask)
        x = self.embeddings(input_ids, token_type_ids)
        states, attentions = [], []
        for layer in self.encoder.layer:
            if output_hidden_states:
                states.append(zero_padding(x, mask))
            x, probabilities = layer(x, mask, output_attentions)
            if output_attentions:
                attentions.append(probabilities)
        last = zero_padding(self.encoder.ln(x), mask)
        return EncoderOutput(last, (*states, last) if output_hidden_states else None, tuple(attentions) or None)
